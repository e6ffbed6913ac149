"""The Mamba layer: a short convolution before the selective scan S6, an output gate after it."""

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from dsf import mixers
from dsf.layers.heads import divide
from dsf.layers.layer import Layer, Memory
from dsf.layers.selective_state_space import Selection
from dsf.layers.short_filter import ShortFilter


class Mamba(Layer):
    """``SelectiveStateSpace`` on convolved values, with a SiLU output gate.

    With ``d = model_size``, ``n = state_size``, a convolution of K taps and a step of rank
    ``r = ceil(d / 16)`` it has ``3 d^2 + 2 d r + 3 d n + (K + 3) d`` parameters. Its values are as
    wide as the model; published Mamba models make them twice as wide.

    Args:
        model_size: d.
        state_size: n, states of every channel.
        filter_width: K, the taps of the short convolution.

    Raises:
        ShapeError: if a size is below one.

    Source: Gu & Dao 2023, arXiv:2312.00752.
    """

    def __init__(self, model_size: int, *, state_size: int = 16, filter_width: int = 4) -> None:
        super().__init__()
        divide("Mamba", heads=1, model_size=model_size, state_size=state_size)
        self.value = nn.Linear(model_size, model_size, bias=False)
        self.gate = nn.Linear(model_size, model_size, bias=False)
        self.filter = ShortFilter(model_size, filter_width, bias=True)
        self.selection = Selection(model_size, state_size)
        self.out = nn.Linear(model_size, model_size, bias=False)

    def mixer(
        self, x: Float[Tensor, "batch time model"], memory: Memory | None = None
    ) -> mixers.SelectiveStateSpace:
        """The scan over convolved values."""
        return self.selection(functional.silu(self.filter(self.value(x), memory)))

    def finish(
        self, x: Float[Tensor, "batch time model"], mixed: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "batch time model"]:
        """The SiLU output gate, then the output projection."""
        return self.out(mixed[..., 0, 0].mT * functional.silu(self.gate(x)))
