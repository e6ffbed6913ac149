"""The weights of one layer and direction of ``torch.nn.LSTM``, ``GRU`` or ``RNN``."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

GATES: dict[type[torch.nn.RNNBase], int] = {torch.nn.LSTM: 4, torch.nn.GRU: 3, torch.nn.RNN: 1}


class CellWeights(NamedTuple):
    """Weights with an axis for the gates in front, in torch's order; biases zero where absent."""

    input_weight: Float[Tensor, "gates channel input"]
    recurrent_weight: Float[Tensor, "gates channel output"]
    input_bias: Float[Tensor, "gates channel"]
    recurrent_bias: Float[Tensor, "gates channel"]
    projection: Float[Tensor, "output channel"] | None


def read_cell(
    module: torch.nn.Module, kind: type[torch.nn.RNNBase], *, layer: int, reverse: bool
) -> CellWeights:
    """The weights of ``layer``, of the direction from the last token to the first if ``reverse``.

    Raises:
        TypeError: if the module is not of ``kind``.
        ValueError: if it has no such layer or direction.
    """
    name, gates = kind.__name__, GATES[kind]
    if not isinstance(module, kind):
        raise TypeError(
            f"{name}.from_module: 'module' must be a torch.nn.{name}, "
            f"but it is {type(module).__name__}."
        )
    if not 0 <= layer < module.num_layers:
        raise ValueError(
            f"{name}: there is no layer {layer}; it has {module.num_layers}, counted from 0."
        )
    if reverse and not module.bidirectional:
        raise ValueError(f"{name}: this module has one direction; leave 'reverse' out.")
    suffix = f"l{layer}{'_reverse' if reverse else ''}"
    input_weight = _by_gate(module, f"weight_ih_{suffix}", gates)
    biases = (f"bias_ih_{suffix}", f"bias_hh_{suffix}")
    zero = torch.zeros_like(input_weight[..., 0])
    input_bias, recurrent_bias = (
        _by_gate(module, bias, gates) if module.bias else zero for bias in biases
    )
    return CellWeights(
        input_weight,
        _by_gate(module, f"weight_hh_{suffix}", gates),
        input_bias,
        recurrent_bias,
        getattr(module, f"weight_hr_{suffix}") if module.proj_size else None,
    )


def _by_gate(module: torch.nn.RNNBase, name: str, gates: int) -> Tensor:
    weight: Tensor = getattr(module, name)
    return weight.unflatten(0, (gates, -1))
