"""What a job consists of: the model, the prompts, the quantities, and the units they make."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from dsf.saving import replace_file

SCHEMA = 1
MANIFEST = "job.json"


@dataclass(frozen=True)
class Unit:
    """Prompts of one length that go through the model together: the piece that is done or not."""

    prompts: tuple[int, ...]

    @property
    def name(self) -> str:
        """The same for the same prompts, whoever asks; in the order of the prompts."""
        return f"{self.prompts[0]:08d}+{len(self.prompts)}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides the numbers; the same plan is the same job.

    Attributes:
        model: folder of a checkpoint, or hub id.
        weights, configuration: SHA-256 of the files behind it.
        prompts: token numbers.
        quantities: names among ``dsf.inspection.results.measurements.QUANTITIES``.
        batch: the largest number of prompts in a unit.
        layerwise: whether the weights are loaded block by block.
        tolerance: the largest error of a rebuilt layer; None for what its number type allows.
    """

    model: str
    weights: str
    configuration: str
    prompts: tuple[tuple[int, ...], ...]
    quantities: tuple[str, ...]
    batch: int
    layerwise: bool = False
    tolerance: float | None = None

    @property
    def units(self) -> tuple[Unit, ...]:
        """Neighbours of one length together, ``batch`` at most."""
        return tuple(_grouped(self.prompts, self.batch))

    @property
    def described(self) -> dict[str, Any]:
        """What the manifest holds, all of it decided before the first unit."""
        prompts = json.dumps(self.prompts, separators=(",", ":"))
        return {
            "schema_version": SCHEMA,
            "model": self.model,
            "weights": self.weights,
            "configuration": self.configuration,
            "prompts": len(self.prompts),
            "prompts_hash": sha256(prompts.encode()).hexdigest(),
            "quantities": list(self.quantities),
            "batch": self.batch,
            "layerwise": self.layerwise,
            "tolerance": self.tolerance,
            "units": [unit.name for unit in self.units],
        }


def claim(folder: Path, plan: Plan) -> None:
    """Make ``folder`` the place of this job.

    Raises:
        ValueError: if it holds another job.
    """
    manifest = folder / MANIFEST
    if manifest.exists():
        held = json.loads(manifest.read_text(encoding="utf-8"))
        other = sorted(key for key, value in plan.described.items() if held.get(key) != value)
        if other:
            raise ValueError(
                f"{folder} holds another job: {', '.join(other)} differ. Choose another folder, or "
                "remove this one to start anew."
            )
        return
    text = json.dumps(plan.described, indent=1, sort_keys=True) + "\n"
    replace_file(manifest, lambda draft: draft.write_text(text, encoding="utf-8"))


def _grouped(prompts: Sequence[Sequence[int]], batch: int) -> Iterator[Unit]:
    waiting: list[int] = []
    for number, prompt in enumerate(prompts):
        if waiting and (len(waiting) == batch or len(prompts[waiting[0]]) != len(prompt)):
            yield Unit(tuple(waiting))
            waiting = []
        waiting.append(number)
    if waiting:
        yield Unit(tuple(waiting))
