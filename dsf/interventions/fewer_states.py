"""``reduce_states``: a selective model with fewer states, made of its own parameters.

A state that is left out takes ``read_k(t) h_k(t)`` away from the response. The other states can
take over part of it: with ``h_k ≈ sum_l M_kl h_l`` over the kept states l, the same for all
channels, the reads become ``read'_l = sum_k M_kl read_k``. That is a projection of the states by
their products on the data (:mod:`dsf.interventions.state_gramians`), and a change of rows of
parameters, so that the result loads into the same class with fewer states.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import comb
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.isolation import isolated
from dsf.inspection.results.table import Table
from dsf.interventions.state_gramians import StateProducts, state_products
from dsf.runtime.shapes import of_kind

RIDGE = 1e-9
"""Relative to the mean of the diagonal: keeps the least squares solvable."""
TRIED, PROJECTED = 20_000, 100
"""The most choices that are compared, and how many of the best are tried with the projection."""

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
        products: of the states on the data, for further calls with other numbers of states.
    """

    states: int
    state_dict: dict[str, Tensor]
    layers: Mapping[str, KeptStates]
    model: nn.Module | None
    loss: tuple[float, float] | None
    products: Mapping[str, StateProducts] = field(repr=False)

    @property
    def error(self) -> float:
        """The largest predicted error of a layer's response.

        Layers are judged one by one: it is no bound on what later layers make of it.
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
    """Of all choices of so many states the one whose projection has the smallest error.

    Choices are first ranked by the error without projection. Where there are more than 20,000, the
    state that is missed least is left out, again and again.
    """
    count = products.states
    own = [k * count + k for k in range(count)]
    energy = products.gram[own][:, own]
    if comb(count, states) > TRIED:
        kept = list(range(count))
        while len(kept) > states:
            gone = [k for k in range(count) if k not in kept]
            missed = [energy[[*gone, k]][:, [*gone, k]].sum().item() for k in kept]
            kept.pop(missed.index(min(missed)))
        return tuple(kept)
    choices = torch.tensor(list(combinations(range(count), states)))
    left = torch.ones(len(choices), count, dtype=torch.float64)
    left.scatter_(1, choices, 0.0)
    errors = torch.einsum("ck,kl,cl->c", left, energy.cpu(), left)
    tried = [tuple(choices[k].tolist()) for k in errors.argsort()[:PROJECTED].tolist()]
    return min(tried, key=lambda kept: kept_states(products, kept).error)


def strongest_states(products: StateProducts, states: int) -> tuple[int, ...]:
    """The states whose own contribution to the response has the largest energy."""
    own = products.gram.diagonal().reshape(products.states, -1).diagonal()
    return tuple(sorted(own.argsort(descending=True)[:states].tolist()))


def kept_states(
    products: StateProducts, kept: Sequence[int], *, projected: bool = True
) -> KeptStates:
    """These states, which read for the others what the data make best, or nothing.

    Raises:
        ValueError: if they are no different states of the layer.
    """
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


def reduce_states(  # noqa: PLR0913 (the model, the data, and how to choose, build and judge)
    model: nn.Module,
    batches: Sequence[Any],
    *,
    states: int,
    loss: Callable[[nn.Module], float] | None = None,
    build: Callable[[Mapping[str, Tensor], int], nn.Module] | None = None,
    choose: Choose = best_states,
    projected: bool = True,
    adapters: Sequence[Adapter] = (),
    products: Mapping[str, StateProducts] | None = None,
) -> ReducedStates:
    """The same model with fewer states in every selective layer, without training.

    For layers like Mamba's, whose states are the same for every channel in all but their pole.
    Which states stay, and what they read in place of the others, is chosen by what the states
    contribute on data. The result is a set of weights for the same class with fewer states. Try it:
    it pays on some models and not on others, and only ``loss`` tells.

    Args:
        model: a model in memory; it is not changed.
        batches: inputs of the model: for each call a dictionary of named ones, a tuple, or one
            tensor. Take data that ``loss`` does not judge by.
        states: how many states are kept.
        loss: what a model loses, measured before and after.
        build: makes a model of weights and a number of states; by default that of the model
            library, with another ``state_size`` in its configuration.
        choose: which states of a layer are kept; see :func:`best_states`, which is the default, and
            :func:`strongest_states`.
        projected: whether the kept states read for the others what the data make best.
        adapters: how to read modules of your own, as for :func:`dsf.inspect`.
        products: those of an earlier result on the same model and data, in place of ``batches``.

    Raises:
        TypeError: if ``model`` is no module, ``states`` no whole number, or ``batches`` a single
            one.
        ValueError: if there are not so many states, no batches, the model cannot be built, or
            ``choose`` names other states than it may.
        InspectionError: if the model has no selective layer, or one whose states are not made by
            rows of its parameters alone.

    Example:
        >>> import dsf, torch
        >>> from dsf.loading import load_model
        >>> from dsf.models import folder, recall
        >>> model = load_model(folder("mamba")).model
        >>> prompts = recall.draw(torch.Generator().manual_seed(0), samples=4).tokens
        >>> smaller = dsf.reduce_states(model, [prompts], states=8)
        >>> smaller.model.config.state_size
        8
        >>> smaller.error < 0.2
        True
    """
    if isinstance(states, bool) or not isinstance(states, int):
        raise TypeError(f"reduce_states: 'states' must be a whole number, but it is {states!r}.")
    for name, given in (("loss", loss), ("build", build)):
        if given is not None:
            of_kind("reduce_states", name, given, callable, "a function")
    of_kind("reduce_states", "projected", projected, bool, "True or False")
    found = dict(products) if products else state_products(model, batches, adapters=adapters)
    short = next((each for each in found.values() if not 1 <= states <= each.states), None)
    if short is not None:
        raise ValueError(
            f"reduce_states: states={states}, but {short.places.layer} has {short.states} states, "
            "of which at least one must stay."
        )
    layers = {
        path: kept_states(each, choose(each, states), projected=projected)
        for path, each in found.items()
    }
    if odd := [layer.kept for layer in layers.values() if len(layer.kept) != states]:
        raise ValueError(
            f"reduce_states: 'choose' must name {states} states, but it gave {list(odd[0])}."
        )
    weights = _smaller_weights(model, found, layers)
    made = None
    if build is not None or hasattr(getattr(model, "config", None), "state_size"):
        made = (build or _of_the_library(model))(weights, states).eval()
    if loss is not None and made is None:
        raise ValueError(
            f"reduce_states: 'loss' needs the smaller {type(model).__name__}, whose configuration "
            "has no state_size. Say how it is built: build=lambda weights, states: ..."
        )
    losses = None if loss is None or made is None else (_judged(loss, model), _judged(loss, made))
    return ReducedStates(states, weights, layers, made, losses, found)


def _judged(loss: Callable[[nn.Module], float], model: nn.Module) -> float:
    with isolated(model):
        return float(loss(model))


def _smaller_weights(
    model: nn.Module,
    products: Mapping[str, StateProducts],
    layers: Mapping[str, KeptStates],
) -> dict[str, Tensor]:
    """All weights under their own names, those of the selective layers with fewer states."""
    changed: dict[int, Tensor] = {}
    for path, chosen in layers.items():
        places, module = products[path].places, model.get_submodule(path)
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


def _of_the_library(model: nn.Module) -> Callable[[Mapping[str, Tensor], int], nn.Module]:
    """Builds a model of the library with another number of states in its configuration."""

    def build(weights: Mapping[str, Tensor], states: int) -> nn.Module:
        config = copy.deepcopy(model.config)
        config.state_size = states  # type: ignore[union-attr]
        made: nn.Module = type(model)(config)
        like = next(model.parameters())
        made.to(like).load_state_dict(dict(weights))
        return made

    return build
