r"""A gated short convolution: a causal filter of a few taps for every channel.

    y_t = r_t (Σ_n kernel[K-1-n] w_{t-n} x_{t-n} + bias)        n = 0 ... K-1

The state is a shift register of the last K gated values; the map is a band of width K.

Source: the gated convolution of LFM2, Liquid AI 2025; the taps lie as in ``torch.nn.Conv1d``.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.mixers.base import Mixer, laws, mixer, normal
from dsf.systems.system import System
from dsf.systems.transition import Shift


@mixer
class ShortConvolution(Mixer):
    """A causal depthwise convolution between two gates. System batch: ``*batch channel``.

    Attributes:
        value: x, the signal that is filtered.
        kernel: the taps; ``kernel[:, -1]`` is the factor of the current token.
        bias: added after the convolution and before ``read_gate``, through a second input port
            whose signal is one.
        write_gate: factor on ``value``; one when absent.
        read_gate: factor on the output; one when absent.
        earlier: the gated values before the first token, the latest last; zero when absent.
    """

    value: Float[Tensor, "*batch time channel"]
    kernel: Float[Tensor, "channel taps"]
    bias: Float[Tensor, " channel"] | None = None
    write_gate: Float[Tensor, "*batch time channel"] | None = None
    read_gate: Float[Tensor, "*batch time channel"] | None = None
    earlier: Float[Tensor, "*batch channel taps"] | None = None

    drawn = laws(bias=normal, write_gate=normal, read_gate=normal)

    def system(self) -> System:
        taps = self.kernel.shape[-1]
        writing, reading = self._factor(self.write_gate), self._factor(self.read_gate)
        slot = torch.arange(taps, device=self.value.device)
        B = torch.where(slot[:, None] == 0, writing[..., None, None], 0)
        C = reading[..., None, None] * self.kernel.flip(-1)[:, None, None, :]
        D = None
        if self.bias is not None:
            B = torch.cat([B, torch.zeros_like(B)], dim=-1)
            added = reading * self.bias.unsqueeze(-1)
            D = torch.stack([torch.zeros_like(added), added], dim=-1).unsqueeze(-2)
        *batch, steps = writing.shape
        A = Shift.register(self.value, batch=torch.Size(batch), steps=steps, size=taps)
        initial = None if self.earlier is None else self.earlier.flip(-1).unsqueeze(-1)
        return System(A=A, B=B, C=C, D=D, initial=initial)

    def _factor(self, factor: Tensor | None) -> Tensor:
        return (torch.ones_like(self.value) if factor is None else factor).mT

    def signal(self) -> Shaped[Tensor, "*batch channel time input 1"]:
        """The values; with a bias also a second port whose signal is one."""
        values = self.value.mT.unsqueeze(-1)
        if self.bias is not None:
            values = torch.cat([values, torch.ones_like(values)], dim=-1)
        return values.unsqueeze(-1)
