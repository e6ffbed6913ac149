"""Matrix memories and delta rules by the kernels of flash-linear-attention, where installed.

They multiply in TF32, with ten bits of mantissa, so they are used only on request. The functions
and their arguments are those of fla-core 0.6.0.
"""

from importlib import import_module
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

# TF32 rounds every factor by up to 5e-4; trials with factors rounded so had errors of 2e-3.
TOLERANCE = 5e-3
MOST_HEADS = 65_535  # along one axis of a launch grid
FAINT = 1e-30  # decays up to this count as zero: nothing is left in the memory


class Function(NamedTuple):
    """A function of the library, by module and name, and its label in messages."""

    label: str
    module: str
    name: str


# chunk_delta_rule refuses single precision: a delta rule without decay is a gated one.
FUNCTIONS = {
    "scalar": Function("one decay a token (fla)", "fla.ops.simple_gla", "chunk_simple_gla"),
    "diagonal": Function("one decay a state (fla)", "fla.ops.gla", "chunk_gla"),
    "scalar delta": Function(
        "delta rule (fla)", "fla.ops.gated_delta_rule", "chunk_gated_delta_rule"
    ),
    "diagonal delta": Function("delta rule, one decay a state (fla)", "fla.ops.kda", "chunk_kda"),
}


class Call(NamedTuple):
    """A function of the library and its arguments, ``head time 1 ...``.

    The axes of the library are ``batch time head ...``. Every head is passed as a sequence with one
    head, so that tensors need not be copied.
    """

    module: str
    name: str
    arguments: dict[str, Any]

    @property
    def function(self) -> Any:
        """The library's function."""
        return getattr(import_module(self.module), self.name)

    def answer(
        self,
    ) -> tuple[Float[Tensor, "head time channel"], Float[Tensor, "head state channel"]]:
        """The response, and the state after the last token."""
        response, leaving = self.function(**self.arguments)
        return response.squeeze(2), leaving.squeeze(1)


def call(
    decay: Float[Tensor, "head time decays"],
    gain: Float[Tensor, "head time"],
    write: Float[Tensor, "head time state"],
    read: Float[Tensor, "head time state"],
    look: Float[Tensor, "head time state"] | None,
    signal: Float[Tensor, "head time channel"],
    entering: Float[Tensor, "head state channel"],
) -> Call | None:
    """The call of the library that computes these memories, read after their update.

    None where it cannot: a negative decay has no logarithm, the look-up vector of a delta rule must
    be proportional to its write vector, and there may be at most 65,535 heads.
    """
    if len(signal) > MOST_HEADS or bool((decay < 0).any()):
        return None
    parts = {"q": read, "k": write, "v": gain.unsqueeze(-1) * signal, "g": _logarithm(decay)}
    if look is not None:
        found = _key_and_rate(decay, write, look)
        if found is None:
            return None
        parts["k"], parts["beta"] = found
    if decay.shape[-1] == 1:
        parts["g"] = parts["g"].squeeze(-1)
    structure = "scalar" if decay.shape[-1] == 1 else "diagonal"
    _, module, name = FUNCTIONS[structure if look is None else f"{structure} delta"]
    arguments: dict[str, Any] = {part: given.unsqueeze(2) for part, given in parts.items()}
    arguments |= {"scale": 1.0, "initial_state": entering.unsqueeze(1), "output_final_state": True}
    return Call(module, name, arguments)


def _logarithm(decay: Tensor) -> Tensor:
    """The logarithm, for a decay of zero that of the smallest normal number.

    The library adds logarithms in single precision: with -1e4 for zero, the tokens after it lost
    two digits; with -inf they became NaN.
    """
    return decay.clamp(min=torch.finfo(decay.dtype).tiny).log()


def _key_and_rate(decay: Tensor, write: Tensor, look: Tensor) -> tuple[Tensor, Tensor] | None:
    """The key and rate with ``write = rate key`` and ``look = decay key``, or None.

    Where all decays are zero, ``look`` does not constrain the key.
    """
    most = decay.amax(dim=-1, keepdim=True)
    share, seen = (torch.where(most > FAINT, part / most, 0) for part in (decay, look))
    kept = share * write
    energy = seen.square().sum(dim=-1, keepdim=True)
    rate = torch.where(energy > 0, (kept * seen).sum(dim=-1, keepdim=True) / energy, 1)
    apart = (kept - rate * seen).abs()
    if bool((apart > 1e-5 * kept.abs().amax(dim=-1, keepdim=True)).any()):
        return None
    return write / torch.where(rate == 0, 1, rate), rate.squeeze(-1)
