"""Modules whose inside is not understood, closed: every token by itself went through them."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from dsf.inspection.errors import UnreadableError
from dsf.inspection.hooks import kept
from dsf.inspection.stacking.affine import smallest, tensors_in
from dsf.inspection.stacking.following import Follower, Held
from dsf.inspection.stacking.steps import Step

LEAST = 1e-10


@dataclass(frozen=True, eq=False)
class Closed:
    """A module as the smallest matrix that does to each token what it did.

    Attributes:
        args, named: what it was called with: one stream, and things that are no tensors.
        output: what it put out.
    """

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    named: dict[str, Any]
    output: Tensor

    def check(self) -> None:
        """No token's output may depend on another token.

        Of any two tokens some run keeps one and changes the other: they differ in a digit of their
        places.

        Raises:
            UnreadableError: if one does.
        """
        places = torch.arange(self.output.shape[1], device=self.output.device)
        for digit in range(len(places).bit_length()):
            for kept_one in ((places >> digit) % 2 == 0, (places >> digit) % 2 == 1):
                self._check(kept_one)

    def _check(self, unchanged: Bool[Tensor, " time"]) -> None:
        def changed(part: Any) -> Any:
            if not isinstance(part, Tensor):
                return part
            return torch.where(unchanged.unsqueeze(-1), part, 0.9 * part.flip(1))

        args = tuple(changed(part) for part in self.args)
        named = {name: changed(part) for name, part in self.named.items()}
        again = next(tensors_in(self.module(*args, **named)))[:, unchanged]
        before = self.output[:, unchanged]
        if before.numel() and not (again - before).abs().max() <= LEAST * before.abs().max():
            raise UnreadableError(
                f"stack: {self.name} mixes tokens, and it is no mixer that was read. Write an "
                "adapter for it, and pass it to stack as adapters=(MINE,)."
            )


def closed(
    follower: Follower, name: str, module: nn.Module, arguments: Any, output: Any
) -> Closed | None:
    """The module closed, if its output has no step though it had one stream to start from."""
    put_out, given = next(tensors_in(output), None), list(tensors_in(arguments))
    what = follower.find(put_out)
    lost = isinstance(what, Held) and what.as_step is None
    if put_out is None or not lost or len(given) != 1 or given[0].ndim != 3:
        return None
    source = follower.find(given[0])
    if not isinstance(source, Step) or given[0].shape != put_out.shape:
        return None
    args, named = arguments
    kept_output = kept(put_out)
    follower.add(put_out, (source,), *smallest(kept_output, kept(given[0])))
    return Closed(name, module, kept(args), kept(named), kept_output)
