"""Certificates about the map of a layer in exact arithmetic, from its stored weights and input.

The weights and the input are stored, not the map: the checkers enclose every number that the layer
forms from them, so that the verdict speaks of the map that the formula defines for these numbers.
What the run of the model rounded is not part of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import checker
from dsf.certificates.certificate import Certificate, Verdict
from dsf.certificates.issuing import (
    TYPES,
    CheckerRefused,
    Proposal,
    Where,
    certifiable,
    issued,
    written,
)
from dsf.runtime.argument_checks import checked

METHOD = "every number of the layer enclosed, from its stored weights and its stored input"


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """What the map of one head, or of one channel, of a layer is made of.

    Attributes:
        kind: ``softmax_attention``, ``selective_state_space``, ``state_space_duality`` or
            ``gated_delta_net``.
        parts: the stored weights and the input by role, as the page on the format of certificates
            lists them.

    Raises:
        ValueError: if the kind is unknown or has other roles.
        TypeError: if a part is not a real floating tensor.
    """

    kind: str
    parts: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if self.kind not in checker.LAYERS:
            raise ValueError(
                f"StoredLayer: 'kind' must be one of {', '.join(checker.LAYERS)}, but it is "
                f"{self.kind!r}."
            )
        roles = checker.LAYERS[self.kind][1]
        if sorted(self.parts) != sorted(roles):
            raise ValueError(
                f"StoredLayer: a layer of kind {self.kind} has the parts {', '.join(roles)}, but "
                f"'parts' holds {', '.join(sorted(self.parts))}."
            )
        for role, part in self.parts.items():
            certifiable(role, part)

    @cached_property
    def enclosed(self) -> checker.Layer:
        """The enclosed map and decays.

        Raises:
            ValueError: if the shapes do not fit, or the layer is beyond the limits of the format.
        """
        form = checker.LAYERS[self.kind][0]
        try:
            return form({role: _read(part) for role, part in self.parts.items()})
        except checker.Rejected as error:
            raise ValueError(
                f"StoredLayer: the map of {self.kind} cannot be formed: {error}."
            ) from (None)

    def map(self) -> Float[Tensor, "time time"]:
        """The map in float64: the middle of every enclosure, rounded once."""
        rows = self.enclosed.rows
        found = torch.zeros(len(rows), len(rows), dtype=torch.float64)
        for i, row in enumerate(rows):
            for j, (low, high) in enumerate(row):
                found[i, j] = float((low + high) / 2)
        return found


def _read(part: Tensor) -> checker.Tensor:
    """The tensor as the checker reads it from a file."""
    plain = part.detach().cpu().contiguous()
    raw = plain.view(torch.uint8).numpy().tobytes()
    return checker.Tensor(TYPES[part.dtype], tuple(part.shape), memoryview(raw))


def layer_nonnegative(layer: StoredLayer, *, folder: Where = None) -> Certificate:
    """Certify that no weight of the map is below zero; the witness is the smallest weight."""
    entries = _entries(layer)
    (row, column), (_, high) = min(entries.items(), key=lambda entry: entry[1][1])
    witness = {"row": row, "column": column} if high < 0 else None
    return _decided(layer, "nonnegative", {}, witness, float(high), folder)


def layer_row_sums(
    layer: StoredLayer, *, target: float | Fraction, tolerance: float | Fraction, folder: Where
) -> Certificate:
    """Certify that every row of the map sums to ``target`` within ``tolerance``."""
    sums = [checker.plus(row) for row in layer.enclosed.rows]
    off = [max(abs(end - Fraction(target)) for end in ends) for ends in sums]
    row = max(range(len(off)), key=off.__getitem__)
    parameters = {"target": written(target), "tolerance": written(tolerance)}
    witness = {"row": row} if off[row] > Fraction(tolerance) else None
    return _decided(layer, "row_sums", parameters, witness, float(off[row]), folder)


def layer_decay(
    layer: StoredLayer, *, width: int, most: float | Fraction, folder: Where
) -> Certificate:
    """Certify that no product of decays over ``width`` tokens is above ``most``."""
    logs = layer.enclosed.logs
    if not logs:
        raise ValueError(f"decay: a layer of kind {layer.kind} has no decay.")
    tokens = len(logs[0])
    if not 1 <= width <= tokens:
        raise ValueError(f"decay: 'width' must lie between 1 and {tokens}, but it is {width}.")
    sums = {
        (state, first): checker.plus(log[first : first + width])[1]
        for state, log in enumerate(logs)
        for first in range(tokens - width + 1)
    }
    (state, first), log = max(sums.items(), key=lambda entry: entry[1])
    largest = checker.exp_above(log)
    witness = {"state": state, "token": first} if largest > Fraction(most) else None
    parameters = {"most": written(most), "width": width}
    return _decided(layer, "decay", parameters, witness, float(largest), folder)


@checked
def reach(layer: StoredLayer, *, width: int, folder: Where = None) -> Certificate:
    """Refute that the map is zero ``width`` and more tokens back, by a weight that is not.

    The witness is the largest such weight. UNKNOWN if none is shown to differ from zero.

    Raises:
        TypeError: if ``layer`` is not a stored layer.
        ValueError: if ``width`` is below 1, or no row reads so far back.
    """
    if not isinstance(layer, StoredLayer):
        raise TypeError(
            f"reach: 'layer' must be a StoredLayer, but it is a {type(layer).__name__}. For a map, "
            f"use window_mass or causal."
        )
    tokens = len(layer.enclosed.rows)
    if not 1 <= width < tokens:
        raise ValueError(f"reach: 'width' must lie between 1 and {tokens - 1}, but it is {width}.")
    far = {
        at: max(low, -high) for at, (low, high) in _entries(layer).items() if at[0] - at[1] >= width
    }
    (row, column), least = max(far.items(), key=lambda entry: entry[1])
    witness = {"row": row, "column": column} if least > 0 else None
    return _decided(layer, "reach", {"width": width}, witness, float(least), folder)


def _entries(layer: StoredLayer) -> dict[tuple[int, int], checker.Interval]:
    rows = layer.enclosed.rows
    return {(i, j): entry for i, row in enumerate(rows) for j, entry in enumerate(row)}


def _decided(
    layer: StoredLayer,
    name: str,
    parameters: Mapping[str, Any],
    witness: Mapping[str, Any] | None,
    observed: float,
    where: Where,
) -> Certificate:
    """The certificate, or UNKNOWN where the enclosures are too wide for either verdict."""
    claim = f"{layer.kind}_{name}"
    proposal = Proposal(
        name=claim,
        verdict=Verdict.REFUTED if witness else Verdict.PROVED,
        tensors=layer.parts,
        method=METHOD,
        parameters=parameters,
        witness=witness,
        observed=observed,
        scope="of stored weights on a stored input",
    )
    reason = "no weight is shown to differ from zero"
    if witness or checker.CLAIMS[claim].proof is not None:
        try:
            return issued(proposal, where)
        except CheckerRefused as error:
            reason = str(error)
    open_one = replace(proposal, verdict=Verdict.UNKNOWN, witness=None, limits={"checker": reason})
    return issued(open_one, where)
