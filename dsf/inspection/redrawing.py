"""Parameters drawn anew, so that a layer mixes its tokens.

Freshly initialised, most recurrent layers look at little more than the current token, and what is
measured on them proves little.
"""

import math

import torch
from torch import Tensor, nn

# Where states live for a few to some dozens of tokens.
RANGES = {
    "A_log": (math.log(0.05), math.log(2.0)),
    "recurrent_param": (-6.0, -3.0),
    "time_decay": (-3.0, 0.5),
    "time_mix_key": (0.0, 1.0),
    "time_mix_value": (0.0, 1.0),
    "time_mix_receptance": (0.0, 1.0),
}


@torch.no_grad()
def redraw(model: nn.Module, rng: torch.Generator) -> None:
    """Draw every parameter so that states live for some tokens and every part takes part.

    Matrices keep the size of what they map; biases of step sizes and parameters of decays, known by
    the names that are usual for them, are drawn from the ranges above.
    """
    for name, part in model.named_parameters():
        part.copy_(_drawn(name, part, rng))


def _drawn(name: str, part: Tensor, rng: torch.Generator) -> Tensor:
    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(part.shape, generator=rng)

    normal = torch.randn(part.shape, generator=rng)
    last = name.rsplit(".", maxsplit=1)[-1]
    if last in ("dt_bias", "dt_proj_bias") or name.endswith("dt_proj.bias"):
        return uniform(math.log(0.02), math.log(0.5)).exp().expm1().log()
    if last in RANGES:
        return uniform(*RANGES[last])
    if name.endswith("fgate_preact.bias"):
        return 2 + normal
    if part.ndim > 1:
        return normal / math.sqrt(part[0].numel() if part.ndim != 3 else part.shape[-1])
    if "norm" in name and last == "weight":
        return 1 + 0.2 * normal
    return 0.3 * normal
