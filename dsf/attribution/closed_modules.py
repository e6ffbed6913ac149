"""Modules whose inside cannot be followed, but which treat every token by itself."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from dsf.attribution.affine_steps import Step
from dsf.attribution.linear_parts import smallest, tensors_in
from dsf.attribution.stream_follower import Follower, Frozen
from dsf.inspection.capture.calls import copied
from dsf.inspection.errors import UnreadableError

SAME_TOKEN = 1e-10
"""The largest relative change of a token's output when other tokens are changed."""


@dataclass(frozen=True, eq=False)
class Closed:
    """A module that is frozen, for each token, as the smallest matrix from input to output.

    Attributes:
        args, named: the arguments of the call: one stream, and values that are not tensors.
        output: the output of the call.
    """

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    named: dict[str, Any]
    output: Tensor

    def check(self) -> None:
        """Check, by changing tokens, that no token's output depends on another token.

        For any two tokens some run keeps the one and changes the other, because their positions
        differ in some binary digit.

        Raises:
            UnreadableError: if one depends on another.
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
        if before.numel() and not (again - before).abs().max() <= SAME_TOKEN * before.abs().max():
            raise UnreadableError(
                f"stack: {self.name} mixes tokens, but no adapter read it as a token mixer. Write "
                "an adapter for it, and pass it as stack(model, ..., adapters=(MINE,))."
            )


def closed(
    follower: Follower, name: str, module: nn.Module, arguments: Any, output: Any
) -> Closed | None:
    """The module as ``Closed``, if its one stream is a step and its output cannot be followed."""
    put_out, given = next(tensors_in(output), None), list(tensors_in(arguments))
    what = follower.find(put_out)
    lost = isinstance(what, Frozen) and what.as_step is None
    if put_out is None or not lost or len(given) != 1 or given[0].ndim != 3:
        return None
    source = follower.find(given[0])
    if not isinstance(source, Step) or given[0].shape != put_out.shape:
        return None
    args, named = arguments
    kept_output = copied(put_out)
    follower.add(put_out, (source,), *smallest(kept_output, copied(given[0])))
    return Closed(name, module, copied(args), copied(named), kept_output)
