"""What the states of a selective layer contribute on data, and which parameters make them.

The response of a channel at a token is ``sum_k read_k h_k``. Kept are the sums over the data of all
products of terms ``read_k h_l``, weighted by what the layer does with the response: the Gramian of
the states as they are reached on the data, seen through the reads. Where a state is made by which
row of which parameter is asked of the run, not told from names.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsf.evaluate import respond
from dsf.evaluate.scans import ScannedRows, ScanOrder
from dsf.inspection import Inspection, inspect
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.isolation import isolated
from dsf.inspection.errors import InspectionError
from dsf.inspection.results.layers import InspectedLayer
from dsf.inspection.whole.affine_layer import WholeMixer
from dsf.inspection.whole.stages import Project, Scale
from dsf.systems.coefficient import SampledWrite
from dsf.systems.composite import ExplicitMap, SystemSum
from dsf.systems.system import System
from dsf.systems.transition import SampledDiagonal

ROWS = 8192
"""How many rows of products of reads and states are held at once."""
EXACT = 1e-9
"""The largest relative difference between numbers that were computed in float64 in two ways."""
SAME = {torch.float64: 1e-5, torch.float32: 1e-3}
SAME_ELSEWHERE = 5e-2
"""How far a run may lie from the same numbers in float64, relative."""


@dataclass(frozen=True)
class StatePlaces:
    """The parameters that make the states of one layer.

    Attributes:
        layer: the path of its module.
        pole: the name of the parameter ``channel state`` whose exponential is minus the pole.
        rows: the name of the linear map whose last rows make the write and then the read vectors.
        states: how many states there are.
    """

    layer: str
    pole: str
    rows: str
    states: int


@dataclass(frozen=True, eq=False)
class StateProducts:
    """Sums over data of products of ``Z_kl = read_k h_l``, over tokens and channels.

    The response of a channel at a token is ``sum_k Z_kk``. Its weight there is what the stages
    behind the mixer multiply it by, and the norm of its column of the output projection.

    Attributes:
        places: the parameters behind the states.
        gram: the sum of ``Z_kl Z_mn``, as a matrix over pairs.
    """

    places: StatePlaces
    gram: Float[Tensor, "pairs pairs"]

    @property
    def states(self) -> int:
        """How many states there are."""
        return self.places.states


def state_products(
    model: nn.Module, batches: Sequence[Any], *, adapters: Sequence[Adapter] = ()
) -> dict[str, StateProducts]:
    """The products of all selective layers of a model, summed over data.

    Args:
        batches: inputs of the model: for each call a dictionary of named ones, a tuple, or one
            tensor.
        adapters: how to read modules of your own, as for :func:`dsf.inspect`.

    Raises:
        TypeError: if ``model`` is no module, or ``batches`` a single one.
        ValueError: if there are no batches.
        InspectionError: if the model has no selective layer, or the states of one are not made by
            rows of its parameters alone.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            "reduce_states: 'model' must be a model in memory, such as "
            f"dsf.loading.load_model(folder).model, but it is {type(model).__name__}."
        )
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise TypeError(
            "reduce_states: 'batches' must hold the inputs of several calls, but it is a single "
            f"{type(batches).__name__}. Put it into a list: [batch]."
        )
    found: dict[str, StateProducts] = {}
    for inputs, named in map(_as_call, batches):
        inspection = inspect(model, *inputs, adapters=adapters, checks="none", **named)
        selective = _selective(inspection)
        modules = {path: model.get_submodule(path) for path in selective}
        with isolated(model), _linear_maps(modules.values()) as outputs:
            model(*inputs, **named)
        for path, layers in selective.items():
            for number, layer in enumerate(layers):
                places = _places(path, modules[path], layer, outputs, number)
                gram = _gram(layer)
                found[path] = StateProducts(
                    places, gram if path not in found else found[path].gram + gram
                )
    if not found:
        raise ValueError("reduce_states: 'batches' is empty. Give inputs of the model.")
    return found


def _as_call(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch) if isinstance(batch, tuple | list) else (batch,)), {}


@contextmanager
def _linear_maps(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, list[Tensor]]]:
    """What the linear maps in some modules put out inside the ``with`` block, call by call."""
    outputs: dict[nn.Module, list[Tensor]] = {}

    def keep(module: nn.Module, _: Any, output: Tensor) -> None:
        outputs.setdefault(module, []).append(output.detach())

    with ExitStack() as hooks:
        for part in {part for module in modules for part in module.modules()}:
            if isinstance(part, nn.Linear):
                hooks.callback(part.register_forward_hook(keep).remove)
        yield outputs


def _selective(inspection: Inspection) -> dict[str, list[InspectedLayer]]:
    """The layers with selective states by the paths of their modules, all calls of one."""
    found: dict[str, list[InspectedLayer]] = {}
    others = []
    for layer in inspection:
        named = all(hasattr(layer.mixer, name) for name in ("value", "pole", "write", "read"))
        if named and all(_is_selective(part) for part, _ in _scans(layer)):
            found.setdefault(layer.name.partition(" (call ")[0], []).append(layer)
        else:
            others.append(f"{layer.name} is a {type(layer.mixer).__name__}")
    if not found:
        raise InspectionError(
            f"reduce_states: {inspection.model} has no layer with a state for each channel whose "
            "steps, writes and reads are chosen by the input, as Mamba's have: "
            f"{'; '.join(others[:3])}. dsf.reduce reduces any system on one input."
        )
    return found


