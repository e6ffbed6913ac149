"""``reduce_states``: a selective model with fewer states, made of its own parameters.

The response of a channel at a token is ``sum_k read_k h_k``. With ``h_k ≈ sum_l M_kl h_l`` over the
kept states l, the same for all channels, the reads become ``read'_l = sum_k M_kl read_k``: a change
of rows of parameters. The products ``read_k h_l`` on the data, weighted by what the layer does with
the response, say what is kept; which row makes a state is asked of the run, not of names.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import comb
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsf.evaluate.scans import Order, ScannedRows, in_scan_order, in_token_order
from dsf.inspection import Inspection, inspect
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.isolation import isolated
from dsf.inspection.errors import InspectionError
from dsf.inspection.rebuild import relative_error
from dsf.inspection.results.layers import InspectedLayer
from dsf.inspection.results.table import Table
from dsf.inspection.whole.stages import Project, Scale, WholeMixer
from dsf.interventions.fewer_keys import (
    Calls,
    best_keys,
    calls_of,
    fewer_key_weights,
    key_channels,
    key_layers,
    output_errors,
    refit_outputs,
)
from dsf.runtime.argument_checks import checked
from dsf.systems.coefficient import SampledWrite
from dsf.systems.composite import ExplicitMap, parts_of
from dsf.systems.system import System
from dsf.systems.transition import SampledDiagonal

RIDGE = 1e-9
"""Ridge of the least squares, relative to the mean of the diagonal: keeps them solvable."""
MAX_CHOICES = 20_000
"""Maximum number of choices of states that are compared."""
MAX_PROJECTED = 1_000
"""Maximum number of choices that are all tried with the projection."""
MAX_RANKED = 100
"""Maximum number of the best choices without projection that are tried with it."""
ROWS_AT_ONCE = 8192
"""Number of rows of products of reads and states that are held at once."""
SUM_TOL = 1e-9
"""Maximum relative difference between numbers that were computed in float64 in two ways."""
RUN_TOL = {torch.float64: 1e-5, torch.float32: 1e-3}
RUN_TOL_ELSEWHERE = 5e-2
"""Maximum relative difference of a run from the same numbers in float64, by number type."""


@dataclass(frozen=True, eq=False)
class StateProducts:
    """Sums over data of products of ``Z_kl = read_k h_l``, over tokens and channels.

    The response of a channel at a token is ``sum_k Z_kk``. Its weight there is what the stages
    behind the mixer multiply it by, and the norm of its column of the output projection.

    Attributes:
        layer: the path of its module.
        pole: the name of the parameter ``channel state`` whose exponential is minus the pole.
        rows: the name of the linear map whose last rows make the write and then the read vectors.
        states: how many states there are.
        gram: the sum of ``Z_kl Z_mn``, as a matrix over pairs.
    """

    layer: str
    pole: str
    rows: str
    states: int
    gram: Float[Tensor, "pairs pairs"]


Choose = Callable[[StateProducts, int], Sequence[int]]
"""Which states of a layer are kept, given its products and how many."""


@dataclass(frozen=True, eq=False)
class KeptStates:
    """A choice of states of one layer.

    Attributes:
        kept: their numbers.
        takes: by how much each kept state (column) reads for every state (row) from now on.
        error: the predicted error of the layer's response on the data, relative: the norm of its
            change over its own, with the layer's input held and weighted by what follows.
    """

    kept: tuple[int, ...]
    takes: Float[Tensor, "state kept"]
    error: float


@dataclass(frozen=True, eq=False, repr=False)
class ReducedStates:
    """A model with fewer states.

    Attributes:
        states: how many states every selective layer has now.
        state_dict: the weights of the whole model, for its class with so many states.
        layers: by the path of each selective layer what it keeps.
        model: the model with these weights; None where nothing was said of how it is built.
        loss: the loss of the model as it was, and of the one with fewer states; None without one.
        products: of the states or key channels on the data, for further calls with other numbers
            of states.
    """

    states: int
    state_dict: dict[str, Tensor]
    layers: Mapping[str, KeptStates]
    model: nn.Module | None
    loss: tuple[float, float] | None
    products: Mapping[str, Any] = field(repr=False)

    @property
    def error(self) -> float:
        """The largest predicted error of a layer's response.

        Layers are judged one by one: it is not a bound on what later layers make of it.
        """
        return max(layer.error for layer in self.layers.values())

    def table(self) -> Table:
        """For every layer the states that it keeps and its predicted error."""
        return Table(
            tuple(
                {"layer": name, "kept": list(layer.kept), "error": layer.error}
                for name, layer in self.layers.items()
            )
        )

    def __repr__(self) -> str:
        before = next(iter(self.products.values())).states
        loss = "" if self.loss is None else "; loss {:.4g} -> {:.4g}".format(*self.loss)
        return (
            f"ReducedStates({before} -> {self.states} states in {len(self.layers)} layers; "
            f"predicted error of a layer at most {self.error:.2g}{loss})"
        )


def best_states(products: StateProducts, states: int) -> tuple[int, ...]:
    """Return the choice of so many states whose projection has the smallest error that was found.

    Up to 1,000 choices are all tried. Of up to 20,000 the 100 that are best without projection are,
    and the one that is left where the state that the others replace best goes, again and again. Of
    more, the state that is missed least goes, without projection.
    """
    count = products.states
    number = comb(count, states)
    own = [k * count + k for k in range(count)]
    energy = products.gram[own][:, own]

    def error(kept: Sequence[int]) -> float:
        return kept_states(products, kept).error

    def missed(kept: Sequence[int]) -> float:
        gone = [k for k in range(count) if k not in kept]
        return float(energy[gone][:, gone].sum().item())

    def eliminated(loss: Callable[[Sequence[int]], float]) -> tuple[int, ...]:
        kept = tuple(range(count))
        while len(kept) > states:
            kept = min(combinations(kept, len(kept) - 1), key=loss)
        return kept

    if number > MAX_CHOICES:
        return eliminated(missed)
    if number <= MAX_PROJECTED:
        return min(combinations(range(count), states), key=error)
    choices = torch.tensor(list(combinations(range(count), states)))
    left = torch.ones(len(choices), count, dtype=torch.float64)
    left.scatter_(1, choices, 0.0)
    errors = torch.einsum("ck,kl,cl->c", left, energy.cpu(), left)
    best = errors.argsort()[:MAX_RANKED].tolist()
    return min([*(tuple(choices[k].tolist()) for k in best), eliminated(error)], key=error)


def strongest_states(products: StateProducts, states: int) -> tuple[int, ...]:
    """The states whose own contribution to the response has the largest energy."""
    own = products.gram.diagonal().reshape(products.states, -1).diagonal()
    return tuple(sorted(own.argsort(descending=True)[:states].tolist()))


def kept_states(
    products: StateProducts, kept: Sequence[int], *, projected: bool = True
) -> KeptStates:
    """These states, which read for the others what the data make best, or nothing."""
    count = products.states
    chosen = tuple(kept)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(count)):
        raise ValueError(
            f"reduce_states: 'choose' must name different states from 0 to {count - 1}, but it "
            f"gave {list(chosen)}."
        )
    pairs = [k * count + state for k in range(count) for state in chosen]
    whole = [k * count + k for k in range(count)]
    if projected:
        gram = products.gram[pairs][:, pairs]
        ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(pairs)).to(gram)
        target = products.gram[pairs][:, whole].sum(dim=1)
        takes = torch.linalg.solve(gram + ridge, target).reshape(count, -1)
    else:
        takes = torch.eye(count).to(products.gram)[:, list(chosen)]
    change = products.gram.new_zeros(count**2)
    change[whole] = 1
    size = change @ products.gram @ change
    change[pairs] -= takes.flatten()
    error = ((change @ products.gram @ change).clamp(min=0) / size).sqrt().item()
    return KeptStates(chosen, takes, error)


@checked
def reduce_states(  # noqa: PLR0913 (the model, the data, and how to choose, build and judge)
    model: nn.Module,
    batches: Any,
    *,
    states: int,
    loss: Callable[[nn.Module], float] | None = None,
    build: Callable[[Mapping[str, Tensor], int], nn.Module] | None = None,
    choose: Choose = best_states,
    projected: bool = True,
    adapters: Sequence[Adapter] = (),
    products: Mapping[str, Any] | None = None,
) -> ReducedStates:
    """The same model with fewer states in every selective layer, without training.

    For layers like Mamba's, whose states are the same for every channel in all but their pole, and
    for Mamba-2, gated delta and Kimi delta layers, whose states have a row for every channel of a
    key (in Kimi delta layers the keys that go stay as zeros). Which states stay, and what they read
    in place of the others, is chosen by what the states contribute on data. It pays on some models
    and not on others: only ``loss`` tells.

    Args:
        model: a model in memory; it is not changed.
        batches: inputs of the model: for each call a dictionary of named ones, a tuple, or one
            tensor. Take data that ``loss`` does not judge by.
        states: how many states are kept.
        loss: what a model loses, measured before and after.
        build: makes a model of weights and a number of states; by default that of the model
            library, with another ``state_size`` in its configuration.
        choose: which states of a layer are kept; see :func:`best_states`, which is the default, and
            :func:`strongest_states`. With key channels it gets a
            :class:`~dsf.interventions.fewer_keys.KeyChannels` and returns a tensor ``head kept``.
        projected: whether the kept states read for the others what the data make best; with key
            channels, whether the output projections are fitted to the original outputs.
        adapters: how to read modules of your own, as for :func:`dsf.inspect`.
        products: those of an earlier result on the same model and data, in place of ``batches``.

    Raises:
        TypeError: if ``model`` is not a module, ``states`` not an integer, or ``batches`` a single
            one.
        ValueError: if there are not so many states, no batches, the model cannot be built, or
            ``choose`` names other states than it may.
        InspectionError: if the model has no selective layer, or one whose states are not made by
            rows of its parameters alone.

    Example:
        >>> import torch
        >>> from dsf.interventions import reduce_states
        >>> from dsf.loading import load_model
        >>> from dsf.models import folder, recall
        >>> model = load_model(folder("mamba")).model
        >>> prompts = recall.draw(torch.Generator().manual_seed(0), samples=4).tokens
        >>> smaller = reduce_states(model, [prompts], states=8)
        >>> smaller.model.config.state_size
        8
        >>> smaller.error < 0.2
        True
    """
    has_keys = bool(key_layers(model))
    calls = _calls(batches) if has_keys else []
    found: dict[str, Any] = dict(products or {})
    if not found and has_keys:
        found.update(key_channels(model, calls, adapters))
    elif not found:
        found.update(state_products(model, batches, adapters=adapters))
    short = next((each for each in found.values() if not 1 <= states <= each.states), None)
    if short is not None:
        raise ValueError(
            f"reduce_states: states={states}, but {short.layer} has {short.states} states, "
            "of which at least one must stay."
        )
    made: nn.Module | None = None
    if has_keys:
        by: Any = best_keys if choose is best_states else choose
        kept = {path: by(each, states).cpu() for path, each in found.items()}
        made, layers = _with_fewer_keys(model, calls, states, found, kept, refit=projected)
        weights = {name: each.detach().clone() for name, each in made.state_dict().items()}
    else:
        layers = {
            path: kept_states(each, choose(each, states), projected=projected)
            for path, each in found.items()
        }
        if odd := [layer.kept for layer in layers.values() if len(layer.kept) != states]:
            raise ValueError(
                f"reduce_states: 'choose' must name {states} states, but it gave {list(odd[0])}."
            )
        weights = _smaller_weights(model, found, layers)
        if build is not None:
            made = build(weights, states).eval()
        elif hasattr(getattr(model, "config", None), "state_size"):
            made = _of_its_class(model, weights, {"state_size"}, states)
        elif loss is not None:
            raise ValueError(
                f"reduce_states: 'loss' needs the smaller {type(model).__name__}, whose "
                "configuration has no state_size. Say how it is built: build=lambda weights, "
                "states: ..."
            )
    losses = None
    if loss is not None and made is not None:
        with isolated(model), isolated(made):
            losses = float(loss(model)), float(loss(made))
    return ReducedStates(states, weights, layers, made, losses, found)


def _of_its_class(
    model: Any, weights: Mapping[str, Tensor], settings: Iterable[str], states: int
) -> nn.Module:
    config = copy.deepcopy(model.config)
    for setting in settings:
        setattr(config, setting, states)
    made: nn.Module = type(model)(config).to(next(model.parameters()))
    made.load_state_dict(weights)
    return made.eval()


def _smaller_weights(
    model: nn.Module, products: Mapping[str, StateProducts], layers: Mapping[str, KeptStates]
) -> dict[str, Tensor]:
    """All weights under their own names, those of the selective layers with fewer states."""
    changed: dict[int, Tensor] = {}
    for path, chosen in layers.items():
        places, module = products[path], model.get_submodule(path)
        pole, kept = module.get_parameter(places.pole), list(chosen.kept)
        changed[id(pole)] = pole.detach()[..., kept]
        rows = module.get_submodule(places.rows)
        for part in rows.parameters(recurse=False):
            sizes = [len(part) - 2 * places.states, places.states, places.states]
            others, write, read = part.detach().split(sizes)
            takes = chosen.takes.to(torch.promote_types(read.dtype, torch.float32)).to(read.device)
            changed[id(part)] = torch.cat(
                [others, write[kept], (takes.mT @ read.to(takes)).to(read)]
            )
    every = model.state_dict(keep_vars=True)
    return {name: changed.get(id(part), part.detach()).clone() for name, part in every.items()}


def state_products(
    model: nn.Module, batches: Any, *, adapters: Sequence[Adapter] = ()
) -> dict[str, StateProducts]:
    found: dict[str, StateProducts] = {}
    for inputs, named in _calls(batches):
        inspection = inspect(model, *inputs, adapters=adapters, checks="none", **named)
        selective = _selective(inspection)
        modules = {path: model.get_submodule(path) for path in selective}
        parts = (part for module in modules.values() for part in module.modules())
        linear = [part for part in parts if isinstance(part, nn.Linear)]
        outputs = calls_of(model, linear, inputs, named)
        for path, layers in selective.items():
            for number, layer in enumerate(layers):
                pole, rows = _places(path, modules[path], layer, outputs, number)
                gram = _gram(layer) + (found[path].gram if path in found else 0)
                mixer: Any = layer.mixer
                found[path] = StateProducts(path, pole, rows, mixer.pole.shape[-1], gram)
    return found


def _calls(batches: Any) -> Calls:
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise TypeError(
            "reduce_states: 'batches' must hold the inputs of several calls, but it is a single "
            f"{type(batches).__name__}. Put it into a list: [batch]."
        )
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    for batch in batches:
        several = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        calls.append(((), dict(batch)) if isinstance(batch, Mapping) else (several, {}))
    if not calls:
        raise ValueError("reduce_states: 'batches' is empty. Give inputs of the model.")
    return calls


def _with_fewer_keys(
    model: Any, calls: Calls, states: int, channels: Any, kept: Mapping[str, Tensor], *, refit: bool
) -> tuple[nn.Module, dict[str, KeptStates]]:
    for path, chosen in kept.items():
        if chosen.shape != (channels[path].heads, states):
            raise ValueError(
                f"reduce_states: 'choose' expected {states} channels for each key head of {path}, "
                f"got the axes {tuple(chosen.shape)}."
            )
    settings = {each.setting for each in channels.values() if each.setting is not None}
    made = _of_its_class(model, fewer_key_weights(model, channels, kept), settings, states)
    if refit:
        refit_outputs(model, made, channels, calls)
    errors = output_errors(model, made, channels, calls)
    layers = {}
    for path, each in channels.items():
        numbers = (kept[path] + each.states * torch.arange(len(kept[path]))[:, None]).flatten()
        takes = torch.eye(each.heads * each.states, dtype=torch.float64)[:, numbers]
        layers[path] = KeptStates(tuple(numbers.tolist()), takes, errors[path])
    return made, layers


def _selective(inspection: Inspection) -> dict[str, list[InspectedLayer]]:
    """The layers with selective states by the paths of their modules, all calls of one."""
    found: dict[str, list[InspectedLayer]] = {}
    others = []
    for layer in inspection:
        named = all(hasattr(layer.mixer, name) for name in ("value", "pole", "write", "read"))
        if named and all(
            isinstance(part, System)
            and isinstance(part.A, SampledDiagonal)
            and isinstance(part.B, SampledWrite)
            and part.initial is None
            for part, _ in _scans(layer)
        ):
            found.setdefault(layer.name.partition(" (call ")[0], []).append(layer)
        else:
            others.append(f"{layer.name} is a {type(layer.mixer).__name__}")
    if not found:
        raise InspectionError(
            f"reduce_states: {inspection.model} has no layer with a state for each channel whose "
            "steps, writes and reads are chosen by the input, as Mamba's have: "
            f"{'; '.join(others[:3])}. dsf.evaluate.reduce reduces any system on one input."
        )
    return found


def _scans(layer: InspectedLayer) -> tuple[tuple[Any, Order], ...]:
    """The systems whose responses a layer adds, each with the order in which it goes."""
    system: Any = layer.system
    if isinstance(system, ExplicitMap) and isinstance(system.rows, ScannedRows):
        return system.rows.scans
    return tuple((part, torch.arange(part.steps)) for part in parts_of(system))


def _places(
    path: str,
    module: nn.Module,
    layer: InspectedLayer,
    outputs: Mapping[nn.Module, list[tuple[Any, Any, Tensor]]],
    number: int,
) -> tuple[str, str]:
    """The parameters that make the states of a layer: its poles, and its writes and reads."""
    mixer: Any = layer.mixer
    poles = [
        name
        for name, part in module.named_parameters()
        if part.shape == mixer.pole.shape
        and relative_error(-part.detach().to(mixer.pole).exp(), mixer.pole) <= SUM_TOL
    ]
    if len(poles) != 1:
        raise InspectionError(
            f"reduce_states: {path} has {len(poles)} parameters whose exponential is minus its "
            "pole, where there must be one, so its states cannot be taken out of its parameters."
        )
    chosen = torch.cat([mixer.write, mixer.read], dim=-1)

    def is_end(output: Tensor) -> bool:
        width = chosen.shape[-1]
        if output.shape[-1] < width or output[..., :1].numel() != chosen[..., :1].numel():
            return False
        limit = RUN_TOL.get(output.dtype, RUN_TOL_ELSEWHERE)
        ends = output[..., -width:].to(chosen).reshape(chosen.shape)
        return relative_error(ends, chosen) <= limit

    rows = [
        name
        for name, part in module.named_modules()
        if part in outputs and len(outputs[part]) > number and is_end(outputs[part][number][2])
    ]
    if len(rows) != 1:
        raise InspectionError(
            f"reduce_states: the write and read vectors of {path} ({layer.family}) are not the "
            f"last outputs of one linear map in it ({len(rows)} fit), so that fewer rows would not "
            "do. That is so where a norm comes after them, as in falcon_mamba and jamba."
        )
    return poles[0], rows[0]


def _gram(layer: InspectedLayer) -> Float[Tensor, "pairs pairs"]:
    scans, weight = _scans(layer), _weight(layer)
    signal = layer.signal
    reads = [in_token_order(part.C.squeeze(-2), order, -2) for part, order in scans]
    states = [
        in_token_order(part.states(in_scan_order(signal, order, -3)).squeeze(-1), order, -2)
        for part, order in scans
    ]
    pairs = states[0].shape[-1] ** 2
    gram = states[0].new_zeros(pairs, pairs)
    together = max(1, ROWS_AT_ONCE // states[0][:, 0, :, 0].numel())
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
