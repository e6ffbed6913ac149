"""``Plan``: the model, prompts and quantities of a job, and the units it is divided into."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from dsf.inspection.choice import Chosen, written
from dsf.runtime.files import read_inside, write_inside

SCHEMA = 3
MANIFEST = "job.json"
OWN_NAMES = ("units", "summary.csv")
LARGEST_MANIFEST = 64 << 20
LARGEST_UNIT = 1 << 16
UNIT = re.compile(r"(\d{8,15})\+(\d{1,6})")


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
        left_out: those of them that are left out where they take longer than all others.
        batch: the largest number of prompts in a unit.
        layerwise: whether the weights are loaded block by block.
        tolerance: the largest relative error of a layer; None for one that suits its dtype.
        layers, heads: which are looked at, as for ``dsf.inspect``; None for all.
    """

    model: str
    weights: str
    configuration: str
    prompts: tuple[tuple[int, ...], ...]
    quantities: tuple[str, ...]
    batch: int
    layerwise: bool = False
    tolerance: float | None = None
    layers: Chosen = None
    heads: Chosen = None
    left_out: tuple[str, ...] = ()

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
            "layers": written(self.layers),
            "heads": written(self.heads),
            "units": [unit.name for unit in self.units],
            **({"left_out": list(self.left_out)} if self.left_out else {}),
        }


def claim(folder: Path, plan: Plan) -> None:
    """Write the manifest of this job into ``folder``, or check that it is there.

    Raises:
        ValueError: if the folder holds another job, or something that is no job under its names.
    """
    try:
        found = read_manifest(folder)
    except FileNotFoundError:
        foreign = [name for name in OWN_NAMES if (folder / name).exists()]
        if foreign:
            raise ValueError(
                f"{folder} has {', '.join(foreign)}, but no {MANIFEST}, so no job wrote them. "
                "Choose another folder."
            ) from None
        text = json.dumps(plan.described, indent=1, sort_keys=True) + "\n"
        write_inside(folder, MANIFEST, text.encode())
        return
    ours = plan.described
    other = sorted(key for key in {*ours, *found} if found.get(key) != ours.get(key))
    if other:
        raise ValueError(
            f"{folder} holds another job: {', '.join(other)} differ. Choose another folder, or "
            "remove this one to start anew."
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the job in a folder, which may come from anywhere.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no manifest of a job.
    """
    return read_record(folder, MANIFEST, LARGEST_MANIFEST)


def read_record(folder: Path, name: str, largest: int) -> dict[str, Any]:
    """The JSON object in a file of a job.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is larger than ``largest``, a link, or no JSON object.
    """
    data = read_inside(folder, name, largest)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        found = f"({type(error).__name__})"
    if not isinstance(found, dict):
        raise malformed(folder, name, f"no JSON object, but {str(found)[:40]!r}")
    return found


def malformed(folder: Path, name: str, what: str) -> ValueError:
    """The error that a file of a job is not as a job writes it."""
    return ValueError(
        f"{folder / name} is not as a job writes it: {what}. Remove this folder to start anew, or "
        "ask whoever sent it for a whole one."
    )


def units_of(folder: Path, described: dict[str, Any]) -> list[Unit]:
    """The units that a manifest lists: consecutive prompts, all of them.

    Raises:
        ValueError: if they are not.
    """
    names, prompts = described.get("units"), described.get("prompts")
    if not isinstance(names, list) or type(prompts) is not int:
        raise malformed(folder, MANIFEST, "it lists no units")
    units, first = [], 0
    for name in names:
        match = UNIT.fullmatch(name) if isinstance(name, str) else None
        count = int(match[2]) if match else 0
        if match is None or int(match[1]) != first or not 0 < count <= LARGEST_UNIT:
            raise malformed(folder, MANIFEST, f"{str(name)[:40]!r} does not follow {first} prompts")
        units.append(Unit(tuple(range(first, first + count))))
        first += count
    if first != prompts:
        raise malformed(folder, MANIFEST, f"its units have {first} prompts of {prompts}")
    return units


def _grouped(prompts: Sequence[Sequence[int]], batch: int) -> Iterator[Unit]:
    waiting: list[int] = []
    for number, prompt in enumerate(prompts):
        if waiting and (len(waiting) == batch or len(prompts[waiting[0]]) != len(prompt)):
            yield Unit(tuple(waiting))
            waiting = []
        waiting.append(number)
    if waiting:
        yield Unit(tuple(waiting))
