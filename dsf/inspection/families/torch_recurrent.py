"""Reads ``torch.nn.LSTM``, ``GRU`` and ``RNN``, and their cells.

``ADAPTER`` reads the modules: each layer and direction becomes a mixer of its own. ``CELLS`` reads
cells that the caller steps token by token: the calls whose states continue one another are joined
into one sequence. ``WholeCell`` is such a layer from its input to its output.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from dsf.evaluate import respond
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Call, Captured, Invocation, time_axis
from dsf.inspection.capture.precision import home, in_float64
from dsf.inspection.causal.coordinates import MANY, Coordinates, is_place, varies
from dsf.inspection.causal.roles import tokens_along
from dsf.inspection.causal.rules import varying
from dsf.inspection.whole.stages import AffineLayer, Tokens
from dsf.mixers import GRU, LSTM, ElmanRNN
from dsf.systems.system import System


@dataclass(frozen=True, eq=False, repr=False)
class WholeCell(AffineLayer):
    """An LSTM, GRU or Elman layer as an affine function of its input, gates frozen at one run."""

    given: Float[Tensor, "sample time width"]
    system: System

    @classmethod
    def around(cls, mixer: LSTM | GRU | ElmanRNN) -> "WholeCell":
        system = mixer.system() if isinstance(mixer, ElmanRNN) else mixer.second_form()
        return cls(given=mixer.inputs, system=system)

    def linear(self, x: Tokens) -> Float[Tensor, "*batch written _"]:
        front, stacked = x.shape[:-3], x.reshape(-1, *x.shape[-3:])
        ports = torch.cat([stacked, torch.zeros_like(stacked[..., :1])], dim=-1)
        signal = rearrange(ports, "front sample time port -> sample time port front")
        response = respond(replace(self.system, initial=None), signal)
        back = rearrange(response, "sample time output front -> front sample time output")
        return back.reshape(*front, *back.shape[1:])

    @cached_property
    def remainder(self) -> Float[Tensor, "sample written output"]:
        nothing = torch.zeros_like(self.given)
        ports = torch.cat([nothing, torch.ones_like(nothing[..., :1])], dim=-1)
        return respond(self.system, ports.unsqueeze(-1)).squeeze(-1)


def split(whole: Captured) -> Iterator[Captured]:
    """One captured call for every layer and direction, in the order in which they ran.

    A reverse direction starts at the last token of its own sample.
    """
    module = whole.module
    count = getattr(module, "num_layers", 1)  # a cell is one layer
    twins = [twin(module, layer, whole.weights) for layer in range(count)]
    for suffix, given, put_out, begin in _sequences(whole):
        inputs = given
        for layer, alone in enumerate(twins):
            directions = alone.bidirectional + 1
            first = layer * directions
            starts = tuple(part[first : first + directions] for part in begin)
            outputs = put_out
            if layer < count - 1:
                states = tuple(part.contiguous() for part in starts)
                outputs = alone(inputs, states if len(states) == 2 else next(iter(states), None))[0]
            for k, output in enumerate(outputs.chunk(directions, dim=-1)):
                yield replace(
                    whole,
                    name=whole.name + _label(module, layer, k, suffix),
                    module=alone,
                    arguments={
                        "inputs": inputs,
                        "starts": tuple(part[k] for part in starts),
                        "reverse": k == 1,
                    },
                    output=output,
                )
            inputs = outputs


def read(layer: Captured) -> LSTM | GRU | ElmanRNN:
    inputs, starts = layer.arguments["inputs"], layer.arguments["starts"]
    reverse, module = layer.arguments["reverse"], layer.module
    if isinstance(module, nn.LSTM):
        return LSTM.from_module(module, inputs, starts or None, reverse=reverse)
    kind = GRU if isinstance(module, nn.GRU) else ElmanRNN
    return kind.from_module(module, inputs, starts[0] if starts else None, reverse=reverse)


def finish(
    layer: Captured, mixed: Shaped[Tensor, "*batch time output channel"]
) -> Shaped[Tensor, "*axes"]:
    """The layer's output, ``sample time output``, also where every channel is its own system."""
    if mixed.ndim == layer.output.ndim + 2:
        return mixed.squeeze((-2, -1)).mT
    return mixed.squeeze(-1)


