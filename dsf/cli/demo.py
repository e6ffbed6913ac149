"""``dsf demo``: the trained models inside the package, or a page with sliders."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from dsf.cli import early_checks as early
from dsf.cli.check import counted, decide, meanings
from dsf.cli.command import Answer, Run, Work
from dsf.cli.inspect_model import layer_facts, show_model, write_results
from dsf.cli.options import Open, check_known
from dsf.cli.terminal import progress
from dsf.properties.names import check_not_foreign

if TYPE_CHECKING:
    from dsf.inspection import Inspection
    from dsf.loading import LoadedModel

RUN = "run"
"""The folder of the evidence, in that of the report."""
SOURCE = {"weights": "not from a file"}
"""Identifies the run of the models inside the package."""
SEED = 2024
SEQUENCES = 256
TASK = "a repeated key asks for the value that followed it"
PLAY = "seven lines of Macbeth, a play that the text models never saw"


def demo(
    playground: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET",
            help="Write a page with sliders for A, B, C, D, decay and write strength instead; "
            "it opens with this architecture, such as softmax_attention or delta_net.",
        ),
    ] = None,
    out: Annotated[Path | None, "Folder for what is written; with --playground the page."] = None,
    open_: Open = False,
) -> Work:
    """Inspect the small models inside the package: on a recall prompt, and on a paragraph of text.

    The recall models are checked too. Writes a report, a picture and a run folder with the
    evidence. Needs no network. With --playground it writes a page that shows map, state and
    response of an architecture token by token, from softmax attention to the delta rule.
    """
    if playground is not None:
        return _playground(playground, out or Path("playground.html"), opens=open_)
    folder = out or Path("dsf-demo")
    early.check_folder(folder, files=early.REPORT)
    early.check_no_run(folder)
    early.check_free(folder)
    early.check_folder(folder / RUN)
    check_not_foreign(folder / RUN, f"--out {str(folder / RUN)!r}")
    early.check_not_of_another(folder / RUN, SOURCE)

    def work(_: Run) -> Answer:
        from dsf.runtime.files import alone_in

        with alone_in(folder):
            answer = of_package(folder)
        page = Path(answer.facts["files"]["report"])
        return replace(answer, page=page if open_ else None)

    return work


def _playground(preset: str, page: Path, *, opens: bool) -> Work:
    presets = files("dsf.report") / "playground_page" / "presets.json"
    known = json.loads(presets.read_text(encoding="utf-8"))["presets"]
    check_known("--playground", [preset], (each["name"] for each in known))
    early.check_file(page, "--out")

    def work(_: Run) -> Answer:
        from dsf.report import playground

        written = playground(preset).write(page)
        return Answer(
            facts={"files": {"playground": str(written)}},
            show=lambda: print(written),
            page=written if opens else None,
        )

    return work


# The models inside the package


class Embedded(NamedTuple):
    """Embedded models on one input."""

    inspection: "Inspection"
    tokens: list[str]
    scores: dict[str, float]
    facts: dict[str, str]


def of_package(out: Path) -> Answer:
    from dsf import models

    begun = time.perf_counter()
    recalled, read = inspect_embedded(), _inspect_text()
    evidence = out / RUN
    verdicts = decide(recalled.inspection, evidence)
    written = write_results(
        recalled.inspection,
        out,
        title=f"A recall task and a text, {len(read.scores)} architectures",
        facts={**recalled.facts, **read.facts},
        verdicts=verdicts,
        others=[read.inspection],
    )
    seconds = time.perf_counter() - begun

    def show() -> None:
        print(f"Prompt: {' '.join(recalled.tokens)}")
        show_model(recalled.inspection)
        _show_facts(recalled.facts)
        print("\n".join(meanings(verdicts)))
        print(f"{counted(verdicts)}; check the evidence again with: dsf check {evidence}\n")
        _show_facts(read.facts)
        show_model(read.inspection)
        print(f"{written['report']} and {written['picture']}, after {seconds:.1f} s")
        folder = models.folder(models.TEXT_NAMES[0])
        print(f'Next: dsf inspect {folder} --text "To be, or not to be"')

    about_text = {"tokens": read.tokens, "bits_per_byte": read.scores}
    facts = {
        **layer_facts(recalled.inspection),
        "recall": recalled.scores,
        "files": written,
        "prompt": recalled.tokens,
        "text": {**layer_facts(read.inspection), **about_text},
        "seconds": seconds,
        "run": str(evidence),
        "verdicts": verdicts.to_json(),
    }
    return Answer(facts=facts, show=show)


def inspect_embedded() -> Embedded:
    """Run every recall model on the same prompt, and score it on fresh ones."""
    import torch

    from dsf import models
    from dsf.models import recall

    rng = torch.Generator().manual_seed(SEED)
    prompt = recall.draw(rng, 1).tokens
    fresh = recall.draw(rng, SEQUENCES)

    def read(loaded: "LoadedModel") -> tuple[Any, list[str], float]:
        return prompt, recall.spell(prompt[0]), recall.accuracy(loaded.model, fresh)

    found, spelled, accuracy = _inspect_each("recall", "inspecting", models.NAMES, read)
    shares = ", ".join(f"{name} {share:.1%}" for name, share in accuracy.items())
    return Embedded(found, spelled, accuracy, {"Task": TASK, "Right answers": shares})


def _inspect_text() -> Embedded:
    """Run every model of text on the same paragraph, and score it there."""
    import torch

    from dsf import models
    from dsf.models import text

    def read(loaded: "LoadedModel") -> tuple[Any, list[str], float]:
        tokenizer: Any = loaded.tokenizer
        tokens = torch.tensor([tokenizer(text.PASSAGE)["input_ids"]])
        bits = text.bits_per_byte(loaded.model, tokenizer, text.PASSAGE)
        return tokens, text.spell(tokenizer, tokens[0]), bits

    found, spelled, bits = _inspect_each("text", "reading a text", models.TEXT_NAMES, read)
    each = ", ".join(f"{name} {value:.2f}" for name, value in bits.items())
    pairs = text.record()["text"]["passage_bigram_bits_per_byte"]
    facts = {"Text": PLAY, "Bits per byte": f"{each}; a table of byte pairs {pairs:.2f}"}
    return Embedded(found, spelled, bits, facts)


def _inspect_each(
    kind: str,
    label: str,
    names: Sequence[str],
    read: "Callable[[LoadedModel], tuple[Any, list[str], float]]",
) -> "tuple[Inspection, list[str], dict[str, float]]":
    """One inspection of all models, which ``read`` the same tokens, and the score of each."""
    from dsf import models
    from dsf.inspection import inspect
    from dsf.loading import load_model

    found: dict[str, Inspection] = {}
    scores: dict[str, float] = {}
    report = progress(label)
    for at, name in enumerate(names):
        report(at / len(names))
        loaded = load_model(models.folder(name))
        tokens, spelled, scores[name] = read(loaded)
        found[name] = inspect(loaded.model, input_ids=tokens, tokens=[spelled])

    def named(name: str, parts: Iterable[Any]) -> list[Any]:
        return [replace(part, name=f"{name} · {part.name}") for part in parts]

    together = replace(
        found[names[0]],
        layers=tuple(one for name, each in found.items() for one in named(name, each)),
        unsupported=tuple(
            one for name, each in found.items() for one in named(name, each.unsupported)
        ),
        model=f"{kind}: {', '.join(names)}",
    )
    return together, spelled, scores


def _show_facts(facts: Mapping[str, str]) -> None:
    for name, value in facts.items():
        print(f"{name}: {value}")
