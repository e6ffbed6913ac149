"""Statistics of maps in one pass against making the map first, and at lengths no map fits.

    python benchmarks/tallies.py [--tokens 102400 1024000]

Prints and writes ``benchmarks/tallies.json``: processor seconds on one thread, the largest
difference from the exact pass where that was made, and the ratio to ours. At the lengths of
``--tokens`` also the share of the map that was visited and the memory beyond the inputs.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from time import process_time

import torch

from dsf import measures
from dsf.mixers import StateSpaceDuality

HEADS, STATES, ERROR = 24, 128, 1e-6
MEASURES = (
    measures.negative_share,
    measures.row_entropy,
    measures.mean_distance,
    partial(measures.window_mass, width=64),
    measures.absolute_gain,
)


def layer(tokens: int) -> StateSpaceDuality:
    """Random coefficients of the shape of Mamba-2; half-lives of 0.5 to 63 tokens."""
    rng = torch.Generator().manual_seed(0)
    vectors = [torch.randn(1, tokens, STATES, generator=rng) * STATES**-0.5 for _ in range(2)]
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
    apart = max(
        ((a - b).abs().max() / b.abs().max()).item()
        for a, b in zip(ours.values, theirs, strict=True)
    )
    return [
        {"case": case, "method": "dsf, one pass", "seconds": seconds, "error": apart, "ratio": 1.0},
        {
            "case": case,
            "method": "map, then measures",
            "seconds": longer,
            "error": 0.0,
            "ratio": longer / seconds,
        },
    ]


def long(tokens: int) -> dict:
    """With skipping; against the exact pass up to 16,384 tokens."""
    system = layer(tokens).system()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = memory("VmRSS")
    found, seconds = timed(lambda: measures.streamed(system, *MEASURES, error=ERROR))
    row = {
        "case": f"statistics 24 x {tokens}",
        "method": f"dsf, error {ERROR:.0e}",
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, nargs="*", default=[16_384, 102_400, 1_024_000])
    torch.set_num_threads(1)
    rows = at_4096()
    rows += [long(tokens) for tokens in parser.parse_args().tokens]
    for row in rows:
        print(row)
    Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
