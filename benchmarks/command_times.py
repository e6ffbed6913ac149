"""``dsf inspect`` as a whole at the shapes of published checkpoints: docs/command_times.md.

    python -m benchmarks.command_times [--minutes N] [--threads N] [SHAPE ...]

The shapes of ``benchmarks.real_shapes`` with random weights are saved to folders once, and every
command is a process of its own that runs once. After each of them the record and the page are
written. A case that stands in the record is not measured again, so that a run may be cut in pieces;
what the limit left out is "not timed" on the page, and what it cut off begins anew in the next run.
Short sequences come first, and among those of one length the shapes that were fast before.

``--minutes 0`` writes the page alone. A command that compiled a loop, as it does once on a machine,
is run again. Run it on a machine that does nothing else.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from benchmarks import real_shapes
from dsf.runtime.threads import limited_to

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "docs" / "command_times.json", ROOT / "docs" / "command_times.md"
TOKENS = (128, 512, 2048)
SHOWN = 1000  # characters of what a failed command says
VOCABULARY = 30_000  # every shape has more
COMPILES = "dsf compiles loops"
"""How the warning begins that a command gives when it compiles."""

SMALLEST: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": {"n_layer": 1, "n_head": 2, "n_embd": 16},
    "LlamaForCausalLM": {
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    "MambaForCausalLM": {"num_hidden_layers": 1, "hidden_size": 16},
    "Mamba2ForCausalLM": {
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "num_heads": 2,
        "head_dim": 16,
        "state_size": 16,
    },
    "Qwen3NextForCausalLM": {
        "num_hidden_layers": 4,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "linear_num_key_heads": 1,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "mlp_only_layers": [0, 1, 2, 3],
    },
}
"""What differs from a shape in the model of the same class whose inspection is all start."""

Times = dict[str, Any]
"""Seconds of one shape: ``start``, and for every number of tokens, as text, a dict of
``forward``, ``without_report`` and ``with_report``."""


class Failed(Exception):
    """A command gave no answer, or one that is not to be timed."""


class Clock:
    """How much of the time that the whole run may take is left."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    def left(self) -> float:
        """Seconds, at least 0."""
        return max(0.0, self._end - time.monotonic())


class Case(NamedTuple):
    """One command."""

    shape: str
    tokens: int
    report: bool

    def __str__(self) -> str:
        return f"{self.shape}, {self.tokens} tokens, {'with' if self.report else 'no'} report"


class Folders:
    """Checkpoints with random weights, each written when it is first asked for."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    def of(self, shape: str) -> Path:
        """The folder of a shape."""
        return self._written(shape, real_shapes.SHAPES[shape][1])

    def smallest(self, shape: str) -> Path:
        """The folder of a tiny model of the same class."""
        name, settings = real_shapes.SHAPES[shape]
        return self._written(shape, {**settings, **SMALLEST[name]}, "smallest")

    def _written(self, shape: str, settings: dict[str, Any], kind: str = "shape") -> Path:
        place = self._scratch / kind / shape.replace(" ", "-")
        if not place.exists():
            model = real_shapes.built(real_shapes.SHAPES[shape][0], settings)
            model.save_pretrained(place)  # type: ignore[operator]
        return place


def tokens_of(count: int) -> list[int]:
    """Random token numbers, the same in every run."""
    rng = torch.Generator().manual_seed(0)
    numbers: list[int] = torch.randint(VOCABULARY, (count,), generator=rng).tolist()
    return numbers


def forward(shape: str, place: Path, ids: Sequence[int]) -> float:
    """Seconds on the clock of the model's own forward pass, after one that does not count."""
    model = getattr(transformers, real_shapes.SHAPES[shape][0]).from_pretrained(place).eval()
    given = torch.tensor([ids])
    with torch.no_grad():
        model(input_ids=given, use_cache=False)
        begun = time.perf_counter()
        model(input_ids=given, use_cache=False)
        return time.perf_counter() - begun


