"""A whole Mamba layer of the size of the 130m model, its maps by row blocks: time and memory.

    python benchmarks/layer_map.py

1,536 channels with 16 states over 2,048 tokens: all maps together would take 26 GB. Prints and
writes ``benchmarks/layer_map.json``: processor seconds on one thread, the peak memory of a process
of its own, libraries included, and the error of the row sums against the recurrence.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from time import process_time

import torch

import dsf
from dsf import measures
from dsf.mixers import SelectiveStateSpace

CHANNELS, TOKENS, STATES = 1536, 2048, 16


def layer() -> SelectiveStateSpace:
    """Mamba at initialisation: poles -1 ... -N, steps of 0.001 to 0.1."""
    rng = torch.Generator().manual_seed(0)
    return SelectiveStateSpace(
        value=torch.zeros(()).expand(TOKENS, CHANNELS),
        step=10 ** (torch.rand(TOKENS, CHANNELS, generator=rng) * 2 - 3),
        pole=-torch.arange(1.0, STATES + 1).expand(CHANNELS, STATES),
        write=torch.randn(TOKENS, STATES, generator=rng),
        read=torch.randn(TOKENS, STATES, generator=rng),
    )


def in_this_process() -> dict:
    """Look at every entry of every map once."""
    torch.set_num_threads(1)
    system = layer().system()
    begun = process_time()
    blocks = dsf.evaluate.row_blocks(system, overwrites=True)
    sums = torch.cat([block.weights.sum(dim=-1) for block in blocks], dim=-1)
    seconds = process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    exact = measures.row_sums(system)
    return {
        "case": f"S6 maps {CHANNELS} x {TOKENS} by row blocks",
        "method": "dsf.evaluate.row_blocks",
        "seconds": seconds,
        "error": ((sums - exact).abs().max() / exact.abs().max()).item(),
        "ratio": 1.0,
        "peak_gb": peak,
    }


def measured() -> list[dict]:
    """In a process of its own, whose peak is that of this work."""
    command = [sys.executable, __file__, "--here"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(run.stdout.splitlines()[-1])]


def main() -> None:
    if "--here" in sys.argv:
        print(json.dumps(in_this_process()))
        return
    rows = measured()
    print(rows)
    Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
