"""Statistics of maps in one pass against making the map first, and at lengths no map fits.

    python -m benchmarks

Processor seconds on one thread, the largest
difference from the exact pass where that was made, and the ratio to ours. At long
lengths also the share of the map that was visited and the memory beyond the inputs.
"""

from functools import partial
from pathlib import Path
from time import process_time

import torch

import dsf
from dsf import measures
from dsf.mixers import SoftmaxAttention, StateSpaceDuality

HEADS, STATES, ERROR = 24, 128, 1e-6
FEWER = 32  # states at great lengths: a million tokens of 128 are a gigabyte of coefficients
MEASURES = (
    measures.negative_share,
    measures.row_entropy,
    measures.mean_distance,
    partial(measures.window_mass, width=64),
    measures.absolute_gain,
)


def layer(tokens: int, states: int = STATES) -> StateSpaceDuality:
    """Random coefficients of the shape of Mamba-2; half-lives of 0.5 to 63 tokens."""
    rng = torch.Generator().manual_seed(0)
    vectors = [torch.randn(1, tokens, states, generator=rng) * states**-0.5 for _ in range(2)]
    return StateSpaceDuality(
        value=torch.zeros(()).expand(HEADS, tokens, 1),
        step=0.5 + torch.rand(HEADS, tokens, generator=rng),
        pole=-torch.log(torch.tensor(2.0)) / torch.logspace(-0.3, 1.8, HEADS),
        write=vectors[0],
        read=vectors[1],
    )


def memory(field: str) -> float:
    """Of this process, in GB."""
    with open("/proc/self/status", encoding="ascii") as report:
        return next(int(line.split()[1]) / 1e6 for line in report if line.startswith(field))


def timed(work):
    begun = process_time()
    return work(), process_time() - begun


def materialised(mixer: StateSpaceDuality) -> tuple[torch.Tensor, ...]:
    """The map by exponentials of differences, then every measure of it."""
    total = (mixer.step * mixer.pole[:, None]).cumsum(dim=-1)
    between = (total[:, :, None] - total[:, None]).tril().exp().tril()
    map = between * (mixer.read @ mixer.write.mT) * mixer.step[:, None]
    return tuple(measure(map) for measure in MEASURES)


def at_4096() -> list[dict]:
    """Exact, against the map that fits."""
    case, mixer = "statistics 24 x 4096", layer(4096)
    system = mixer.system()
    measures.streamed(system, *MEASURES)  # compiles
    ours, seconds = min(
        (timed(lambda: measures.streamed(system, *MEASURES)) for _ in range(3)),
        key=lambda each: each[1],
    )
    theirs, longer = timed(lambda: materialised(mixer))
    map = dsf.attention_map(system)  # exponentials of differences are off by 1e-4 themselves
    exact = tuple(measure(map) for measure in MEASURES)
    found = rows_of(case, ours.values, exact, seconds, longer)
    found[1]["error"] = rows_of(case, theirs, exact, seconds, longer)[0]["error"]
    return found


def long(tokens: int) -> dict:
    """With skipping; against the exact pass up to 16,384 tokens."""
    system = layer(tokens, FEWER).system()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = memory("VmRSS")
    found, seconds = timed(lambda: measures.streamed(system, *MEASURES, error=ERROR))
    row = {
        "case": f"statistics 24 x {tokens}, {FEWER} states",
        "method": "dsf",
        "seconds": seconds,
        "error": float(torch.as_tensor(found.left_out).max()),
        "ratio": 1.0,
        "visited": found.visited,
        "memory_gb": memory("VmHWM") - before,
    }
    if tokens <= 16_384:
        exact, longer = timed(lambda: measures.streamed(system, *MEASURES))
        row["ratio"] = longer / seconds
        row["seen"] = max(
            ((a - b).abs().max() / b.abs().max()).item()
            for a, b in zip(found.values, exact.values, strict=True)
        )
    return row


def softmax(tokens: int, *, heads: int = 16, width: int = 64) -> list[dict]:
    """The same of softmax attention, against its map as a whole."""
    rng = torch.Generator().manual_seed(0)
    parts = [torch.randn(heads, tokens, width, generator=rng) for _ in range(3)]
    query, key, value = parts
    system = SoftmaxAttention(query=query, key=key, value=value).system()

    def eager() -> tuple[torch.Tensor, ...]:
        scores = query @ key.mT * width**-0.5
        ahead = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        map = scores.masked_fill(ahead, -torch.inf).softmax(dim=-1)
        return tuple(measure(map) for measure in MEASURES)

    ours, seconds = timed(lambda: measures.streamed(system, *MEASURES))
    theirs, longer = timed(eager)
    case = f"statistics of softmax {heads} x {tokens}"
    return rows_of(case, ours.values, theirs, seconds, longer)


def rows_of(case: str, ours: tuple, theirs: tuple, seconds: float, longer: float) -> list[dict]:
    """Ours beside the map as a whole."""
    scales = [max(b.abs().max().item(), 1.0) for b in theirs]
    apart = max(
        ((a - b).abs().max() / scale).item()
        for a, b, scale in zip(ours, theirs, scales, strict=True)
    )
    common = {"case": case, "error": 0.0}
    return [
        {**common, "method": "dsf", "seconds": seconds, "error": apart, "ratio": 1.0},
        {**common, "method": "map, then measures", "seconds": longer, "ratio": longer / seconds},
    ]
