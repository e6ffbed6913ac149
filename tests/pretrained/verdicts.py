"""The properties of trained models, decided: writes the table of ``docs/verdicts.md``.

    python -m tests.pretrained.verdicts

Uses the embedded models, and the trained weights that ``make pretrained`` fetched.
"""

from pathlib import Path

import torch

import dsf
from dsf import models
from dsf.loading import load_model
from dsf.models import recall
from dsf.properties.decided import findings, verdict_counts, verdicts
from tests.pretrained.fetch import found
from tests.pretrained.tagger import read_arrays
from tests.pretrained.test_g2p import Speller
from tests.pretrained.test_silero import CHUNK, RATE, Detector

PAGE = Path(__file__).resolve().parents[2] / "docs" / "verdicts.md"
TEXT = (
    "State space models and attention are two ways to let the tokens of a sequence talk to each "
    "other, and a linear time-varying system is a language in which both can be written down, "
    "compared, measured and proved to have or to lack a property."
)
HEAD = """# What is proved of trained models

This table lists every property of every layer of some trained models, decided on one input and
checked by the independent checker (see [](certificates.md)). The columns of
[verdicts](glossary.md#verdict) count heads, or whole layers where every channel is a system of its
own. All verdicts speak of this one input; on another prompt they may differ. Properties that a
mixer does not have are left out, and those that need more tokens are NOT APPLICABLE. The page is
written by `python -m tests.pretrained.verdicts`; nothing in it is typed by hand.

| model | layer | mixer | property | PROVED | REFUTED | UNKNOWN | NOT APPLICABLE | observed |
|---|---|---|---|---|---|---|---|---|
"""


def speller():
    """g2p-en: the reader and the speaker of one word."""
    saved = read_arrays(found("g2p") / "checkpoint20.npz")
    return dsf.inspect(Speller(saved), "intelligence")


def detector():
    """silero-vad: the memory over 40 chunks of a tone that comes and goes."""
    saved = torch.jit.load(found("silero") / "silero_vad.jit").state_dict()
    time = torch.arange(40 * CHUNK) / RATE
    tone = 0.1 * torch.sin(2 * torch.pi * 220 * time) * (torch.sin(10 * time) > 0)
    return dsf.inspect(Detector(saved).eval(), tone.unsqueeze(0))


def encoder():
    """MiniLM on a text longer than its heads are wide."""
    loaded = load_model(found("minilm"))
    batch = dict(loaded.tokenizer([TEXT], return_tensors="pt"))
    return dsf.inspect(loaded.model, **batch)


def embedded(name):
    """An embedded model on one recall prompt."""
    prompt = recall.draw(torch.Generator().manual_seed(2024), samples=1).tokens
    return dsf.inspect(models.folder(name), input_ids=prompt)


def inspections():
    """Every model at hand, by name."""
    for name in models.NAMES:
        yield f"embedded {name}", embedded(name)
    for name, source, build in (
        ("MiniLM", "minilm", encoder),
        ("g2p-en", "g2p", speller),
        ("silero-vad", "silero", detector),
    ):
        if found(source) is not None:
            yield name, build()


def rows(model, inspection):
    """One line for every layer and property."""
    for layer in inspection:
        for tally in verdict_counts(verdicts(list(findings(layer)))):
            if tally.reason.startswith("reason: this mixer has no"):
                continue
            numbers = (tally.proved, tally.refuted, tally.unknown, tally.not_applicable)
            counts = (str(count or "") for count in numbers)
            worst = "" if tally.observed is None else f"{tally.observed:.3g}"
            mixer = type(layer.mixer).__name__
            yield [model, f"`{layer.name}`", mixer, tally.property, *counts, worst]


def main():
    lines = []
    for model, inspection in inspections():
        for cells in rows(model, inspection):
            lines.append(f"| {' | '.join(cells)} |")
            print(*cells, sep="  ", flush=True)
    PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