KINDS = ((nn.LSTM, nn.LSTMCell), (nn.GRU, nn.GRUCell), (nn.RNN, nn.RNNCell))


def twin(module: Any, layer: int, weights: Mapping[str, Tensor]) -> Any:
    """One layer of ``module``, or a cell, as a layer of its own, batch first, in float64."""
    kind = next(kind for kind, cell in KINDS if isinstance(module, kind | cell))
    is_cell, projected = _is_cell(module), 0
    settings: dict[str, Any] = {} if is_cell else {"bidirectional": module.bidirectional}
    if kind is nn.RNN:
        settings["nonlinearity"] = module.nonlinearity
    if kind is nn.LSTM and not is_cell:
        projected = settings["proj_size"] = module.proj_size
    width = (projected or module.hidden_size) * (settings.get("bidirectional", False) + 1)
    alone = kind(
        module.input_size if layer == 0 else width,
        module.hidden_size,
        bias=module.bias,
        batch_first=True,
        dtype=torch.float64,
        device=home(next(module.parameters()).device),
        **settings,
    ).requires_grad_(False)
    for name, weight in alone.named_parameters():
        own = name.replace("_l0", "" if is_cell else f"_l{layer}")
        weight.copy_(weights[own] if own in weights else in_float64(getattr(module, own)))
    return alone


def _is_cell(module: nn.Module) -> bool:
    return isinstance(module, nn.RNNCellBase)


def _sequences(whole: Captured) -> Iterator[tuple[str, Tensor, Tensor, tuple[Tensor, ...]]]:
    """A name, inputs and outputs, ``sample time _``, and first states of sequences of one length.

    The batch, or its samples one by one where a packed batch has several lengths.
    """
    given, starts = whole.arguments["input"], _states(whole.arguments.get("hx"))
    if _is_cell(whole.module):
        starts = tuple(part.unsqueeze(0) for part in starts)
    if isinstance(given, PackedSequence):
        inputs, lengths = pad_packed_sequence(given, batch_first=True)
        outputs, _ = pad_packed_sequence(given._replace(data=whole.output), batch_first=True)
        if len(set(lengths.tolist())) == 1:
            yield "", inputs, outputs, starts
            return
        for k, length in enumerate(lengths.tolist()):
            own = slice(k, k + 1), slice(length)
            yield (
                f"sample {k}",
                inputs[own],
                outputs[own],
                tuple(part[:, own[0]] for part in starts),
            )
        return
    outputs = whole.output
    if given.ndim == 2:
        given, outputs = given.unsqueeze(0), outputs.unsqueeze(0)
        starts = tuple(part.unsqueeze(1) for part in starts)
    elif not getattr(whole.module, "batch_first", False):
        given, outputs = given.transpose(0, 1), outputs.transpose(0, 1)
    yield "", given, outputs, starts


def _label(module: Any, layer: int, direction: int, suffix: str) -> str:
    """``[layer 1, reverse]``; the direction only if the module has two, and none of a cell."""
    if _is_cell(module):
        return ""
    parts = [f"layer {layer}"]
    if module.bidirectional:
        parts.append("reverse" if direction else "forward")
    return f"[{', '.join([*parts, suffix] if suffix else parts)}]"


def join(calls: Sequence[Call]) -> list[Call]:
    """Join calls into sequences, where each begins with the state that another left.

    Where a later one begins with a state that is made of tokens in another way, the first call
    alone is returned, with the reason why there is no map.
    """
    sequences: list[list[Call]] = []
    for call in calls:
        before = next((one for one in reversed(sequences) if _continues(call, one[-1])), None)
        if before is None:
            sequences.append([call])
        else:
            before.append(call)
    states = (made for sequence in sequences[1:] for made in sequence[0].made_of.get("hx", []))
    if any(made is not None and made.planes for made in states):
        calls[0].refused = CHANGED
        return [calls[0]]
    return [_with_tokens(_joined(sequence), sequence) for sequence in sequences]


CHANGED = (
    "between its calls the state is changed by something else (such as a norm, a gate or an "
    "attention), so that tokens reach later ones outside of it and no map of it has them. Calls "
    "are joined into one sequence where each is given the very state that an earlier one left"
)


