"""torch.nn.LSTM, GRU and RNN: one mixer for every layer and direction.

The layers in the middle put nothing out. They are run again from their weights, one by one, with
torch's own kernels in float64; the last layer is compared with what the module put out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from dsf.inspection.adapter import Adapter
from dsf.inspection.captured import Captured, raised
from dsf.inspection.whole_cell import WholeCell
from dsf.mixers import GRU, LSTM, ElmanRNN

AXES = ("sample", "channel")


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of one length that a recurrent module was given, batch first.

    Attributes:
        suffix: which they are, where the module was given several lengths.
        inputs, outputs: of the whole module.
        starts: h_0, for an LSTM also c_0, with layers and directions in front; empty when absent.
    """

    suffix: str
    inputs: Float[Tensor, "sample time input"]
    outputs: Float[Tensor, "sample time output"]
    starts: tuple[Float[Tensor, "layer sample _"], ...]


def split(whole: Captured) -> Iterator[Captured]:
    """One captured call for every layer and direction, in the order in which they ran."""
    module = whole.module
    twins = [twin(module, layer) for layer in range(module.num_layers)]
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
    """``sample time output``; channels that are systems of their own stand before the time."""
    if mixed.ndim == layer.output.ndim + 2:
        return mixed.squeeze((-2, -1)).mT
    return mixed.squeeze(-1)


def twin(module: Any, layer: int) -> Any:
    """One layer of ``module`` as a module of its own, batch first, in float64."""
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
        device=next(module.parameters()).device,
        **settings,
    ).requires_grad_(False)
    for name, weight in alone.named_parameters():
        weight.copy_(raised(getattr(module, name.replace("_l0", f"_l{layer}"))))
    return alone


def _sequences(whole: Captured) -> Iterator[Sequences]:
    """A batch as it is; a packed one of several lengths sample by sample, so that every reverse
    run starts at the last token of its own sample."""
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
    """``[layer 1, reverse]``, saying only what the module leaves open."""
    parts = [f"layer {layer}"]
    if module.bidirectional:
        parts.append("reverse" if direction else "forward")
    return f"[{', '.join([*parts, suffix] if suffix else parts)}]"


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
)
