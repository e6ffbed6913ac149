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
from dsf.evaluate.maps import Selection
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Call, Captured, Invocation
from dsf.inspection.capture.precision import home, in_float64
from dsf.inspection.causal.coordinates import MANY, NONE, Coordinates, reduced, varies
from dsf.inspection.causal.operations import is_place
from dsf.inspection.errors import InspectionError
from dsf.inspection.whole.affine_layer import AffineLayer
from dsf.inspection.whole.stages import Tokens
from dsf.mixers import GRU, LSTM, ElmanRNN
from dsf.systems.system import System


@dataclass(frozen=True, eq=False, repr=False)
class WholeCell(AffineLayer):
    """An LSTM, GRU or Elman layer as an affine function of its input, with gates frozen at one run.

    Attributes:
        given: the layer's input in this run.
        system: the system from ``[x; 1]`` to the outputs.
    """

    given: Float[Tensor, "sample time width"]
    system: System

    @classmethod
    def around(cls, mixer: LSTM | GRU | ElmanRNN) -> "WholeCell":
        """The layer that applied ``mixer``."""
        system = mixer.system() if isinstance(mixer, ElmanRNN) else mixer.second_form()
        return cls(given=mixer.inputs, system=system)

    def linear(self, x: Tokens) -> Float[Tensor, "*batch written _"]:
        """The part of the output that is linear in ``x``, without the remainder."""
        front, stacked = x.shape[:-3], x.reshape(-1, *x.shape[-3:])
        ports = torch.cat([stacked, torch.zeros_like(stacked[..., :1])], dim=-1)
        signal = rearrange(ports, "front sample time port -> sample time port front")
        response = respond(replace(self.system, initial=None), signal)
        back = rearrange(response, "sample time output front -> front sample time output")
        return back.reshape(*front, *back.shape[1:])

    @cached_property
    def remainder(self) -> Float[Tensor, "sample written output"]:
        """The part of the output that comes from biases and the initial state."""
        nothing = torch.zeros_like(self.given)
        ports = torch.cat([nothing, torch.ones_like(nothing[..., :1])], dim=-1)
        return respond(self.system, ports.unsqueeze(-1)).squeeze(-1)

    def map(
        self,
        rows: Selection | None = None,  # noqa: ARG002
    ) -> Float[Tensor, "sample channel rows columns"]:
        """Always refused: there is no map of single channels.

        Raises:
            InspectionError: always.
        """
        raise InspectionError(
            "mixer_map: in a recurrent layer of torch the channels feed back into each other, so "
            "that none has a map of its own from the layer's input. layer.whole.contributions() "
            "gives the vector that every token adds, and layer.map() the map of the mixer."
        )


AXES = ("sample", "channel")


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of one length that a recurrent module was given, batch first.

    Attributes:
        suffix: the sample, where the module was given sequences of several lengths.
        inputs, outputs: the inputs and outputs of the whole module.
        starts: the initial states h_0, for an LSTM also c_0, of all layers and directions; empty
            when none were given.
    """

    suffix: str
    inputs: Float[Tensor, "sample time input"]
    outputs: Float[Tensor, "sample time output"]
    starts: tuple[Float[Tensor, "layer sample _"], ...]


def split(whole: Captured) -> Iterator[Captured]:
    """One captured call for every layer and direction, in the order in which they ran."""
    module = whole.module
    twins = [twin(module, layer, whole.weights) for layer in range(module.num_layers)]
    for sequences in _sequences(whole):
        inputs = sequences.inputs
        for layer, alone in enumerate(twins):
            directions = alone.bidirectional + 1
            first = layer * directions
            starts = tuple(part[first : first + directions] for part in sequences.starts)
            outputs = sequences.outputs
            if layer < len(twins) - 1:
                outputs = alone(inputs, _as_torch_wants(starts))[0]
            for k, output in enumerate(outputs.chunk(directions, dim=-1)):
                yield whole.replaced(
                    name=whole.name + _label(module, layer, k, sequences.suffix),
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
    """The mixer of one layer and direction."""
    inputs, starts = layer.arguments["inputs"], layer.arguments["starts"]
    reverse, module = layer.arguments["reverse"], layer.module
    if isinstance(module, nn.LSTM):
        return LSTM.from_module(module, inputs, starts or None, reverse=reverse)
    start = starts[0] if starts else None
    if isinstance(module, nn.GRU):
        return GRU.from_module(module, inputs, start, reverse=reverse)
    return ElmanRNN.from_module(module, inputs, start, reverse=reverse)


def finish(
    layer: Captured, mixed: Shaped[Tensor, "*batch time output channel"]
) -> Shaped[Tensor, "*axes"]:
    """The layer's output, ``sample time output``, also where every channel is its own system."""
    if mixed.ndim == layer.output.ndim + 2:
        return mixed.squeeze((-2, -1)).mT
    return mixed.squeeze(-1)


