"""Reads log-linear Mamba-2 of the ``fla`` package.

[z|x|write|read|dt|dl] = in_proj h      [x|write|read] = SiLU(conv · + b)
step = softplus(dt + dt_bias)      key = step write      log decay = -exp(A_log) step
level scale = softplus(L dl)      output = out_proj(norm(scan + D x, z))

Padding is set to zero before ``in_proj``, before the convolution and behind it. The layer runs on
graphics cards only.

Source: flash-linear-attention 0.6.0, ``fla/layers/log_linear_mamba2.py``.
"""

from torch import Tensor
from torch.nn.functional import silu, softplus

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.fla_shared import TOLERANCE, hidden
from dsf.inspection.families.shared import (
    by_head,
    convolution,
    epsilon_of,
    masked,
    masking,
    rms_factor,
    some_rows,
)
from dsf.inspection.whole.stages import Chain, Scale, secant
from dsf.mixers import LogLinearAttention


def read(layer: Captured) -> LogLinearAttention:
    """The attention that this layer computed."""
    module = layer.module
    _, mixed, raw, levels = _projected(layer)
    mixed = masked(layer, silu(convolution(layer, "conv1d")(masked(layer, mixed))))
    shared = module.n_groups * module.ssm_state_size
    x, write, query = mixed.split([module.intermediate_size, shared, shared], dim=-1)
    step = softplus(raw + layer.weights["dt_bias"]).mT
    times = module.num_heads // module.n_groups
    key, query = (
        by_head(part, module.n_groups).repeat_interleave(times, dim=1) for part in (write, query)
    )
    scale = softplus(layer.weights["L"].unsqueeze(1) * by_head(levels, module.num_heads))
    return LogLinearAttention(
        query=query,
        key=step.unsqueeze(-1) * key,
        value=by_head(x, module.num_heads),
        log_decay=-layer.weights["A_log"].exp().unsqueeze(-1) * step,
        level_scale=scale,
        feedthrough=layer.weights["D"].expand(len(x), -1),
    )


def enter(layer: Captured) -> Chain:
    """Projection, convolution, activation; padding is set to zero before and after."""
    x, width = hidden(layer), layer.module.intermediate_size
    mask = masking(layer, x)
    rows = some_rows(layer, "in_proj", lambda both: both[..., width : 2 * width])
    linear = Chain((*mask, rows, *mask, convolution(layer, "conv1d", slice(width))))
    return Chain((*linear, Scale(secant(silu, linear(x))), *mask))


def leave(layer: Captured, response: Tensor) -> Chain:
    """Output gate and norm as one factor, then the output projection."""
    factor = silu(_projected(layer)[0])
    if "norm.weight" in layer.weights:
        norm, groups = layer.module.norm, layer.module.n_groups
        seen = response if norm.norm_before_gate else factor * response
        split = rms_factor(seen.unflatten(-1, (groups, -1)), epsilon=epsilon_of(norm))
        each = split.squeeze(-1).repeat_interleave(response.shape[-1] // groups, dim=-1)
        factor = layer.weights["norm.weight"] * factor * each
    return Chain((Scale(factor), layer.projection("out_proj")))


def _projected(layer: Captured) -> tuple[Tensor, ...]:
    """z, the input of the convolution, the step before its softplus, the levels before theirs."""
    module = layer.module
    heads, width = module.num_heads, module.intermediate_size
    sizes = [width, module.conv_dim, heads, heads * module.num_lambda_dims]
    return layer.project("in_proj", hidden(layer)).split(sizes, dim=-1)


ADAPTER = Adapter(
    families={"fla.layers.log_linear_mamba2.LogLinearMamba2": "log_linear_mamba2"},
    read=read,
    enter=enter,
    leave=leave,
    tolerance=TOLERANCE,
)
