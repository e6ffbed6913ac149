"""How the maps of an attention divide into samples and heads, from what its module put out."""

from collections.abc import Sequence
from typing import Any

from einops import rearrange
from torch import Size, Tensor

from dsf.inspection.hooks import Call
from dsf.inspection.products import STACK
from dsf.inspection.whereabouts import Frame, Whereabouts, around


def tell_heads(where: Whereabouts, call: Call, mixed: Tensor) -> None:
    """Once the module of ``call`` is through, note its heads and what stands around them.

    ``heads`` is None where the attention made only some of what the module put out.

    Args:
        mixed: the response as the module has it, ``*batch time channel``.
    """

    def tell(frame: Frame, ran: int, given: Any, output: Any) -> None:
        put_out = first_tensor(output)
        behind = [one.given.shape[-1] for one in frame.projected[ran:]]
        heads = None if put_out is None else heads_of(mixed, put_out, behind)
        call.arguments["heads"] = heads
        if heads is not None:
            value = call.arguments["value"].unflatten(0, (-1, heads))
            merged = rearrange(mixed.flatten(0, -3), "(s h) t c -> s t (h c)", h=heads)
            call.surroundings = around(frame, ran, value, merged, given, output)

    where.when_through(call.module, tell)


def first_tensor(output: Any) -> Tensor | None:
    """What a module put out; the first part where there are several."""
    while isinstance(output, tuple | list | dict) and output:
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output if isinstance(output, Tensor) else None


def heads_of(mixed: Tensor, output: Tensor, behind: Sequence[int] = ()) -> int | None:
    """Heads of every sample; None where the attention is not all of what a module put out.

    Args:
        mixed: the attention's response, ``*batch time channel``.
        output: what the module put out; channels stand last, or second as images have them.
        behind: the widths of what the linear maps behind the attention took.
    """
    if output.shape == mixed.shape and mixed.ndim > STACK:
        return mixed.shape[-3]
    for axis in (-1, 1):
        width = output.shape[axis]
        heads = _heads(mixed, output.movedim(axis, -1).shape[:-1])
        widths = {width, *behind} if axis == -1 else {width}
        if heads is not None and heads * mixed.shape[-1] in widths:
            return heads
    return None


def _heads(mixed: Tensor, tokens: Size) -> int | None:
    """Responses for every token, if these are the tokens of whole samples."""
    steps, maps = mixed.shape[-2], mixed.shape[:-2].numel()
    heads, rest = divmod(maps * steps, max(tokens.numel(), 1))
    if rest or not heads or maps % heads or (mixed.ndim > STACK and mixed.shape[-3] != heads):
        return None
    fits = len(tokens) == 1 or steps in tokens or steps == tokens[1:].numel()
    return heads if fits else None