BEGINS = (
    "the state that it begins with is made of tokens, which reach all of its own tokens; no map "
    "has them"
)
TURNED = (
    "its features are tokens and its steps are something else, so that its map is none of tokens. "
    "Give it its tokens along time"
)


def _with_tokens(call: Call, sequence: Sequence[Call]) -> Call:
    """The call of a sequence with the token of every step, and what its map leaves out."""
    first = sequence[0]
    states = [made for made in first.made_of.get("hx", []) if made is not None]
    if any(map(_is_one_of_many, states)):
        call.besides = BEGINS
    given = [made for one in sequence for made in one.made_of.get("input", [])[:1]]
    whole = call.arguments["input"]
    if len(given) != len(sequence) or not isinstance(whole, Tensor):
        return call
    time = None if _is_cell(first.module) else time_axis(first.module, whole.ndim)
    known = [made for made in given if made is not None and made.planes]
    if len(known) < len(given):
        call.tokens = torch.full((1, whole.shape[time or 0]), -1)
        return call
    call.tokens = tokens_along(known, time)
    if time is None:
        call.counted = set(), {x for x in known[0].positions if varies(known[0].planes[x], 0)}
    lines = [made.planes[axis] for made in known if len(made.shape) > 1 for axis in made.positions]
    are_tokens = call.tokens is not None and bool((call.tokens >= 0).any())
    if not are_tokens and any(varying(line) == [-1] for line in lines):
        call.refused = TURNED
    return call


def _is_one_of_many(state: Coordinates) -> bool:
    """Whether a state is made of tokens of a sequence, and not of its sample alone."""
    for axis, plane in state.planes.items():
        is_one = plane.numel() > 0 and bool((plane >= 0).all() & (plane == plane.max()).all())
        if is_place(axis) and axis.size > 1 and (is_one or bool((plane == MANY).any())):
            return True
    return False


def _continues(call: Call, last: Call) -> bool:
    module, left = call.module, last.output
    if not _is_cell(module):
        left = left[1]
        if isinstance(call.arguments.get("input"), PackedSequence) or module.bidirectional:
            return False
    given, left = _states(call.arguments.get("hx")), _states(left)
    return len(given) == len(left) and all(map(torch.equal, given, left))


def _states(part: Any) -> tuple[Tensor, ...]:
    if part is None:
        return ()
    return (part,) if isinstance(part, Tensor) else tuple(part)


def _joined(sequence: list[Call]) -> Call:
    first, last = sequence[0], sequence[-1]
    inputs = [call.arguments["input"] for call in sequence]
    outputs = [call.first_output for call in sequence]
    if _is_cell(first.module):
        arguments = first.arguments | {"input": torch.stack(inputs)}
        return Call(first.name, first.module, arguments, torch.stack(outputs), time=first.time)
    if len(sequence) == 1:
        return first
    time = time_axis(first.module, inputs[0].ndim)
    whole, output = torch.cat(inputs, dim=time), torch.cat(outputs, dim=time)
    weights = [] if first.invocation is None else first.invocation.weights
    invocation = Invocation(first.module, (whole, first.arguments.get("hx")), {}, weights)
    joined = replace(
        first, arguments=first.arguments | {"input": whole}, output=(output, last.output[1])
    )
    joined.invocation = invocation
    invocation.calls.append(joined)
    return joined


ADAPTER = Adapter(
    families={
        "torch.nn.modules.rnn.LSTM": "lstm",
        "torch.nn.modules.rnn.GRU": "gru",
        "torch.nn.modules.rnn.RNN": "elman",
    },
    read=read,
    finish=finish,
    axes=("sample", "channel"),
    split=split,
    whole=WholeCell.around,
    join=join,
)


def repeat(cell: Any, arguments: Mapping[str, Any]) -> Tensor:
    """What the cell returns at every token, each state handed on to the next."""
    state, outputs = arguments.get("hx"), []
    for token in arguments["input"]:
        state = cell(token, state)
        outputs.append(_states(state)[0])
    return torch.stack(outputs)


CELLS = replace(
    ADAPTER,
    families={
        "torch.nn.modules.rnn.LSTMCell": "lstm",
        "torch.nn.modules.rnn.GRUCell": "gru",
        "torch.nn.modules.rnn.RNNCell": "elman",
    },
    repeat=repeat,
)