def twin(module: Any, layer: int, weights: Mapping[str, Tensor]) -> Any:
    """One layer of ``module`` as a module of its own, batch first, in float64.

    Args:
        weights: those in float64, also what the module makes of others when it runs.
    """
    kind = next(cls for cls in (nn.LSTM, nn.GRU, nn.RNN) if isinstance(module, cls))
    directions = module.bidirectional + 1
    width = module.proj_size or module.hidden_size
    settings = {"nonlinearity": module.nonlinearity} if kind is nn.RNN else {}
    if module.proj_size:
        settings["proj_size"] = module.proj_size
    alone = kind(
        module.input_size if layer == 0 else directions * width,
        module.hidden_size,
        bias=module.bias,
        bidirectional=module.bidirectional,
        batch_first=True,
        dtype=torch.float64,
        device=home(next(module.parameters()).device),
        **settings,
    ).requires_grad_(False)
    for name, weight in alone.named_parameters():
        weight.copy_(_weight(module, name.replace("_l0", f"_l{layer}"), weights))
    return alone


def _weight(module: Any, name: str, weights: Mapping[str, Tensor]) -> Tensor:
    """A weight in float64; one that is neither held nor made, as a pruned one, as it was left."""
    return weights[name] if name in weights else in_float64(getattr(module, name))


def _sequences(whole: Captured) -> Iterator[Sequences]:
    """The batch, or its samples one by one where a packed batch has several lengths.

    A reverse direction then starts at the last token of its own sample.
    """
    given, starts = whole.arguments["input"], _starts(whole.arguments.get("hx"))
    if isinstance(given, PackedSequence):
        inputs, lengths = pad_packed_sequence(given, batch_first=True)
        outputs, _ = pad_packed_sequence(given._replace(data=whole.output), batch_first=True)
        if len(set(lengths.tolist())) == 1:
            yield Sequences("", inputs, outputs, starts)
            return
        for k, length in enumerate(lengths.tolist()):
            of_sample = slice(k, k + 1)
            yield Sequences(
                suffix=f"sample {k}",
                inputs=inputs[of_sample, :length],
                outputs=outputs[of_sample, :length],
                starts=tuple(part[:, of_sample] for part in starts),
            )
    elif given.ndim == 2:
        starts = tuple(part.unsqueeze(1) for part in starts)
        yield Sequences("", given.unsqueeze(0), whole.output.unsqueeze(0), starts)
    elif whole.module.batch_first:
        yield Sequences("", given, whole.output, starts)
    else:
        yield Sequences("", given.transpose(0, 1), whole.output.transpose(0, 1), starts)


def _starts(given: Any) -> tuple[Tensor, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, Tensor) else tuple(given)


def _as_torch_wants(starts: tuple[Tensor, ...]) -> Any:
    if len(starts) == 2:
        return tuple(part.contiguous() for part in starts)
    return starts[0].contiguous() if starts else None


