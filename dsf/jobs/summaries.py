"""Reads the results of a job: all records, or statistics over its prompts."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dsf.inspection.results.measurements import indices
from dsf.inspection.results.table import Record, Table
from dsf.jobs.storage import LayerFacts, Unit, is_finished, read_layers, read_notes, units_of
from dsf.runtime.argument_checks import checked

Key = tuple[str, str, str]
"""Layer, family, quantity."""
STATISTICS = ("mean", "deviation", "smallest", "largest")


@checked
def gather(folder: str | Path) -> Table:
    """One record for every prompt, layer, head and quantity of the finished units.

    What could not be measured, or was left out, is one record of ``nan`` with a ``note``.

    Raises:
        FileNotFoundError: if the folder holds no job.
        ValueError: if a file in it is a link, or not as a job writes it.
    """
    records: list[Record] = []
    for unit, facts, values in _layers(Path(folder)):
        for name, value in values.items():
            for place, prompt in enumerate(unit.prompts):
                for index in indices(value[place]):
                    record: Record = {"prompt": prompt, "layer": facts.name, "family": facts.family}
                    record.update(zip(facts.axes[1:], facts.place(index), strict=False))
                    record.update(quantity=name, value=value[place][index].item())
                    records.append(record)
        for name, why in facts.unmeasured.items():
            of = {"layer": facts.name, "family": facts.family, "quantity": name}
            nothing = {**of, "value": math.nan, "note": why}
            records += [{"prompt": prompt, **nothing} for prompt in unit.prompts]
    return Table(tuple(records))


@checked
def summary(folder: str | Path) -> Table:
    """Count, mean, standard deviation, smallest and largest value over the prompts.

    One record for every layer, head and quantity. The files are read one after the other, so that
    memory does not grow with the number of prompts. NaN values are left out of the count, too. What
    could not be measured on some prompts, or was left out, is one further record with a ``note``.

    Raises:
        FileNotFoundError: if the folder holds no job.
        ValueError: if a file in it is a link, or not as a job writes it.
    """
    sums: dict[Key, tuple[LayerFacts, _Moments]] = {}
    without: dict[Key, tuple[str, int]] = {}
    for unit, facts, values in _layers(Path(folder)):
        for name, value in values.items():
            key = facts.name, facts.family, name
            first, moments = sums.setdefault(key, (facts, _Moments(value[0])))
            same = (first.axes, first.heads) == (facts.axes, facts.heads)
            if not same or value.shape[1:] != moments.count.shape:
                raise ValueError(
                    f"{folder}: {name} of {facts.name!r} has other axes in another unit, so the "
                    "files are of different jobs. Remove this folder to start anew."
                )
            moments.add(value)
        for name, why in facts.unmeasured.items():
            key = facts.name, facts.family, name
            reason, prompts = without.get(key, (why, 0))
            without[key] = reason, prompts + len(unit.prompts)
    records = [record for key, (facts, each) in sums.items() for record in each.records(key, facts)]
    nothing = dict.fromkeys(STATISTICS, math.nan)
    for key, (why, prompts) in without.items():
        note = f"not measured on {prompts} prompt{'s' * (prompts != 1)}: {why}"
        of = zip(("layer", "family", "quantity"), key, strict=True)
        records.append({**dict(of), "count": 0, **nothing, "note": note})
    return Table(tuple(records))


def notes(folder: str | Path) -> tuple[str, ...]:
    """What was ignored when the checkpoint of a job was loaded, one sentence each.

    Raises:
        FileNotFoundError: if the folder holds no job.
        ValueError: if a file in it is a link, or not as a job writes it.
    """
    place = Path(folder)
    every = (note for unit in finished(place) for note in read_notes(place, unit))
    return tuple(dict.fromkeys(every))


def _layers(folder: Path) -> Iterator[tuple[Unit, LayerFacts, dict[str, Tensor]]]:
    for unit in finished(folder):
        for facts, values in read_layers(folder, unit):
            yield unit, facts, dict(sorted(values.items()))


def finished(folder: Path) -> Iterator[Unit]:
    """The finished units, in the order of their prompts."""
    return (unit for unit in units_of(folder) if is_finished(folder, unit))


class _Moments:
    """Running count, mean, sum of squared deviations (Welford), smallest and largest value."""

    def __init__(self, like: Tensor):
        self.count, self.mean, self.squares = (torch.zeros_like(like) for _ in range(3))
        self.smallest = torch.full_like(like, torch.inf)
        self.largest = torch.full_like(like, -torch.inf)

    def add(self, values: Tensor) -> None:
        for value in values:
            there = ~value.isnan()
            self.count += there
            change = torch.where(there, value - self.mean, 0)
            self.mean += change / self.count.clamp(min=1)
            self.squares += change * torch.where(there, value - self.mean, 0)
            self.smallest = torch.fmin(self.smallest, value)
            self.largest = torch.fmax(self.largest, value)

    def records(self, key: Key, facts: LayerFacts) -> Iterator[Record]:
        layer, family, quantity = key
        spread = (self.squares / (self.count - 1).clamp(min=1)).sqrt()
        for index in indices(self.count):
            record: Record = {"layer": layer, "family": family}
            record.update(zip(facts.axes[1:], facts.place(index), strict=False))
            record.update(quantity=quantity, count=int(self.count[index].item()))
            parts = (self.mean, spread, self.smallest, self.largest)
            for name, part in zip(STATISTICS, parts, strict=True):
                record[name] = part[index].item() if self.count[index] else math.nan
            yield record
