"""Maps side by side with what research code does: hidden attention of Mamba and of Mamba-2.

    python -m benchmarks

Processor seconds on one thread (medians of interleaved
runs; what else the machine does hardly shows in them), error against float64 relative to the
largest entry, and the ratio of each method's seconds to ours.
"""

from pathlib import Path
from statistics import median
from time import process_time

import torch
from torch import Tensor
from transformers.models.mamba2.modeling_mamba2 import segment_sum

import dsf
from benchmarks.limits import LONG
from benchmarks.peers import mamba_selective_scan
from benchmarks.row_statistics import memory
from dsf.mixers import SelectiveStateSpace, StateSpaceDuality


def selective(channels: int, tokens: int, states: int = 16) -> SelectiveStateSpace:
    """Mamba at initialisation: poles -1 ... -N, steps of 0.001 to 0.1."""
    rng = torch.Generator().manual_seed(0)
    exponent = torch.rand(tokens, channels, generator=rng) * 2 - 3
    return SelectiveStateSpace(
        value=torch.zeros(()).expand(tokens, channels),
        step=10**exponent,
        pole=-torch.arange(1.0, states + 1).expand(channels, states),
        write=torch.randn(tokens, states, generator=rng),
        read=torch.randn(tokens, states, generator=rng),
    )


def duality(heads: int, tokens: int, states: int = 128) -> StateSpaceDuality:
    """Mamba-2 at initialisation: poles -1 ... -16, steps of 0.001 to 0.1."""
    rng = torch.Generator().manual_seed(0)
    exponent = torch.rand(heads, 1, generator=rng) * 2 - 3
    return StateSpaceDuality(
        value=torch.zeros(()).expand(heads, tokens, 1),
        step=10**exponent * (0.5 + torch.rand(heads, tokens, generator=rng)),
        pole=-(1 + 15 * torch.rand(heads, generator=rng)),
        write=torch.randn(1, tokens, states, generator=rng),
        read=torch.randn(1, tokens, states, generator=rng),
    )


def triple_loop(mixer: SelectiveStateSpace) -> Tensor:
    """The formula of hidden attention as it stands: decays multiplied for every pair of tokens."""
    step, pole = mixer.step, mixer.pole
    tokens, channels = step.shape
    decay = (step[..., None] * pole).exp()
    drive = step[..., None] * mixer.write[:, None]
    map = step.new_zeros(channels, tokens, tokens)
    for i in range(tokens):
        for j in range(i + 1):
            passed = torch.ones_like(pole)
            for k in range(j + 1, i + 1):
                passed = passed * decay[k]
            map[:, i, j] = (mixer.read[i] * passed * drive[j]).sum(dim=-1)
    return map


def dense_logarithms(mixer: SelectiveStateSpace) -> Tensor:
    """Exponentials of differences of the cumulative log decay, for every pair and state."""
    total = (mixer.step.mT[..., None] * mixer.pole[:, None]).cumsum(dim=1)
    tokens = total.shape[1]
    ahead = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    maps = []
    for channel, step in zip(total, mixer.step.mT, strict=True):
        between = (channel[:, None] - channel).masked_fill_(ahead[..., None], -torch.inf).exp_()
        drive = step[:, None] * mixer.write
        maps.append(torch.einsum("in,ijn,jn->ij", mixer.read, between, drive))
    return torch.stack(maps)


def differences(mixer: StateSpaceDuality) -> Tensor:
    """The same for one decay a head, as the model library forms a chunk."""
    total = (mixer.step * mixer.pole[:, None]).cumsum(dim=-1)
    tokens = total.shape[-1]
    ahead = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    between = (total[:, :, None] - total[:, None]).masked_fill(ahead, -torch.inf).exp()
    return between * (mixer.read @ mixer.write.mT) * mixer.step[:, None]


def probed(mixer: SelectiveStateSpace) -> Tensor:
    """Columns of the map as responses of the library's path to one impulse for every token."""
    tokens, channels = mixer.step.shape
    impulses = torch.eye(tokens)[:, None].expand(tokens, channels, tokens)
    parts = (part.mT.expand(tokens, -1, -1) for part in (mixer.step, mixer.write, mixer.read))
    step, write, read = parts
    return mamba_selective_scan(impulses, step, mixer.pole, write, read).permute(1, 2, 0)


