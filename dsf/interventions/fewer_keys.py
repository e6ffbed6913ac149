"""Fewer key channels for Mamba-2, gated delta and Kimi delta layers, made of their own parameters.

Channels come out of a convolution and an activation one by one, so that no weights of the same
class hold a mixture: channels are dropped, the same ones for queries and keys, by the energies of
reads times those of the state's rows, as GHOST does (arXiv:2602.11408). Then the output projection
is fitted to the original outputs by least squares, layer after layer.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, cast

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
MIXED = "in_proj_qkv"
"""Projection of gated delta layers, to queries, keys and values at once."""


@dataclass(frozen=True, eq=False)
class KeyRows:
    """The rows of parameters that make the key channels of one layer.

    Attributes:
        rows: for every parameter that makes channels the numbers of its rows, for queries or keys.
        setting: name of the number of channels in the model's configuration; None where values
            have as many, so that dropped channels stay as zeros.
        output: name of the projection behind the mixer.
    """

    rows: Mapping[str, Tensor]
    setting: str | None
    output: str
    heads: int


@dataclass(frozen=True, eq=False)
class KeyChannels(KeyRows):
    """The key channels of one layer, and what they give.

    Attributes:
        energies: for every value head and channel the sums over data of the squares of its reads,
            and of the squares of its row of the state.
        keys: rows of keys on the data, scaled by the same weights.
    """

    layer: str
    energies: Float[Tensor, "2 value_head channel"]
    keys: Float[Tensor, "head sample channel"]

    @property
    def states(self) -> int:
        """Number of channels of a key head."""
        return self.energies.shape[-1]


Calls = Sequence[tuple[tuple[Any, ...], dict[str, Any]]]
"""Inputs of several calls of a model."""


def best_keys(channels: KeyChannels, states: int) -> Int[Tensor, "head kept"]:
    """Return the channels of each key head with the largest energies of reads times states."""
    score = channels.energies.prod(dim=0).unflatten(0, (channels.heads, -1)).sum(dim=1)
    return score.topk(states, dim=-1).indices.sort(dim=-1).values


def key_layers(model: nn.Module) -> dict[str, KeyRows]:
    found = ((path, _rows(module)) for path, module in model.named_modules())
    return {path: rows for path, rows in found if rows is not None}


def _rows(module: nn.Module) -> KeyRows | None:
    parameters = dict(module.named_parameters())
    names, own = parameters.keys(), cast(Any, module)
    scans = {"conv1d.weight", "A_log"} <= names
    if scans and "in_proj.weight" in names and hasattr(own, "n_groups"):
        heads, inner = own.n_groups, own.intermediate_size
        both = inner + _queries_and_keys(heads, own.ssm_state_size)
        rows = dict.fromkeys(("conv1d.weight", "conv1d.bias"), both)
        rows |= dict.fromkeys(("in_proj.weight", "in_proj.bias"), inner + both)
        found = KeyRows(rows, "state_size", "out_proj", heads)
    elif scans and hasattr(own, "head_k_dim") and names & {f"{MIXED}z.weight", f"{MIXED}.weight"}:
        heads, count = own.num_k_heads, own.head_k_dim
        both = _queries_and_keys(heads, count)
        stride = len(parameters.get(f"{MIXED}z.weight", ())) // heads  # head by head
        first = stride * torch.arange(heads).unsqueeze(-1) + torch.arange(count)
        rows = {"conv1d.weight": both, f"{MIXED}.weight": both}
        rows[f"{MIXED}z.weight"] = torch.cat([first, first + count])
        found = KeyRows(rows, "linear_key_head_dim", "out_proj", heads)
    elif {"q_proj.weight", "k_proj.weight", "conv1d.weight", "forget_gate.A_log"} <= names:
        both = _queries_and_keys(own.num_heads, own.head_dim)
        rows = dict.fromkeys(("q_proj.weight", "k_proj.weight"), both[: own.num_heads])
        found = KeyRows(rows | {"conv1d.weight": both}, None, "o_proj", own.num_heads)
    else:
        return None
    return replace(found, rows={name: found.rows[name] for name in found.rows if name in names})


def _queries_and_keys(heads: int, count: int) -> Int[Tensor, "both_heads channel"]:
    return torch.arange(2 * heads * count).reshape(2 * heads, count)


def key_channels(
    model: nn.Module, calls: Calls, adapters: Sequence[Adapter] = ()
) -> dict[str, KeyChannels]:
    """Return the key channels of all layers that have them, with what they contribute on data."""
    found: dict[str, KeyChannels] = {}
    paths = key_layers(model)
    for inputs, named in calls:
        inspection = inspect(model, *inputs, adapters=adapters, checks="none", **named)
        layers = {layer.name: layer for layer in inspection}
        for path, rows in paths.items():
            if path not in layers:
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
            key = key.flatten(1, 2).unflatten(0, (rows.heads, -1))[:, 0]
            new = KeyChannels(**vars(rows), layer=path, energies=energies, keys=key)
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
        for name, rows in layer.rows.items():
            heads = layer.heads
            dropped = torch.ones_like(rows, dtype=torch.bool)
            # rows of queries and of keys follow each other
            chosen = kept[path].repeat(len(rows) // heads, 1)
            dropped.scatter_(1, chosen, torch.zeros_like(chosen, dtype=torch.bool))
            part = weights[f"{path}.{name}"]
            stays = torch.ones(len(part), dtype=torch.bool)
            stays[rows[dropped]] = False
            stays = stays.to(part.device)
            if layer.setting is None:
                part[~stays] = 0
            else:
                weights[f"{path}.{name}"] = part[stays]
    return weights


def refit_outputs(
    model: nn.Module, smaller: nn.Module, channels: Mapping[str, KeyChannels], calls: Calls
) -> None:
    """Fit the output projections of a smaller model to the outputs of the original, in order."""
    for path, layer in channels.items():
        gram = cross = torch.zeros(())
        projection: Any = smaller.get_submodule(f"{path}.{layer.output}")
        for inputs, named in calls:
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
    model: nn.Module, smaller: nn.Module, channels: Mapping[str, KeyChannels], calls: Calls
) -> dict[str, float]:
    """Return the error of every layer's output on its original input, relative to its norm."""
    errors = {}
    for path in channels:
        apart = size = 0.0
        for inputs, named in calls:
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
