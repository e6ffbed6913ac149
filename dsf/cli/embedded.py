"""The embedded models on one prompt, as one inspection."""

from dataclasses import dataclass, replace

import torch

from dsf import models
from dsf.cli.terminal import progress
from dsf.inspection import Inspection, inspect
from dsf.loading import load_model
from dsf.models import recall

SEED = 2024
SEQUENCES = 256
TASK = "a key that comes back asks for the value that followed it"


@dataclass(frozen=True)
class Shown:
    """What the demo shows.

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
        """The heading of the report."""
        return f"One recall task, {len(self.accuracy)} architectures"

    @property
    def facts(self) -> dict[str, str]:
        """The task and how well the models do it, for a person."""
        shares = (f"{name} {share:.1%}" for name, share in self.accuracy.items())
        return {"Task": TASK, "Right answers": ", ".join(shares)}


def inspect_embedded(*, watched: bool) -> Shown:
    """Run every embedded model on the same recall prompt, and score it on fresh ones."""
    rng = torch.Generator().manual_seed(SEED)
    prompt = recall.draw(rng, 1).tokens
    fresh = recall.draw(rng, SEQUENCES)
    spelled = recall.spell(prompt[0])
    found, accuracy = [], {}
    with progress("inspecting", shown=watched) as told:
        for at, name in enumerate(models.NAMES):
            told(at / len(models.NAMES))
            model = load_model(models.folder(name)).model
            found.append(_renamed(inspect(model, input_ids=prompt, tokens=[spelled]), name))
            accuracy[name] = recall.accuracy(model, fresh)
    together = Inspection(
        layers=tuple(layer for each in found for layer in each),
        unsupported=tuple(missed for each in found for missed in each.unsupported),
        model=", ".join(models.NAMES),
        tokens=(tuple(spelled),),
        environment=found[0].environment,
    )
    return Shown(together, spelled, accuracy)


def next_command() -> str:
    """A command that works without a network."""
    ids = " ".join(str(k) for k in range(1, 13))
    return f'dsf inspect {models.folder(models.NAMES[0])} --ids "{ids}"'


def _renamed(inspection: Inspection, model: str) -> Inspection:
    def placed(part):  # type: ignore[no-untyped-def]  # a layer or what was not read
        return replace(part, name=f"{model} · {part.name}")

    return replace(
        inspection,
        layers=tuple(map(placed, inspection.layers)),
        unsupported=tuple(map(placed, inspection.unsupported)),
    )
