"""What the commands gain from more than one thread, on a machine of their own and beside others.

    python -m benchmarks.command_threads [--rounds 3] [--only WORD]

Every case runs on one thread and on all that torch takes by itself, in turns: first on the machine
as it is, then beside processes that keep every core busy. Seconds are those on the clock, since
threads that wait for each other cost them, and the least of the rounds counts. A ratio is the time
on one thread divided by the time on all: above 1 where more threads help.

The last column, seconds on the clock by seconds of the processor on one thread, tells how much of
the machine this process had: the ratios of the first kind mean something where it is close to 1
(short runs are above it, as they wait for the disk). Starting Python and importing is left out.
``dsf.cli.command.SMALL_WORK`` was chosen from these figures.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import transformers

from dsf.cli.check import decide
from dsf.cli.command import Run
from dsf.cli.demo import inspect_embedded
from dsf.cli.inspect_model import write_results
from dsf.cli.options import Inspecting, Prompt, TokenIds
from dsf.cli.run_model import inspect_checkpoint
from dsf.inspection import Inspection
from dsf.models import NAMES, folder
from dsf.runtime.threads import limited_to

VOCABULARY = 64
EMBEDDED_TOKENS = 32
# Width, layers and tokens of models with random weights.
SOFTMAX = (
    (128, 4, 128),
    (256, 4, 128),
    (256, 4, 512),
    (512, 6, 128),
    (512, 8, 256),
    (768, 12, 128),
    (768, 12, 512),
)
STATES = ((128, 2, 128), (512, 4, 128), (768, 6, 256))
# What takes longer is run once.
LONG = 5.0
Phases = dict[str, float]
"""Seconds by command, or by a part of one."""


@dataclass(frozen=True)
class Case:
    """Something that commands do.

    Attributes:
        work: parameters times tokens; 0 where there is no model.
        run: does it once, and returns the seconds on the clock.
    """

    name: str
    work: int
    run: Callable[[], Phases]


def cases(scratch: Path) -> Iterator[Case]:
    """Models inside the package, then random weights."""
    shown = inspect_embedded
    yield Case("demo", 0, partial(_commands, lambda: shown().inspection, checked=True))
    for name in NAMES:
        yield _of_checkpoint(f"{name}, embedded", folder(name), EMBEDDED_TOKENS, checked=True)
    for width, layers, tokens in SOFTMAX:
        settings = transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            num_key_value_heads=width // 64,
        )
        place = _drawn(settings, scratch / f"llama-{layers}-{width}")
        name = f"Llama {layers} x {width}, {tokens} tokens"
        yield _of_checkpoint(name, place, tokens, checked=width * tokens <= 256 * 128)
    for width, layers, tokens in STATES:
        settings = transformers.Mamba2Config(
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=layers,
            num_heads=width // 32,
            head_dim=64,
            state_size=64,
            n_groups=1,
        )
        place = _drawn(settings, scratch / f"mamba2-{layers}-{width}")
        name = f"Mamba-2 {layers} x {width}, {tokens} tokens"
        yield _of_checkpoint(name, place, tokens, checked=width == 128)


def _drawn(settings: transformers.PretrainedConfig, place: Path) -> Path:
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(settings).save_pretrained(place)
    return place


def _of_checkpoint(name: str, place: Path, tokens: int, *, checked: bool) -> Case:
    model = transformers.AutoModelForCausalLM.from_pretrained(place)
    work = tokens * sum(each.numel() for each in model.parameters())
    prompt = Prompt(ids=TokenIds(k % VOCABULARY for k in range(tokens)))

    def inspection() -> Inspection:
        return inspect_checkpoint(str(place), prompt, _as_set(), Inspecting(offline=True))

    return Case(name, work, partial(_commands, inspection, checked=checked))


def _as_set() -> Run:
    """The number that is set already, so that the command leaves it alone."""
    return Run(torch.get_num_threads(), torch.get_num_threads(), is_watched=False)


def _commands(inspection: Callable[[], Inspection], *, checked: bool) -> Phases:
    with tempfile.TemporaryDirectory() as out:
        begun = time.perf_counter()
        found = inspection()
        taken = {"up to the layers": time.perf_counter() - begun}
        write_results(found, Path(out))
        taken["dsf inspect"] = time.perf_counter() - begun
        if checked:
            decide(found, Path(out) / "run")
            taken["and decided"] = time.perf_counter() - begun
    return taken


def in_turns(case: Case, *, every: int, rounds: int) -> tuple[Phases, Phases, float]:
    """The least of all rounds on one thread and on all; the clock by the processor on one."""
    least: dict[int, Phases] = {}
    shares = []
    for _ in range(rounds):
        for count in (1, every):
            processor = time.process_time()
            with limited_to(count):
                taken = case.run()
            if count == 1:
                shares.append(max(taken.values()) / (time.process_time() - processor))
            before = least.get(count, taken)
            least[count] = {phase: min(taken[phase], before[phase]) for phase in taken}
        if max(taken.values()) > LONG:
            break
    return least[1], least[every], min(shares)


@contextmanager
def neighbours() -> Iterator[list[subprocess.Popen[bytes]]]:
    """A process for each core that never rests."""
    command = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield busy
    finally:
        for each in busy:
            each.kill()
            each.wait()


def main() -> None:
    """Run the cases, a line for every command of each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.command_threads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", metavar="WORD", default="", help="cases with this in their names")
    asked = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    every = torch.get_num_threads()
    print(f"{every} threads against one on {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"{'':52}{'alone':^21}{'beside busy processes':^25}")
    print(f"{'case':32}{'work':>8}  {'':17}" + "    one    all ratio" * 2 + "  share")
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases(Path(scratch)):
            if asked.only in case.name:
                case.run()  # compiles what is not on the disk
                for line in lines(case, every=every, rounds=asked.rounds):
                    print(line, flush=True)


def lines(case: Case, *, every: int, rounds: int) -> Iterator[str]:
    """What was measured, a line for every command."""
    found = []
    for company in (nullcontext, neighbours):
        with company():
            found.append(in_turns(case, every=every, rounds=rounds))
    work = f"{case.work:.1e}" if case.work else ""
    for phase in found[0][0]:
        times = "".join(
            f"{one[phase]:7.2f}{all_[phase]:7.2f}{one[phase] / all_[phase]:6.2f}"
            for one, all_, _ in found
        )
        yield f"{case.name:32}{work:>8}  {phase:17}{times}{found[0][2]:7.2f}"


if __name__ == "__main__":
    main()
