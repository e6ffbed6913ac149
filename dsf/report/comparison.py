"""``compare``: two models or inspections side by side, layer by layer and head by head."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from dsf.evaluate import attention_map, row_blocks
from dsf.inspection import inspect
from dsf.inspection.errors import InspectionError
from dsf.inspection.results.layers import InspectedLayer, Inspection
from dsf.inspection.results.measurements import indices, values
from dsf.inspection.results.table import Record, Table
from dsf.measures import map_distance
from dsf.properties.decided import findings
from dsf.runtime.argument_checks import checked
from dsf.systems.algebra import select

DISTANCE = "map_distance"


@dataclass(frozen=True, repr=False)
class Comparison(Table):
    """A table of two inspections: one record for each layer, head and quantity.

    The columns ``first`` and ``second`` hold the numbers (or the verdicts) of the two,
    ``difference`` second minus first, ``flipped`` whether a verdict changed.

    Attributes:
        pairs: the layers that were compared with each other.
        partners: for a pair whose heads were matched, the head of the second for each of the first.
    """

    pairs: tuple[tuple[InspectedLayer, InspectedLayer], ...] = field(default=(), repr=False)
    partners: tuple[tuple[int, ...] | None, ...] = field(default=(), repr=False)

    def difference_map(self, layer: str) -> Float[Tensor, "*batch written read"]:
        """The map of the second minus that of the first, with heads as they were matched.

        Raises:
            KeyError: if no layer of the first is called so.
            ValueError: if the two maps have different sizes.
        """
        for (one, other), partner in zip(self.pairs, self.partners, strict=True):
            if one.name == layer:
                ours, theirs = attention_map(one.system), attention_map(other.system)
                theirs = theirs if partner is None else theirs[:, list(partner)]
                if ours.shape != theirs.shape:
                    raise ValueError(
                        f"difference_map: the maps of {layer} are {tuple(ours.shape)} and "
                        f"{tuple(theirs.shape)}. Compare runs on prompts of one length."
                    )
                return theirs - ours
        raise KeyError(f"no compared layer is called '{layer}'")

    def flips(self) -> Table:
        """The verdicts that are not the same in both."""
        return Table(tuple(record for record in self if record.get("flipped")))


@checked
def compare(
    first: Inspection | nn.Module | str | Path,
    second: Inspection | nn.Module | str | Path,
    *inputs: Any,
    align: bool = False,
    verdicts: bool = True,
    **named: Any,
) -> Comparison:
    """Compare two checkpoints, fine-tunes, number types, prompts or architectures.

    Layers are paired by name where both have the same names, and otherwise by depth. For each pair
    every quantity of ``Inspection.measure`` is side by side, for every head where both have the
    same samples and heads, and otherwise as the mean over them. ``map_distance`` is the Frobenius
    norm of the difference of the maps over that of the first; it needs prompts of one length.

    Args:
        first, second: inspections, or models that are inspected on the same input.
        inputs, named: of the models, as for ``dsf.inspect``.
        align: match the heads of a pair so that the sum of the distances is smallest (an optimal
            assignment), since two trainings may learn the same heads in another order.
        verdicts: compare the verdicts of ``dsf check`` as well.

    Raises:
        InspectionError: if one of the two has no layers, or a model cannot be inspected.
        TypeError: if one of the two is neither, or an input goes with inspections alone.

    Example:
        >>> import dsf, torch
        >>> from dsf.models import folder, recall
        >>> prompts = recall.draw(torch.Generator().manual_seed(0), samples=1)
        >>> one = dsf.inspect(folder("llama"), input_ids=prompts.tokens)
        >>> other = dsf.inspect(folder("llama"), input_ids=prompts.tokens, exact=True)
        >>> table = dsf.compare(one, other)
        >>> max(record["first"] for record in table.where(quantity="map_distance")) < 1e-3
        True
    """
    if (inputs or named) and isinstance(first, Inspection) and isinstance(second, Inspection):
        raise TypeError("compare: expected no input with two inspections, got one.")
    one, other = (
        _inspected(name, given, inputs, named)
        for name, given in (("first", first), ("second", second))
    )
    last, length = len(other) - 1, max(len(one) - 1, 1)
    pairs = tuple((layer, other[round(k * last / length)]) for k, layer in enumerate(one))
    if [layer.name for layer in one] == [layer.name for layer in other]:
        pairs = tuple(zip(one, other, strict=True))
    records: list[Record] = []
    partners = [_matched(*pair) if align else None for pair in pairs]
    for pair, partner in zip(pairs, partners, strict=True):
        records += _distances(*pair, partner)
        records += _quantities(*pair, partner)
        records += _verdicts(*pair, partner) if verdicts else ()
    return Comparison(tuple(records), pairs, tuple(partners))


def _inspected(
    name: str, given: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]
) -> Inspection:
    if isinstance(given, nn.Module | str | Path):
        given = inspect(given, *inputs, **named)
    if not len(given):
        raise InspectionError(f"compare: '{name}' ({given.model}) has no layers that were read.")
    return given


def _matched(one: InspectedLayer, other: InspectedLayer) -> tuple[int, ...] | None:
    """For each head of ``one`` its partner; None where there is nothing to match."""
    have_heads = all(each.axes[-1:] == ("head",) for each in (one, other))
    if not have_heads or len(one.system.batch) != 2 or one.system.batch != other.system.batch:
        return None
    cost: Tensor | int = 0
    for a, b in zip(row_blocks(one.system), row_blocks(other.system), strict=True):
        if a.weights.shape != b.weights.shape:
            return None
        sizes = b.weights.square().sum(dim=(0, 2, 3))
        cost = cost + sizes - 2 * torch.einsum("shij,sgij->hg", a.weights, b.weights)
    _, found = linear_sum_assignment(torch.as_tensor(cost).numpy(force=True))
    return tuple(int(head) for head in found)


def _distances(
    one: InspectedLayer, other: InspectedLayer, partner: Sequence[int] | None
) -> Iterator[Record]:
    ours, theirs = one.system, other.system
    names = ("batch", "steps", "read_steps", "input_size", "output_size")
    sizes = [[getattr(each, name, each.steps) for name in names] for each in (ours, theirs)]
    if sizes[0] != sizes[1]:
        note = "the maps have different sizes"
        yield _record(one, other, (), None) | {"quantity": DISTANCE, "note": note}
        return
    if partner is not None:
        theirs = select(theirs, (slice(None), list(partner)))
    distance = map_distance(ours, theirs)
    for index in indices(distance):
        number = distance[index].item()
        yield _record(one, other, index, partner) | {"quantity": DISTANCE, "first": number}


def _quantities(
    one: InspectedLayer, other: InspectedLayer, partner: Sequence[int] | None
) -> Iterator[Record]:
    ours, theirs = values(one.system)[0], values(other.system)[0]
    for name in ours:
        if name not in theirs:
            continue
        a, b = ours[name].double(), theirs[name].double()
        if a.shape != b.shape:
            a, b = a.nanmean(), b.nanmean()
        elif partner is not None and b.ndim == 2:
            b = b[:, list(partner)]
        for index in indices(a):
            x, y = a[index].item(), b[index].item()
            record = _record(one, other, index, partner)
            yield record | {"quantity": name, "first": x, "second": y, "difference": y - x}


def _verdicts(
    one: InspectedLayer, other: InspectedLayer, partner: Sequence[int] | None
) -> Iterator[Record]:
    theirs = {_place(each.part, each.property): each for each in findings(other)}
    for finding in findings(one):
        part = dict(finding.part)
        if partner is not None and "head" in part:
            part["head"] = partner[part["head"]]
        match = theirs.get(_place(part, finding.property))
        if match is None:
            continue
        first, second = finding.certificate.verdict.value, match.certificate.verdict.value
        record: Record = {"layer": one.name, "other": other.name, **finding.part}
        if partner is not None and "head" in part:
            record["other_head"] = part["head"]
        yield record | {
            "quantity": finding.property,
            "first": first,
            "second": second,
            "flipped": first != second,
        }


def _place(part: dict[str, int], name: str) -> tuple[Any, ...]:
    return (*sorted(part.items()), name)


def _record(
    one: InspectedLayer,
    other: InspectedLayer,
    index: Sequence[int],
    partner: Sequence[int] | None,
) -> Record:
    record: Record = {"layer": one.name, "other": other.name}
    record.update(zip(one.axes, one.place(index), strict=False))
    if partner is not None and "head" in record:
        record["other_head"] = partner[index[-1]]
    return record