def command(place: Path, ids: Sequence[int], *, report: bool, threads: int, most: float) -> float:
    """Seconds on the clock from the call of ``dsf inspect`` to its answer.

    Args:
        report: whether it writes the page and the picture, beside the folder of the model.
        most: seconds after which it is stopped.

    Raises:
        Failed: if it does not read and reproduce every layer, or ran on another number of threads.
        subprocess.TimeoutExpired: if it was stopped.
    """
    files = ["--out", str(place.with_name(f"{place.name}-out"))] if report else ["--no-report"]
    words = ["inspect", str(place), "--ids", " ".join(map(str, ids)), "--offline", "--json", *files]
    asked = [sys.executable, "-m", "dsf", *words, "--threads", str(threads)]
    end = time.monotonic() + most
    for _ in range(2):
        begun = time.perf_counter()
        left = max(0.0, end - time.monotonic())
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=left)
        taken = time.perf_counter() - begun
        if done.returncode:
            said = f"{done.stdout[-SHOWN:]}{done.stderr[-SHOWN:]}"
            raise Failed(f"exit code {done.returncode}: {said}")
        found = json.loads(done.stdout)
        if found["unsupported"]:
            raise Failed(f"it did not read {found['unsupported']}")
        if found["threads"] != threads:
            raise Failed(f"it ran on {found['threads']} threads, not on {threads}")
        if COMPILES not in done.stderr:
            return taken
    raise Failed(f"it compiled again: {done.stderr}")


def waiting(shapes: Sequence[str], known: dict[str, Times]) -> list[Case]:
    """The cases that are not in the record, the next one first."""
    missing = [
        Case(shape, tokens, report)
        for tokens in TOKENS
        for report in (False, True)
        for shape in shapes
        if name_of(report) not in known.get(shape, {}).get(str(tokens), {})
    ]
    return sorted(missing, key=lambda case: (case.tokens, case.report, _slowest(known, case.shape)))


def name_of(report: bool) -> str:
    """How its seconds are called in the record."""
    return "with_report" if report else "without_report"


def _slowest(known: dict[str, Times], shape: str) -> float:
    found = [times for times in known.get(shape, {}).values() if isinstance(times, dict)]
    return max((max(times.values()) for times in found), default=0.0)


def measure(case: Case, times: Times, folders: Folders, threads: int, clock: Clock) -> None:
    """Add to ``times`` what the case needs: the start and the forward pass if they are missing."""
    if "start" not in times:
        place = folders.smallest(case.shape)
        starts = [
            command(place, tokens_of(8), report=False, threads=threads, most=clock.left())
            for _ in range(2)
        ]
        times["start"] = round(min(starts), 3)  # the first one may read libraries from the disk
    place, ids = folders.of(case.shape), tokens_of(case.tokens)
    found = times.setdefault(str(case.tokens), {})
    if "forward" not in found:
        found["forward"] = round(forward(case.shape, place, ids), 4)
    taken = command(place, ids, report=case.report, threads=threads, most=clock.left())
    found[name_of(case.report)] = round(taken, 3)


def read() -> dict[str, Any]:
    """The record, as far as there is one."""
    if not RECORD.exists():
        return {"facts": {}, "shapes": {}}
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def write(record: dict[str, Any]) -> None:
    """The record, if it holds something, and the page."""
    if record["shapes"]:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(record), encoding="utf-8")


