"""One selective layer on data: its parameters by role, and what its states contribute.

The layer's scan is, for every channel,

    h_k(t) = exp(step(t) * pole_k) h_k(t-1) + step(t) * write_k(t) * value(t)

with response ``sum_k read_k(t) h_k(t)``; ``write`` and ``read`` are rows of one projection and
shared by the channels.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, silu, softplus

ROWS = 8192
"""How many rows of products of reads and states are held at once."""


@dataclass(frozen=True)
class Roles:
    """The names of a selective layer's parts.

    Attributes:
        inner, chosen, step, outer: the linear maps to value and output gate; to step, write and
            read; from the low rank to the step; and out of the layer.
        floor: what is added to every step.
        both_ways: whether the scan also runs back, with the two responses added.
    """

    inner: str
    chosen: str
    step: str
    outer: str
    floor: float = 0.0
    both_ways: bool = False


TRANSFORMERS = Roles("in_proj", "x_proj", "dt_proj", "out_proj")
TYPESEG = Roles("inner", "chosen", "step", "outer", floor=1e-4, both_ways=True)


@dataclass(frozen=True, eq=False)
class Products:
    """Sums over the data of products ``Z_kl = read_k(t) h_l(t)``, weighted by what follows.

    The response of a channel at a token is ``sum_k Z_kk``. Its weight is the output gate there
    times the norm of the channel's column of the output projection.

    Attributes:
        gram: the sum of ``Z_kl Z_mn``, as a matrix over pairs.
        states: how many states there are.
    """

    gram: Float[Tensor, "pairs pairs"]
    states: int


def products(model: nn.Module, layer: nn.Module, roles: Roles, batches: Sequence[Any]) -> Products:
    """The products of one layer, summed over ``batches`` of inputs of the model."""
    states = layer.A_log.shape[-1]
    gram = torch.zeros(states**2, states**2, dtype=torch.float64)
    for batch in batches:
        with torch.no_grad(), seen(layer, roles) as found:
            model(batch)
        for rows in _rows(layer, roles, found):
            gram += rows.mT @ rows
    return Products(gram, states)


@contextmanager
def seen(layer: nn.Module, roles: Roles) -> Iterator[dict[str, Tensor]]:
    """Inputs and outputs of the layer's linear maps in the run inside the ``with`` block."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, given: Any, output: Tensor) -> None:
            found[f"{name} in"] = given[0].detach().double()
            found[name] = output.detach().double()

        return hook

    with ExitStack() as hooks:
        for name in (roles.inner, roles.chosen):
            handle = getattr(layer, name).register_forward_hook(keep(name))
            hooks.callback(handle.remove)
        yield found


def _rows(
    layer: nn.Module, roles: Roles, found: dict[str, Tensor]
) -> Iterator[Float[Tensor, "rows pairs"]]:
    """``Z`` of some tokens and channels at a time."""
    states = layer.A_log.shape[-1]
    value, rank = found[f"{roles.chosen} in"], found[roles.chosen].shape[-1] - 2 * states
    low, write, read = found[roles.chosen].split([rank, states, states], dim=-1)
    widened = getattr(layer, roles.step)
    step = linear(low, widened.weight.detach().double(), widened.bias.detach().double())
    step = softplus(step) + roles.floor
    gate = found[roles.inner].chunk(2, dim=-1)[1]
    column = getattr(layer, roles.outer).weight.detach().double().norm(dim=0)
    weight = (silu(gate) * column).unsqueeze(-1)
    pole = -layer.A_log.detach().double().exp()
    held = weight * scanned(value, step, write, pole)
    if roles.both_ways:
        back = scanned(value.flip(1), step.flip(1), write.flip(1), pole).flip(1)
        held = held + weight * back
    for first in range(0, held.shape[2], max(1, ROWS // held[..., 0, 0].numel())):
        some = held[:, :, first : first + max(1, ROWS // held[..., 0, 0].numel())]
        yield torch.einsum("btk,btdl->btdkl", read, some).reshape(-1, states**2)


def scanned(
    value: Float[Tensor, "sample time channel"],
    step: Float[Tensor, "sample time channel"],
    write: Float[Tensor, "sample time state"],
    pole: Float[Tensor, "channel state"],
) -> Float[Tensor, "sample time channel state"]:
    """The states after every token."""
    state, found = value.new_zeros(len(value), *pole.shape), []
    for t in range(value.shape[1]):
        now = step[:, t, :, None]
        state = (now * pole).exp() * state + now * value[:, t, :, None] * write[:, t, None]
        found.append(state)
    return torch.stack(found, dim=1)
