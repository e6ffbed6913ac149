"""``--each layers,heads``: one edit that names several things becomes one for each of them."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

from dsf.cli.edit_words import NUMBERED, Record

MOST = 100_000
"""The most runs that are made of one edit."""


def spread_fields(typed: str) -> tuple[str, ...]:
    """The names of the fields.

    Raises:
        ValueError: if one names no layers, heads or tokens, or stands there twice.
    """
    names = [part.strip() for part in typed.split(",")]
    fields = ["layer" if name == "layers" else name for name in names]
    known = ("layer", *NUMBERED)
    for name, field in zip(names, fields, strict=True):
        if field not in known or fields.count(field) > 1:
            listed = ", ".join(known).replace("layer", "layers")
            raise ValueError(
                f"--each is {typed!r}, but {name!r} is none of {listed}, or is there twice."
            )
    return tuple(fields)


def spread(run: Sequence[Record], fields: Sequence[str]) -> list[list[Record]]:
    """For every choice of one layer, head or token of each field the edits of a run.

    Several edits of one run that have the field choose the same.

    Raises:
        ValueError: if no edit has the field, or it does not say how many things it names.

    >>> spread([{"edit": "Ablate", "layer": [0, 1], "heads": [2]}], ("layer", "heads"))
    [[{'edit': 'Ablate', 'layer': 0, 'heads': 2}], [{'edit': 'Ablate', 'layer': 1, 'heads': 2}]]
    """
    choices = [_choices(run, field) for field in fields]
    count = math.prod(map(len, choices))
    if count > MOST:
        raise _too_many(count)
    return [
        [
            {
                name: dict(zip(fields, chosen, strict=True)).get(name, value)
                for name, value in record.items()
            }
            for record in run
        ]
        for chosen in product(*choices)
    ]


def _choices(run: Sequence[Record], field: str) -> list[Any]:
    named = [record[field] for record in run if field in record]
    shown = "layers" if field == "layer" else field
    if not named:
        raise ValueError(
            f"--each names {shown}, but the edit {run[0]['edit']} has none. Add them to the edit, "
            f"such as {shown}=0:4, or leave {shown} out of --each."
        )
    if any(other != named[0] for other in named):
        raise ValueError(f"--each names {shown}, but edits of one run have different ones.")
    return _singles(named[0], shown)


def _singles(value: Any, shown: str) -> list[Any]:
    if isinstance(value, list):
        return [single for part in value for single in _singles(part, shown)]
    if not isinstance(value, dict):
        return [value]
    start, stop = value.get("from") or 0, value.get("to")
    if stop is None or start < 0 or stop < 0 or stop <= start:
        raise ValueError(
            f"--each names {shown}, whose range has no two ends that count from 0, such as 0:4."
        )
    numbers = range(start, stop, value.get("step") or 1)
    if len(numbers) > MOST:
        raise _too_many(len(numbers))
    return list(numbers)


def _too_many(count: int) -> ValueError:
    return ValueError(f"--each makes {count} runs of one edit, where at most {MOST} are made.")
