"""Which linear maps stand around an attention, found by what they were seen to compute.

Modelling files name their projections as they like and lay their rows out as they like. But the
values that reach the attention are outputs of a linear map that ran before it, column by column,
bit for bit; and what leaves it is, perhaps after a gate, the input of the one that makes the
output. That is looked for here; whether it was all, the comparison with the module's output says.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Projected:
    """One call of a linear map."""

    module: nn.Module
    given: Tensor
    output: Tensor


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a module did around its attention.

    Attributes:
        given: what the values were projected from, ``sample read model``.
        source: the linear map that made the values.
        places: which output of ``source`` each value is, ``(head channel)``.
        gate: what the response was multiplied by, ``sample time width``; None for nothing.
        out: the linear map behind; None where the module puts the response out.
        output: what the module put out, ``sample time model``.
    """

    given: Tensor
    source: nn.Module
    places: Int[Tensor, " width"]
    gate: Tensor | None
    out: nn.Module | None
    output: Tensor


def surroundings(
    value: Float[Tensor, "sample head read channel"],
    mixed: Float[Tensor, "sample time width"],
    before: list[Projected],
    after: list[Projected],
    *,
    added: tuple[Any, ...] = (),
    output: Any,
) -> Surroundings | None:
    """What stands around an attention, None where that is not recognised.

    Args:
        value, mixed: what reached the attention, and what left it.
        before, after: the linear maps that the module called on either side, first to last.
        added: what the module was given. A residual stream among it, which the module adds behind
            the last map (as bloom does), belongs to the block, not to the mixer.
        output: what the module put out; the first part where there are several.
    """
    while isinstance(output, tuple | list):
        output = output[0]
    found = _source(value, before)
    if found is None or not isinstance(output, Tensor) or output.ndim != 3:
        return None
    source, places = found
    given = source.given.reshape(value.shape[0], value.shape[2], -1)
    if not after:
        same = output.shape == mixed.shape and torch.equal(output, mixed)
        return _kept(given, source, places, None, None, output) if same else None
    # A gate may have a projection of its own in between.
    fitting = (call for call in after if call.given.shape == mixed.shape)
    behind = next((call for call in fitting if _ends(call.output, added, output)), None)
    if behind is None:
        return None
    output = behind.output
    equal = torch.equal(behind.given, mixed)
    gate = None if equal else _ratio(behind.given, mixed)
    return _kept(given, source, places, gate, behind, output)


def _ends(last: Tensor, added: tuple[Any, ...], output: Tensor) -> bool:
    """Whether the module puts out the last map's output, or that plus something it was given."""
    streams = (part for part in added if isinstance(part, Tensor) and part.shape == last.shape)
    sums = (stream + last for stream in streams if stream.is_floating_point())
    return torch.equal(last, output) or any(torch.equal(each, output) for each in sums)


def _kept(
    given: Tensor,
    source: Projected,
    places: Tensor,
    gate: Tensor | None,
    behind: Projected | None,
    output: Tensor,
) -> Surroundings:
    """Copies: what comes after may write into the originals."""
    return Surroundings(
        given=given.detach().clone(),
        source=source.module,
        places=places,
        gate=gate,
        out=None if behind is None else behind.module,
        output=output.detach().clone(),
    )


def _ratio(product: Tensor, factor: Tensor) -> Tensor:
    product, factor = product.detach().double(), factor.detach().double()
    return torch.where(factor == 0, 0, product / torch.where(factor == 0, 1, factor))


def _source(value: Tensor, calls: list[Projected]) -> tuple[Projected, Tensor] | None:
    """The linear map whose outputs the values are, and which output each of them is."""
    samples, _, steps, _ = value.shape
    wanted = value.transpose(1, 2).flatten(-2).flatten(0, 1)
    for call in reversed(calls):
        if call.output.shape[:-1].numel() == samples * steps:
            places = _columns(wanted, call.output.reshape(samples * steps, -1))
            if places is not None:
                return call, places
    return None


def _columns(
    wanted: Float[Tensor, "tokens width"], among: Float[Tensor, "tokens outputs"]
) -> Int[Tensor, " width"] | None:
    """For every column of ``wanted`` one of ``among`` that equals it; None if one has none."""
    of_number: dict[float, list[int]] = {}
    for k, number in enumerate(among[-1].tolist()):
        of_number.setdefault(number, []).append(k)
    found = []
    for k, number in enumerate(wanted[-1].tolist()):
        same = (p for p in of_number.get(number, ()) if torch.equal(among[:, p], wanted[:, k]))
        place = next(same, None)
        if place is None:
            return None
        found.append(place)
    return torch.tensor(found, device=wanted.device)