def _scans(layer: InspectedLayer) -> tuple[tuple[Any, ScanOrder], ...]:
    """The systems whose responses a layer adds, each with the order in which it goes."""
    system: Any = layer.system
    if isinstance(system, ExplicitMap) and isinstance(system.rows, ScannedRows):
        return system.rows.scans
    parts = system.parts if isinstance(system, SystemSum) else (system,)
    return tuple((part, ScanOrder.forward(part.steps)) for part in parts)


def _is_selective(part: Any) -> bool:
    return (
        isinstance(part, System)
        and isinstance(part.A, SampledDiagonal)
        and isinstance(part.B, SampledWrite)
        and part.initial is None
    )


def _places(
    path: str,
    module: nn.Module,
    layer: InspectedLayer,
    outputs: Mapping[nn.Module, list[Tensor]],
    number: int,
) -> StatePlaces:
    """The parameters that make the states of a layer.

    Raises:
        InspectionError: if they are not those of Mamba.
    """
    mixer: Any = layer.mixer
    states = mixer.pole.shape[-1]
    poles = [
        name
        for name, part in module.named_parameters()
        if part.shape == mixer.pole.shape
        and _near(-part.detach().double().exp(), mixer.pole, EXACT)
    ]
    if len(poles) != 1:
        raise InspectionError(
            f"reduce_states: {path} has {len(poles)} parameters whose exponential is minus its "
            "pole, where there must be one, so its states cannot be taken out of its parameters."
        )
    chosen = torch.cat([mixer.write, mixer.read], dim=-1)
    rows = [
        name
        for name, part in module.named_modules()
        if part in outputs
        and len(outputs[part]) > number
        and _is_end_of(outputs[part][number], chosen)
    ]
    if len(rows) != 1:
        raise InspectionError(
            f"reduce_states: the write and read vectors of {path} ({layer.family}) are not the "
            f"last outputs of one linear map in it ({len(rows)} fit), so that fewer rows would not "
            "do. That is so where a norm comes after them, as in falcon_mamba and jamba."
        )
    return StatePlaces(path, poles[0], rows[0], states)


def _is_end_of(output: Tensor, wanted: Tensor) -> bool:
    width = wanted.shape[-1]
    if output.shape[-1] < width or output[..., :1].numel() != wanted[..., :1].numel():
        return False
    limit = SAME.get(output.dtype, SAME_ELSEWHERE)
    return _near(output[..., -width:].double().reshape(wanted.shape), wanted, limit)


def _near(one: Tensor, other: Tensor, limit: float) -> bool:
    other = other.to(one.device)
    return bool((one - other).norm() <= limit * other.norm())


def _gram(layer: InspectedLayer) -> Float[Tensor, "pairs pairs"]:
    """The products of one layer on one input.

    Raises:
        InspectionError: if what follows the mixer is more than factors and a projection.
    """
    scans, weight = _scans(layer), _weight(layer)
    signal = layer.signal
    reads = [order.restored(part.C.squeeze(-2), axis=-2) for part, order in scans]
    states = [
        order.restored(part.states(order.scanned(signal, axis=-3)).squeeze(-1), axis=-2)
        for part, order in scans
    ]
    fed = [order.restored(part.D, axis=-3) @ signal for part, order in scans if part.D is not None]
    terms = [
        (read * held).sum(dim=-1, keepdim=True) for read, held in zip(reads, states, strict=True)
    ]
    whole = torch.stack([*terms, *(each.squeeze(-1) for each in fed)]).sum(dim=0)
    if not _near(whole, respond(layer.system, signal).squeeze(-1), EXACT):
        raise InspectionError(
            f"reduce_states: the response of {layer.name} is not the sum over its states of what "
            "each is read with."
        )
    pairs = states[0].shape[-1] ** 2
    gram = states[0].new_zeros(pairs, pairs)
    together = max(1, ROWS // states[0][:, 0, :, 0].numel())
    for first in range(0, states[0].shape[1], together):
        some = slice(first, first + together)
        products = [
            torch.einsum("sctk,sctl->sctkl", read[:, some], held[:, some] * weight[:, some])
            for read, held in zip(reads, states, strict=True)
        ]
        rows = torch.stack(products).sum(dim=0).reshape(-1, pairs)
        gram += rows.mT @ rows
    return gram


def _weight(layer: InspectedLayer) -> Float[Tensor, "sample channel time 1"]:
    """By how much the response of every channel counts at every token."""
    whole = layer.whole
    stages = list(whole.leave) if isinstance(whole, WholeMixer) else []
    if not stages or not isinstance(stages[-1], Project):
        raise InspectionError(f"reduce_states: nothing is known of what follows {layer.name}.")
    mixer: Any = layer.mixer
    factor = torch.ones_like(mixer.value)
    for stage in stages[:-1]:
        if not isinstance(stage, Scale):
            raise InspectionError(
                f"reduce_states: {layer.name} has a {type(stage).__name__} between its mixer and "
                "its output projection, where only factors are understood."
            )
        factor = factor * stage.factor
    factor = factor * stages[-1].weight.norm(dim=0)
    return factor.mT.unsqueeze(-1)
