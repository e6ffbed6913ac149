"""``dsf inspect`` as a whole at the shapes of published checkpoints, beside the plain forward pass.

    python -m benchmarks.command_times [--minutes N] [--tokens N,N]

Random weights, as in ``benchmarks.real_shapes``, saved to a folder; every command is a process of
its own. What is in ``docs/command_times.json`` already is not measured again, so that a run may be
cut in pieces; ``docs/make_command_times.py`` writes the page.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from benchmarks.real_shapes import SHAPES, model_of

RECORD = Path(__file__).resolve().parents[1] / "docs" / "command_times.json"
TOKENS = (128, 512, 2048)
ROUNDS = 3


def plain(model: nn.Module, ids: torch.Tensor) -> float:
    """Seconds of the forward pass alone, the fastest of three after one that does not count."""
    taken = []
    with torch.no_grad():
        for _ in range(1 + ROUNDS):
            begun = time.perf_counter()
            model(input_ids=ids, use_cache=False)
            taken.append(time.perf_counter() - begun)
    return min(taken[1:])


def command(folder: Path, ids: list[int], out: Path, threads: int, *, report: bool) -> Any:
    """Wall seconds of the whole command, and of its work after the start, by its own clock."""
    words = ["inspect", str(folder), "--ids", " ".join(map(str, ids)), "--json"]
    words += ["--out", str(out)] if report else ["--no-report"]
    asked = [sys.executable, "-m", "dsf", *words, "--threads", str(threads)]
    begun = time.perf_counter()
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    whole = time.perf_counter() - begun
    if done.returncode:
        raise RuntimeError(f"{folder.name}, {len(ids)} tokens: {done.stdout}{done.stderr}")
    found = json.loads(done.stdout)
    formula = max(layer["formula"] for layer in found["layers"])
    return {"whole": whole, "work": found["seconds"], "formula": formula}


def start() -> float:
    """Wall seconds until the command has imported everything, the fastest of three."""
    words = "import dsf.cli.run_model, dsf.cli.results, dsf.report.page, transformers"
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", words], check=True)
        taken.append(time.perf_counter() - begun)
    return min(taken)


def measured(
    shape: str, model: nn.Module, folder: Path, tokens: int, threads: int
) -> dict[str, Any]:
    """One shape at one length."""
    ids = torch.randint(0, 30000, (1, tokens), generator=torch.Generator().manual_seed(0))
    listed = ids[0].tolist()
    forward = plain(model, ids)
    bare = command(folder, listed, folder / "out", threads, report=False)
    drawn = command(folder, listed, folder.with_name("out"), threads, report=True)
    return {
        "shape": shape,
        "tokens": tokens,
        "forward": forward,
        "without_report": bare,
        "with_report": drawn,
    }


def main() -> None:
    """Measure what is missing in the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.command_times")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin nothing after so many")
    parser.add_argument("--tokens", default=",".join(map(str, TOKENS)))
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    end = time.monotonic() + 60 * asked.minutes
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {"rows": []}
    record.update(
        threads=asked.threads,
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        start=start(),
    )
    lengths = [int(word) for word in asked.tokens.split(",")]
    for shape in SHAPES:
        known = {(row["shape"], row["tokens"]) for row in record["rows"]}
        missing = [tokens for tokens in lengths if (shape, tokens) not in known]
        if not missing or time.monotonic() > end:
            continue
        with tempfile.TemporaryDirectory(prefix="dsf-") as name:
            model = model_of(shape)
            model.save_pretrained(Path(name) / "model")  # type: ignore[operator]
            for tokens in missing:
                if time.monotonic() > end:
                    break
                row = measured(shape, model, Path(name) / "model", tokens, asked.threads)
                record["rows"].append(row)
                RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
