"""The embedded models: four on one recall prompt, four on one paragraph of text."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dsf import models
from dsf.cli.progress import progress
from dsf.inspection import Inspection, inspect
from dsf.loading import LoadedModel, load_model
from dsf.models import recall, text

SEED = 2024
SEQUENCES = 256
TASK = "a key that comes back asks for the value that followed it"
SOURCE = "seven lines of Macbeth, a play that the text models never saw"


@dataclass(frozen=True)
class Recalled:
    """The models that recall.

    Attributes:
        inspection: the layers of all models, each name preceded by its model's.
        prompt: the tokens that all models read.
        accuracy: share of the queries that each model answers rightly, 0 to 1.
    """

    inspection: Inspection
    prompt: list[str]
    accuracy: dict[str, float]

    @property
    def title(self) -> str:
        """The heading of a report about them."""
        return f"One recall task, {len(self.accuracy)} architectures"

    @property
    def facts(self) -> dict[str, str]:
        """The task and how well the models do it, for a person."""
        shares = (f"{name} {share:.1%}" for name, share in self.accuracy.items())
        return {"Task": TASK, "Right answers": ", ".join(shares)}


@dataclass(frozen=True)
class Told:
    """The models of text.

    Attributes:
        inspection: the layers of all models, each name preceded by its model's.
        tokens: the word pieces that all models read.
        bits: bits per byte that each model needs for this text.
    """

    inspection: Inspection
    tokens: list[str]
    bits: dict[str, float]

    @property
    def facts(self) -> dict[str, str]:
        """The text and how well the models predict it, for a person."""
        each = ", ".join(f"{name} {bits:.2f}" for name, bits in self.bits.items())
        pairs = text.record()["text"]["passage_bigram_bits_per_byte"]
        return {"Text": SOURCE, "Bits per byte": f"{each}; a table of byte pairs {pairs:.2f}"}


def inspect_embedded(*, watched: bool) -> Recalled:
    """Run every recall model on the same prompt, and score it on fresh ones."""
    rng = torch.Generator().manual_seed(SEED)
    prompt = recall.draw(rng, 1).tokens
    fresh = recall.draw(rng, SEQUENCES)
    spelled = recall.spell(prompt[0])
    found, accuracy = {}, {}
    with progress("inspecting", shown=watched) as told:
        for at, name in enumerate(models.NAMES):
            told(at / len(models.NAMES))
            model = load_model(models.folder(name)).model
            found[name] = inspect(model, input_ids=prompt, tokens=[spelled])
            accuracy[name] = recall.accuracy(model, fresh)
    return Recalled(_together("recall", found), spelled, accuracy)


def inspect_text(*, watched: bool) -> Told:
    """Run every model of text on the same paragraph, and score it there."""
    found, bits = {}, {}
    with progress("reading a text", shown=watched) as told:
        for at, name in enumerate(models.TEXT_NAMES):
            told(at / len(models.TEXT_NAMES))
            loaded = load_model(models.folder(name))
            tokens = _tokens(loaded)
            spelled = text.spell(loaded.tokenizer, tokens[0])
            found[name] = inspect(loaded.model, input_ids=tokens, tokens=[spelled])
            bits[name] = text.bits_per_byte(loaded.model, loaded.tokenizer, text.PASSAGE)
    return Told(_together("text", found), spelled, bits)


def next_command() -> str:
    """A command that works without a network."""
    name = models.TEXT_NAMES[0]
    return f'dsf inspect {models.folder(name)} --text "To be, or not to be"'


def _tokens(loaded: LoadedModel) -> Int[Tensor, "1 time"]:
    tokenizer: Any = loaded.tokenizer
    return torch.tensor([tokenizer(text.PASSAGE)["input_ids"]])


def _together(kind: str, found: dict[str, Inspection]) -> Inspection:
    """One inspection of all models that read the same tokens."""
    renamed = [_renamed(inspection, name) for name, inspection in found.items()]
    return Inspection(
        layers=tuple(layer for each in renamed for layer in each),
        unsupported=tuple(missed for each in renamed for missed in each.unsupported),
        model=f"{kind}: {', '.join(found)}",
        tokens=renamed[0].tokens,
        environment=renamed[0].environment,
    )


def _renamed(inspection: Inspection, model: str) -> Inspection:
    def placed(part):  # type: ignore[no-untyped-def]  # a layer or what was not read
        return replace(part, name=f"{model} · {part.name}")

    return replace(
        inspection,
        layers=tuple(map(placed, inspection.layers)),
        unsupported=tuple(map(placed, inspection.unsupported)),
    )
