"""Reads the gated short convolution of lfm2, lfm2_moe and lfm3.

[write gate|read gate|value] = in_proj h      output = out_proj(read gate ⊙ (conv · + b))
"""

from torch import Tensor

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.shared import LONE_PADDING, gated_before, masked, masking, some_rows
from dsf.inspection.whole.stages import Chain
from dsf.mixers import ShortConvolution


def read(layer: Captured) -> ShortConvolution:
    """The convolution this layer applied, with both gates."""
    hidden = masked(layer, layer.arguments["hidden_states"])
    write_gate, read_gate, value = layer.project("in_proj", hidden).chunk(3, dim=-1)
    return ShortConvolution(
        value=value,
        kernel=layer.weights["conv.weight"].squeeze(1),
        bias=layer.weights.get("conv.bias"),
        write_gate=write_gate,
        read_gate=read_gate,
        earlier=gated_before(layer, layer.weights["conv.weight"].shape[-1]),
    )


def enter(layer: Captured) -> Chain:
    """The projection of the values; padding is set to zero before."""
    values = some_rows(layer, "in_proj", lambda rows: rows.chunk(3, dim=-1)[2])
    return Chain((*masking(layer, layer.arguments["hidden_states"]), values))


def leave(layer: Captured, _: Tensor) -> Chain:
    """The output projection."""
    return Chain((layer.projection("out_proj"),))


ADAPTER = Adapter(
    families={
        "transformers.models.lfm2.modeling_lfm2.Lfm2ShortConv": "lfm2",
        "transformers.models.lfm2_moe.modeling_lfm2_moe.Lfm2MoeShortConv": "lfm2_moe",
        "transformers.models.lfm3.modeling_lfm3.Lfm3ShortConv": "lfm3",
    },
    read=read,
    enter=enter,
    leave=leave,
    axes=("sample", "channel"),
    advice=dict.fromkeys(("lfm2", "lfm2_moe"), LONE_PADDING),
)
