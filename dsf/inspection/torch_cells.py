"""torch.nn.LSTMCell, GRUCell and RNNCell: calls that hand on their state become one sequence."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dsf.inspection import torch_rnn
from dsf.inspection.adapter import Adapter
from dsf.inspection.captured import Captured, raised
from dsf.inspection.hooks import Call
from dsf.inspection.whole_cell import WholeCell

KINDS = ((nn.LSTMCell, nn.LSTM), (nn.GRUCell, nn.GRU), (nn.RNNCell, nn.RNN))


def join(calls: Sequence[Call]) -> list[Call]:
    """Every call whose state is what an earlier one put out is the next token of its sequence.

    The first call of a sequence stands for all of it: its input and output get an axis for the
    time in front.
    """
    sequences: list[list[Call]] = []
    for call in calls:
        before = next((one for one in reversed(sequences) if _continues(call, one[-1])), None)
        if before is None:
            sequences.append([call])
        else:
            before.append(call)
    return [_merged(sequence) for sequence in sequences]


def _continues(call: Call, last: Call) -> bool:
    given, left = _states(call.arguments.get("hx")), _states(last.output)
    if len(given) != len(left):
        return False
    return all(torch.equal(now, before) for now, before in zip(given, left, strict=True))


def _states(part: Any) -> tuple[Tensor, ...]:
    if part is None:
        return ()
    return (part,) if isinstance(part, Tensor) else tuple(part)


def _merged(sequence: list[Call]) -> Call:
    first = sequence[0]
    inputs = torch.stack([call.arguments["input"] for call in sequence])
    outputs = torch.stack([call.first_output for call in sequence])
    return Call(first.name, first.module, first.arguments | {"input": inputs}, outputs, first.place)


def split(whole: Captured) -> Iterator[Captured]:
    """The cell as a layer, on the whole sequence, batch first."""
    alone, starts = _as_layer(whole.module), _states(whole.arguments.get("hx"))
    inputs, output = whole.arguments["input"], whole.output
    if inputs.ndim == 2:
        inputs, output = inputs.unsqueeze(1), output.unsqueeze(1)
        starts = tuple(part.unsqueeze(0) for part in starts)
    arguments = {"inputs": inputs.transpose(0, 1), "starts": starts, "reverse": False}
    yield whole.replaced(module=alone, arguments=arguments, output=output.transpose(0, 1))


def _as_layer(cell: Any) -> Any:
    kind = next(layer for single, layer in KINDS if isinstance(cell, single))
    settings = {"nonlinearity": cell.nonlinearity} if kind is nn.RNN else {}
    alone = kind(
        cell.input_size,
        cell.hidden_size,
        bias=cell.bias,
        batch_first=True,
        dtype=torch.float64,
        device=cell.weight_ih.device,
        **settings,
    ).requires_grad_(False)
    for name, weight in alone.named_parameters():
        weight.copy_(raised(getattr(cell, name.removesuffix("_l0"))))
    return alone


ADAPTER = Adapter(
    families={
        "torch.nn.modules.rnn.LSTMCell": "lstm",
        "torch.nn.modules.rnn.GRUCell": "gru",
        "torch.nn.modules.rnn.RNNCell": "elman",
    },
    read=torch_rnn.read,
    finish=torch_rnn.finish,
    axes=torch_rnn.AXES,
    split=split,
    whole=WholeCell.around,
    join=join,
)
