"""``Plan``: the model, prompts and quantities of a job, and the units it is divided into."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from dsf.saving import replace_file

SCHEMA = 2
MANIFEST = "job.json"


@dataclass(frozen=True)
class Unit:
    """Prompts of one length that run together; the smallest piece of work that can be resumed."""

    prompts: tuple[int, ...]

    @property
    def name(self) -> str:
        """A name that depends on the prompts alone and sorts in their order."""
        return f"{self.prompts[0]:08d}+{len(self.prompts)}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that determines the results; equal plans are the same job.

    Attributes:
        model: the folder of a checkpoint, or a hub id.
        weights, configuration: SHA-256 of its files.
        prompts: token ids.
        quantities: names among ``dsf.inspection.results.measurements.QUANTITIES``.
        batch: the largest number of prompts in a unit.
        layerwise: whether the weights are loaded block by block.
        tolerance: the largest relative error of a layer; None for one that suits its dtype.
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
        """Consecutive prompts of one length, at most ``batch`` in each unit."""
        return tuple(_grouped(self.prompts, self.batch))

    @property
    def described(self) -> dict[str, Any]:
        """The content of the manifest, which is fixed before the first unit runs."""
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
    """Write the manifest of this job into ``folder``, or check that it is there.

    Raises:
        ValueError: if the folder holds another job.
    """
    manifest = folder / MANIFEST
    if manifest.exists():
        found = json.loads(manifest.read_text(encoding="utf-8"))
        other = sorted(key for key, value in plan.described.items() if found.get(key) != value)
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
