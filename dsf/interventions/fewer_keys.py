"""Fewer key channels for Mamba-2, gated delta and Kimi delta layers, made of their own parameters.

Channels come out of a convolution and an activation one by one, so that no weights of the same
class hold a mixture: channels are dropped, the same ones for queries and keys, by the energies of
reads times those of the state's rows, as GHOST does (arXiv:2602.11408). Then the output projection
is fitted to the original outputs by least squares, layer after layer.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dsf.inspection import inspect
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.containers import is_cache
from dsf.inspection.capture.isolation import isolated
from dsf.inspection.errors import InspectionError

REFIT_RIDGE = 1e-4
"""Ridge of the least squares for an output projection, relative to the mean of the diagonal."""
HEADS = {"state_size": "n_groups", "linear_key_head_dim": "num_k_heads", None: "num_heads"}
"""Attribute of a layer with its number of key heads, by its setting."""


@dataclass(frozen=True, eq=False)
class KeyChannels:
    """The key channels of one layer: the rows of parameters that make them, and what they give.

    Attributes:
        rows: for every parameter that makes channels the numbers of its rows, for queries or keys.
        setting: name of the number of channels in the model's configuration; None where values
            have as many, so that dropped channels stay as zeros.
        output: name of the projection behind the mixer.
        energies: for every value head and channel the sums over data of the squares of its reads,
            and of the squares of its row of the state.
        keys: rows of keys on the data, scaled by the same weights.
    """

    layer: str
    rows: tuple[tuple[str, Tensor], ...]
    setting: str | None
    output: str
    heads: int
    energies: Float[Tensor, "2 value_head channel"]
    keys: Float[Tensor, "head sample channel"]

    @property
    def states(self) -> int:
        """Number of channels of a key head."""
        return self.energies.shape[-1]


ChooseKeys = Callable[[KeyChannels, int], Int[Tensor, "head kept"]]
"""Which channels every key head of a layer keeps, in rising order."""


def best_keys(channels: KeyChannels, states: int) -> Int[Tensor, "head kept"]:
    """Return the channels of each key head with the largest energies of reads times states."""
    score = channels.energies.prod(dim=0).unflatten(0, (channels.heads, -1)).sum(dim=1)
    return score.topk(states, dim=-1).indices.sort(dim=-1).values


def key_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {path: module for path, module in model.named_modules() if _rows(module) is not None}


def _rows(module: nn.Module) -> tuple[dict[str, Tensor], str | None, str] | None:
    """Rows of channels by parameter, their setting, and the projection behind; None for others."""
    parameters = dict(module.named_parameters())
    own: Any = module
    if {"in_proj.weight", "conv1d.weight", "A_log"} <= parameters.keys() and hasattr(
        own, "n_groups"
    ):
        heads, count, inner = own.n_groups, own.ssm_state_size, own.intermediate_size
        write = inner + _numbered(heads, count)
        rows = {
            f"conv1d.{kind}": torch.cat([write, write + heads * count])
            for kind in ("weight", "bias")
        }
        rows["in_proj.weight"] = rows["in_proj.bias"] = inner + rows["conv1d.weight"]
        found, setting, output = rows, "state_size", "out_proj"
    elif {"conv1d.weight", "A_log"} <= parameters.keys() and hasattr(own, "head_k_dim"):
        heads, count = own.num_k_heads, own.head_k_dim
        query = _numbered(heads, count)
        both = torch.cat([query, query + heads * count])
        found, setting, output = {"conv1d.weight": both}, "linear_key_head_dim", "out_proj"
        if "in_proj_qkvz.weight" in parameters:
            stride = len(parameters["in_proj_qkvz.weight"]) // heads
            first = stride * torch.arange(heads).unsqueeze(-1) + torch.arange(count)
            found["in_proj_qkvz.weight"] = torch.cat([first, first + count])
        elif "in_proj_qkv.weight" in parameters:
            found["in_proj_qkv.weight"] = both
        else:
            return None
    elif {"q_proj.weight", "k_proj.weight", "conv1d.weight", "forget_gate.A_log"} <= set(
        parameters
    ):
        query = _numbered(own.num_heads, own.head_dim)
        both = torch.cat([query, query + own.num_heads * own.head_dim])
        found = {"q_proj.weight": query, "k_proj.weight": query, "conv1d.weight": both}
        setting, output = None, "o_proj"
    else:
        return None
    return {name: each for name, each in found.items() if name in parameters}, setting, output


def _numbered(heads: int, count: int) -> Int[Tensor, "head channel"]:
    return torch.arange(heads * count).reshape(heads, count)


def key_channels(
    model: nn.Module,
    batches: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
    adapters: Sequence[Adapter] = (),
) -> dict[str, KeyChannels]:
    """Return the key channels of all layers that have them, with what they contribute on data."""
    found: dict[str, KeyChannels] = {}
    paths = key_layers(model)
    for inputs, named in batches:
        inspection = inspect(model, *inputs, adapters=adapters, checks="none", **named)
        layers = {layer.name: layer for layer in inspection}
        for path, module in paths.items():
            rows = _rows(module)
            if path not in layers or rows is None:
                raise InspectionError(
                    f"reduce_states: {path} expected to be read as one mixer, got none. See "
                    "dsf.inspect(...).unsupported."
                )
            system: Any = layers[path].system
            read, states = system.C.squeeze(-2), system.states(layers[path].signal)
            reads = read.double().square().sum(dim=(0, 2))
            energies = torch.stack([reads, states.double().square().sum(dim=(0, 2, 4))])
            mixer: Any = layers[path].mixer
            key = (mixer.write if hasattr(mixer, "write") else mixer.key).double().transpose(0, 1)
            heads = getattr(module, HEADS[rows[1]])
            key = key.flatten(1, 2).unflatten(0, (heads, -1))[:, 0]
            new = KeyChannels(path, tuple(rows[0].items()), rows[1], rows[2], heads, energies, key)
            if path in found:
                earlier = found[path]
                keys = torch.cat([earlier.keys, key], dim=1)
                new = replace(new, energies=earlier.energies + energies, keys=keys)
            found[path] = new
    return found


def fewer_key_weights(
    model: nn.Module,
    channels: Mapping[str, KeyChannels],
    kept: Mapping[str, Int[Tensor, "head kept"]],
) -> dict[str, Tensor]:
    weights = {name: each.detach().clone() for name, each in model.state_dict().items()}
    for path, layer in channels.items():
        for name, rows in layer.rows:
            heads = layer.heads
            dropped = torch.ones_like(rows, dtype=torch.bool)
            # rows of queries and of keys follow each other
            chosen = kept[path].repeat(len(rows) // heads, 1)
            dropped.scatter_(1, chosen, torch.zeros_like(chosen, dtype=torch.bool))
            part = weights[f"{path}.{name}"]
            stays = torch.ones(len(part), dtype=torch.bool)
            stays[rows[dropped]] = False
            if layer.setting is None:
                part[~stays] = 0
            else:
                weights[f"{path}.{name}"] = part[stays]
    return weights


def refit_outputs(
    model: nn.Module,
    smaller: nn.Module,
    channels: Mapping[str, KeyChannels],
    batches: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
) -> None:
    """Fit the output projections of a smaller model to the outputs of the original, in order."""
    for path, layer in channels.items():
        gram = cross = torch.zeros(())
        projection: Any = smaller.get_submodule(f"{path}.{layer.output}")
        for inputs, named in batches:
            whole = model.get_submodule(path)
            wanted = calls_of(model, [whole], inputs, named)[whole][0][2].double().flatten(0, -2)
            args, kwargs, _ = calls_of(smaller, [projection], inputs, named)[projection][0]
            given = args[0] if args else next(iter(kwargs.values()))
            given = given.double().flatten(0, -2)
            if projection.bias is not None:
                wanted = wanted - projection.bias.double()
            gram, cross = gram + given.mT @ given, cross + given.mT @ wanted
        ridge = REFIT_RIDGE * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
        before = projection.weight.detach().double().mT
        after = torch.linalg.solve(gram + ridge, cross + ridge @ before).mT
        with torch.no_grad():
            projection.weight.copy_(after)


def output_errors(
    model: nn.Module,
    smaller: nn.Module,
    channels: Mapping[str, KeyChannels],
    batches: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
) -> dict[str, float]:
    """Return the error of every layer's output on its original input, relative to its norm."""
    errors = {}
    for path in channels:
        apart = size = 0.0
        for inputs, named in batches:
            module = model.get_submodule(path)
            for args, kwargs, output in calls_of(model, [module], inputs, named)[module]:
                alone = {name: each for name, each in kwargs.items() if not is_cache(each)}
                with isolated(smaller):
                    other = smaller.get_submodule(path)(*args, **alone)
                other = other[0] if isinstance(other, tuple) else other
                apart += (other - output).double().square().sum().item()
                size += output.double().square().sum().item()
        errors[path] = (apart / size) ** 0.5
    return errors


def calls_of(
    model: nn.Module, modules: Iterable[nn.Module], inputs: Any, named: Any
) -> dict[nn.Module, list[tuple[Any, Any, Tensor]]]:
    calls: dict[nn.Module, list[tuple[Any, Any, Tensor]]] = {}

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        calls.setdefault(module, []).append((args, kwargs, output.detach()))

    with ExitStack() as hooks, isolated(model):
        for module in set(modules):
            hooks.callback(module.register_forward_hook(note, with_kwargs=True).remove)
        model(*inputs, **named)
    return calls