def _label(module: Any, layer: int, direction: int, suffix: str) -> str:
    """``[layer 1, reverse]``; the direction only if the module has two."""
    parts = [f"layer {layer}"]
    if module.bidirectional:
        parts.append("reverse" if direction else "forward")
    return f"[{', '.join([*parts, suffix] if suffix else parts)}]"


def join_steps(calls: Sequence[Call]) -> list[Call]:
    """Join calls of a layer into sequences, where each begins with the state that another left.

    Where a later sequence begins with a state that is made of tokens in another way, the first call
    alone is returned, with the reason why there is no map.
    """
    sequences: list[list[Call]] = []
    for call in calls:
        before = next((one for one in reversed(sequences) if _goes_on(call, one[-1])), None)
        if before is None:
            sequences.append([call])
        else:
            before.append(call)
    return _refused(sequences) or [
        _with_tokens(_one_call(sequence), sequence) for sequence in sequences
    ]


CHANGED = (
    "between its calls the state is changed by something else (such as a norm, a gate or an "
    "attention), so that tokens reach later ones outside of it and no map of it has them. Calls "
    "are joined into one sequence where each is given the very state that an earlier one left"
)


def _refused(sequences: Sequence[Sequence[Call]]) -> list[Call]:
    """The first call with the reason, where tokens pass from one sequence to another."""
    if not any(_begins_with_tokens(sequence[0]) for sequence in sequences[1:]):
        return []
    first = sequences[0][0]
    first.refused = CHANGED
    return [first]


def _begins_with_tokens(call: Call) -> bool:
    return any(made is not None and made.planes for made in call.made_of.get("hx", []))


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
    if len(given) != len(sequence) or any(made is None or not made.planes for made in given):
        return call
    lines = [(axis, p) for made in given if len(made.shape) > 1 for axis, p in made.planes.items()]
    if any(is_place(axis) and varies(plane, -1) for axis, plane in lines):
        call.refused = TURNED
        return call
    call.tokens = _tokens_of(first, given)
    return call


def _is_one_of_many(state: Coordinates) -> bool:
    """Whether a state is made of tokens of a sequence, and not of its sample alone."""
    for axis, plane in state.planes.items():
        is_one = plane.numel() > 0 and bool((plane >= 0).all() & (plane == plane.max()).all())
        if is_place(axis) and axis.size > 1 and (is_one or bool((plane == MANY).any())):
            return True
    return False


def _tokens_of(first: Call, given: Sequence[Coordinates]) -> Tensor | None:
    """The token of every step, ``sample time``; -1 where it is none or not a single one."""
    module, shape = first.module, given[0].shape
    is_cell = isinstance(module, nn.RNNCellBase)
    if (not is_cell and len(shape) < 2) or any(made.shape != shape for made in given):
        return None
    time = None if is_cell else (1 if module.batch_first and len(shape) == 3 else 0)
    number: Tensor | None = None
    axes = sorted(dict.fromkeys(a for made in given for a in made.planes), key=lambda a: a.number)
    for axis in filter(is_place, axes):
        if any(varies(made.planes.get(axis), -1) for made in given):
            continue  # channels of single tokens
        lines = [
            reduced(made.planes.get(axis, torch.tensor(NONE).expand(shape)), [-1])[0][..., 0]
            for made in given
        ]
        steps = [line if is_cell else line.expand(shape[:-1]) for line in lines]
        whole = (
            torch.stack([one.expand(shape[:-1]) for one in steps], dim=-1)
            if is_cell
            else (torch.cat([one.movedim(time or 0, -1) for one in steps], dim=-1))
        )
        whole = whole.reshape(-1, whole.shape[-1])
        if not varies(whole, -1):
            continue
        joint = (number if number is not None else torch.zeros_like(whole)) * axis.size + whole
        bad = (whole < 0) | ((number < 0) if number is not None else False)
        number = torch.where(bad, NONE, joint)
    return None if number is None else number.long()


