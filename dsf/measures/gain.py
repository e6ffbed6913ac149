"""Norms and gains of a map: row norms, column norms, l-infinity and l2 gain."""

from typing import cast

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.algebra import adjoint
from dsf.evaluate import MapOrSystem, respond
from dsf.evaluate.cache import kept_rows
from dsf.measures.fold import total
from dsf.measures.passes import Measured, reduced
from dsf.measures.row_reductions import ENERGY, MASS
from dsf.system import System

STEPS = 40


def row_norms(map_or_system: Measured) -> Shaped[Tensor, "*batch rows"]:
    """The l2 norm of every row.

    >>> row_norms(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    tensor([1., 5.])
    """
    (energy,) = reduced(map_or_system, ENERGY, measure="row_norms")
    return energy.sqrt()


def column_norms(map_or_system: MapOrSystem) -> Shaped[Tensor, "*batch columns"]:
    """The l2 norm of every column: how strongly a key is read by all queries together.

    >>> column_norms(torch.tensor([[3.0, 0.0], [4.0, 2.0]]))
    tensor([5., 2.])
    """
    return total(map_or_system, lambda rows: rows.weights.abs().square().sum(dim=-2)).sqrt()


def absolute_gain(map_or_system: Measured) -> Shaped[Tensor, "*batch"]:
    """The l-infinity gain of the map: the largest sum of absolute weights in a row.

    >>> absolute_gain(torch.tensor([[1.0, 0.0], [-3.0, 4.0]]))
    tensor(7.)
    """
    (mass,) = reduced(map_or_system, MASS, measure="absolute_gain")
    return mass.amax(dim=-1)


def energy_gain(
    map_or_system: Tensor | System, *, steps: int = STEPS, seed: int = 0
) -> Shaped[Tensor, "*batch"]:
    """The largest l2 gain of the map, its spectral norm.

    For a matrix, exact. For a system, a lower bound by Lanczos bidiagonalisation with the system
    and its adjoint, without a map; ``steps`` products usually give six digits or more.

    Raises:
        ValueError: if ``steps`` is below 1.

    >>> energy_gain(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    tensor(4.)
    """
    if steps < 1:
        raise ValueError(f"energy_gain: 'steps' must be at least 1, but it is {steps}.")
    if isinstance(map_or_system, Tensor):
        return torch.linalg.matrix_norm(map_or_system, ord=2)
    if kept_rows(map_or_system) is not None:
        weights = kept_rows(map_or_system)
        return torch.linalg.matrix_norm(torch.as_tensor(weights).squeeze(-2), ord=2)
    return _lanczos(map_or_system, steps, seed)


def _lanczos(system: System, steps: int, seed: int) -> Tensor:
    back = cast("System", adjoint(system, conjugate=True))
    rng = torch.Generator(device=system.device).manual_seed(seed)
    size = (*system.batch, system.steps * system.input_size)
    dtype = system.dtype.to_real() if system.takes_real_part else system.dtype
    right = torch.randn(size, generator=rng, dtype=dtype, device=system.device)
    steps = min(steps, right.shape[-1], system.steps * system.output_size)
    rights = [_unit(right)]
    lefts: list[Tensor] = []
    for _ in range(steps):
        lefts.append(_unit(_without(_apply(system, rights[-1]), lefts)))
        rights.append(_unit(_without(_apply(back, lefts[-1]), rights)))
    basis = torch.stack(rights[:-1], dim=-2)
    images = torch.stack([_apply(system, vector) for vector in basis.unbind(-2)], dim=-1)
    return torch.linalg.matrix_norm(images, ord=2)


def _apply(system: System, vector: Tensor) -> Tensor:
    signal = vector.unflatten(-1, (system.steps, system.input_size)).unsqueeze(-1)
    return respond(system, signal).flatten(-3)


def _without(vector: Tensor, others: list[Tensor]) -> Tensor:
    """``vector`` made orthogonal to ``others``; done twice to remove rounding errors."""
    for _ in range(2):
        for other in others:
            vector = vector - (other.conj() * vector).sum(dim=-1, keepdim=True) * other
    return vector


def _unit(vector: Tensor) -> Tensor:
    size = vector.norm(dim=-1, keepdim=True)
    return torch.where(size > 0, vector / size, 0)
