"""Statistics of maps in one pass against making the map first, and at lengths no map fits.

    python -m benchmarks

Processor seconds on one thread, the largest difference from double precision or from the exact
pass, and the ratio to ours. At long lengths also the share of the map that was visited and the
memory beyond the inputs.
"""

from functools import partial
from pathlib import Path
from time import process_time

import torch

import dsf
from dsf import measures
from dsf.mixers import SoftmaxAttention, StateSpaceDuality

HEADS, STATES, ERROR = 24, 128, 1e-6
WHOLE = "map, then measures"
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


def shortest(system: dsf.System) -> tuple[measures.Streamed, float]:
    """All measures in one pass, and the seconds of the fastest of three; the first one compiles."""
    measures.streamed(system, *MEASURES)
    passes = (timed(lambda: measures.streamed(system, *MEASURES)) for _ in range(3))
    return min(passes, key=lambda each: each[1])


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
    ours, seconds = shortest(system)
    theirs, longer = timed(lambda: materialised(mixer))
    map = dsf.attention_map(system)  # exponentials of differences are off by 1e-4 themselves
    exact = tuple(measure(map) for measure in MEASURES)
    return compared(case, {"dsf": (ours.values, seconds), WHOLE: (theirs, longer)}, exact)


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

    def eager(query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores = query @ key.mT * width**-0.5
        ahead = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        map = scores.masked_fill(ahead, -torch.inf).softmax(dim=-1)
        return tuple(measure(map) for measure in MEASURES)

    ours, seconds = shortest(system)
    theirs, longer = timed(lambda: eager(query, key))
    exact = eager(query[:1].double(), key[:1].double())
    case = f"statistics of softmax {heads} x {tokens}"
    return compared(case, {"dsf": (ours.values, seconds), WHOLE: (theirs, longer)}, exact)


def compared(
    case: str, found: dict[str, tuple[tuple[torch.Tensor, ...], float]], exact: tuple
) -> list[dict]:
    """Values and seconds by method, ours first; ``exact`` may hold the first heads alone."""
    mine = next(iter(found.values()))[1]
    return [
        {
            "case": case,
            "method": method,
            "seconds": seconds,
            "error": max(map(apart, values, exact)),
            "ratio": seconds / mine,
        }
        for method, (values, seconds) in found.items()
    ]


def apart(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest difference, relative to the largest value or to one."""
    difference = found[: len(exact)] - exact
    return difference.abs().max().item() / max(exact.abs().max().item(), 1.0)