def _goes_on(call: Call, last: Call) -> bool:
    if isinstance(call.arguments.get("input"), PackedSequence) or call.module.bidirectional:
        return False
    given, left = _states(call.arguments.get("hx")), _states(last.output[1])
    if not given or len(given) != len(left):
        return False
    pairs = zip(given, left, strict=True)
    return all(now.shape == before.shape and torch.equal(now, before) for now, before in pairs)


def _one_call(sequence: list[Call]) -> Call:
    first, last = sequence[0], sequence[-1]
    if len(sequence) == 1:
        return first
    given = [call.arguments["input"] for call in sequence]
    time = 1 if first.module.batch_first and given[0].ndim == 3 else 0
    inputs = torch.cat(given, dim=time)
    outputs = torch.cat([call.first_output for call in sequence], dim=time)
    arguments = first.arguments | {"input": inputs}
    weights = [] if first.invocation is None else first.invocation.weights
    invocation = Invocation(first.module, (inputs, first.arguments.get("hx")), {}, weights)
    joined = replace(first, arguments=arguments, output=(outputs, last.output[1]))
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
    axes=AXES,
    split=split,
    whole=WholeCell.around,
    join=join_steps,
)


KINDS = ((nn.LSTMCell, nn.LSTM), (nn.GRUCell, nn.GRU), (nn.RNNCell, nn.RNN))


def join(calls: Sequence[Call]) -> list[Call]:
    """Join the calls of a cell into sequences, one call for each.

    A call whose initial state is the output of an earlier one is the next token of that sequence.
    In the joined call input and output get a leading time axis. Sequences that hand on tokens in
    another way are refused, as those of a layer are.
    """
    sequences: list[list[Call]] = []
    for call in calls:
        before = next((one for one in reversed(sequences) if _continues(call, one[-1])), None)
        if before is None:
            sequences.append([call])
        else:
            before.append(call)
    return _refused(sequences) or [
        _with_tokens(_merged(sequence), sequence) for sequence in sequences
    ]


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


def repeat(cell: Any, arguments: Mapping[str, Any]) -> Tensor:
    """What the cell returns at every token, each state handed on to the next."""
    state, outputs = arguments.get("hx"), []
    for token in arguments["input"]:
        state = cell(token, state)
        outputs.append(_states(state)[0])
    return torch.stack(outputs)


def as_one_layer(whole: Captured) -> Iterator[Captured]:
    """The joined call of a cell as that of a layer on the whole sequence, batch first."""
    alone, starts = _as_layer(whole.module, whole.weights), _states(whole.arguments.get("hx"))
    inputs, output = whole.arguments["input"], whole.output
    if inputs.ndim == 2:
        inputs, output = inputs.unsqueeze(1), output.unsqueeze(1)
        starts = tuple(part.unsqueeze(0) for part in starts)
    arguments = {"inputs": inputs.transpose(0, 1), "starts": starts, "reverse": False}
    yield whole.replaced(module=alone, arguments=arguments, output=output.transpose(0, 1))


def _as_layer(cell: Any, weights: Mapping[str, Tensor]) -> Any:
    kind = next(layer for single, layer in KINDS if isinstance(cell, single))
    settings = {"nonlinearity": cell.nonlinearity} if kind is nn.RNN else {}
    alone = kind(
        cell.input_size,
        cell.hidden_size,
        bias=cell.bias,
        batch_first=True,
        dtype=torch.float64,
        device=home(cell.weight_ih.device),
        **settings,
    ).requires_grad_(False)
    for name, weight in alone.named_parameters():
        weight.copy_(_weight(cell, name.removesuffix("_l0"), weights))
    return alone


CELLS = Adapter(
    families={
        "torch.nn.modules.rnn.LSTMCell": "lstm",
        "torch.nn.modules.rnn.GRUCell": "gru",
        "torch.nn.modules.rnn.RNNCell": "elman",
    },
    read=read,
    finish=finish,
    axes=AXES,
    split=as_one_layer,
    whole=WholeCell.around,
    join=join,
    repeat=repeat,
)