HEAD = """# The command at real sizes

What `dsf inspect` takes on models of the shapes of published checkpoints, with random weights in
float32, as a whole: from the call in a shell to the answer, the start of Python, the imports and
the loading of the weights included. *Forward* is the plain forward pass of the same model on the
same tokens, and every × a multiple of it. *After the start* is the same command less the *start*,
which is the whole command without a report on a tiny model of the same class and 8 tokens: this
imports torch, the model library, the class of the model and `dsf`, and computes next to nothing.
The weights, and what only larger work needs, such as compiled loops, are loaded after the start.

"""
COLUMNS = (
    "model",
    "tokens",
    "forward",
    "start",
    "no report, whole command",
    "no report, after the start",
    "with report, whole command",
    "with report, after the start",
)
NOT_TIMED = "not timed"
FACTS = """
{threads} threads on {cores} cores of one machine, Python {python}, torch {torch}, transformers
{transformers}. Every command ran once, with `--threads {threads}`, and reproduced every layer. The
machine code of the compiled loops was on the disk already. A start is the faster of two, and the
forward pass ran once after one that does not count.
"""
FOOT = """
Cells that say "not timed" were not reached within the minutes that the run was given. The page is
written by `python -m benchmarks.command_times`, which goes on where an earlier run ended. What
makes an inspection faster is in [](how_to/speed.md).
"""


def page(record: dict[str, Any]) -> str:
    """The whole page; without any figures before something was measured."""
    facts = record["facts"]
    told = FACTS.format(**facts) if facts else ""
    return HEAD + "".join(f"{line}\n" for line in _lines(record["shapes"])) + told + FOOT


def _lines(shapes: dict[str, Times]) -> Iterator[str]:
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|" + "---|" * len(COLUMNS)
    for shape in real_shapes.SHAPES:
        times = shapes.get(shape, {})
        for tokens in TOKENS:
            found = times.get(str(tokens), {})
            cells = [_seconds(found.get("forward")), _seconds(times.get("start"))]
            for report in (False, True):
                cells += _both(times, found, name_of(report))
            yield f"| {shape} | {tokens:,} | {' | '.join(cells)} |"


def _seconds(taken: float | None) -> str:
    return NOT_TIMED if taken is None else f"{taken:.2f} s"


def _both(times: Times, found: dict[str, float], name: str) -> list[str]:
    """The whole command, and what it takes after the start."""
    if name not in found:
        return [NOT_TIMED, NOT_TIMED]
    seconds = (found[name], found[name] - times["start"])
    return [f"{each:.1f} s, ×{each / found['forward']:.1f}" for each in seconds]


def run(shapes: Sequence[str], threads: int, clock: Clock) -> list[str]:
    """Measure what is missing, as far as the time goes; the cases that failed, with the reason.

    Raises:
        ValueError: if the record comes from another machine, or other versions.
    """
    facts = {
        "threads": threads,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    record, failed = read(), []
    if record["facts"] not in ({}, facts):
        raise ValueError(
            f"{RECORD.name} was measured with {record['facts']}, but this run has {facts}. Run it "
            f"there, or remove {RECORD.name} and measure everything anew."
        )
    tried: set[Case] = set()
    with tempfile.TemporaryDirectory(prefix="dsf-") as scratch, limited_to(threads):
        folders = Folders(Path(scratch))
        while clock.left() > 0:
            rest = [each for each in waiting(shapes, record["shapes"]) if each not in tried]
            if not rest:
                break
            case = rest[0]
            tried.add(case)
            times = record["shapes"].setdefault(case.shape, {})
            try:
                measure(case, times, folders, threads, clock)
            except subprocess.TimeoutExpired:
                print(f"{case}: stopped, the time is over", flush=True)
            except Failed as error:
                failed.append(f"{case}: {error}")
                print(failed[-1], file=sys.stderr, flush=True)
            else:
                print(f"{case}: {times[str(case.tokens)]}, start {times['start']}", flush=True)
            record["facts"] = facts
            write(record)
    write(record)
    return failed


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.command_times")
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help="of benchmarks.real_shapes")
    parser.add_argument("--minutes", type=float, default=9.0, help="the whole run ends after these")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args(arguments)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    shapes = asked.shapes or list(real_shapes.SHAPES)
    if unknown := [shape for shape in shapes if shape not in real_shapes.SHAPES]:
        parser.error(f"{unknown} are no shapes. There are {list(real_shapes.SHAPES)}.")
    if failed := run(shapes, asked.threads, Clock(asked.minutes)):
        sys.exit(f"{len(failed)} of the commands failed, and are not timed")


if __name__ == "__main__":
    main()