def segment_sums(mixer: StateSpaceDuality) -> Tensor:
    """The same over all tokens, with the library's sums of every segment."""
    between = segment_sum(mixer.step * mixer.pole[:, None]).exp_()
    return between.mul_(mixer.read @ mixer.write.mT).mul_(mixer.step[:, None])


def exact(mixer: SelectiveStateSpace | StateSpaceDuality, entry: int) -> Tensor:
    """One map of the batch in float64, by exponentials of differences summed in float64."""
    if isinstance(mixer, StateSpaceDuality):
        step, pole = mixer.step[entry, :, None].double(), mixer.pole[entry, None].double()
        write, read = mixer.write[0].double(), mixer.read[0].double()
        total = (step * pole).cumsum(dim=0)
        between = (total - total.mT).tril().exp().tril()
        return between * (read @ write.mT) * step.mT
    step, pole = mixer.step[:, entry, None].double(), mixer.pole[entry].double()
    total = (step * pole).cumsum(dim=0)
    between = (total[:, None] - total).clamp(max=0).exp()
    write, read = mixer.write.double() * step, mixer.read.double()
    return torch.einsum("in,ijn,jn->ij", read, between, write).tril()


def error(map: Tensor, mixer: SelectiveStateSpace | StateSpaceDuality) -> float:
    """Largest error of the first and the last map of the batch, over the largest entry."""
    found = []
    for entry in (0, len(map) - 1):
        wanted = exact(mixer, entry)
        found.append(((map[entry] - wanted).abs().max() / wanted.abs().max()).item())
    return max(found)


def ours(mixer: SelectiveStateSpace | StateSpaceDuality):
    """Into memory that is used again."""
    system = mixer.system()
    out = torch.empty(*system.batch, system.steps, system.steps)
    return lambda: dsf.attention_map(system, out=out)


def compared(case: str, mixer, others: dict, repeats: int) -> list[dict]:
    """All methods on one mixer, interleaved."""
    methods = {"dsf": ours(mixer), "dsf, fresh memory": lambda: dsf.attention_map(mixer.system())}
    methods |= {name: lambda make=make: make(mixer) for name, make in others.items()}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    errors = {}
    methods["dsf"]()  # compiles
    for round in range(repeats):
        for name, make in methods.items():
            if round and name in others and median(seconds[name]) > LONG:
                continue
            begun = process_time()
            map = make()
            seconds[name].append(process_time() - begun)
            errors[name] = error(map, mixer)
            del map  # or the next method is charged for giving this memory back
    mine = median(seconds["dsf"])
    return [
        {
            "case": case,
            "method": name,
            "seconds": median(seconds[name]),
            "error": errors[name],
            "ratio": median(seconds[name]) / mine,
        }
        for name in methods
    ]


def by_blocks(channels: int, tokens: int) -> list[dict]:
    """A layer of mamba-130m whose whole map would take 26 GB, a few rows at a time."""
    system = selective(channels, tokens).system()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = memory("VmRSS")
    begun = process_time()
    seen = sum(len(block.written) for block in dsf.evaluate.row_blocks(system, overwrites=True))
    taken = process_time() - begun
    assert seen == tokens
    return [
        {
            "case": f"S6 map {channels} x {tokens} by blocks of rows",
            "method": "dsf",
            "seconds": taken,
            "error": 0.0,
            "ratio": 1.0,
            "memory_gb": memory("VmHWM") - before,
        }
    ]


def selective_maps() -> list[dict]:
    """Mamba: all channels of a layer and few tokens; few channels and many tokens."""
    rows = by_blocks(1536, 2048)
    others = {"triple loop": triple_loop, "probing the library's path": probed}
    rows += compared("S6 map 1536 x 64", selective(1536, 64), others, 3)
    rows += compared("S6 map 1536 x 128", selective(1536, 128), {"triple loop": triple_loop}, 3)
    others = {"cumulative logarithm": dense_logarithms}
    return rows + compared("S6 map 64 x 1024", selective(64, 1024), others, 3)


def duality_maps() -> list[dict]:
    """Mamba-2: 24 heads of one group."""
    others = {"exponential of differences": differences, "segment sums": segment_sums}
    return compared("SSD map 24 x 4096", duality(24, 4096), others, 3)
