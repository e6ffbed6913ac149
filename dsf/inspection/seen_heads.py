"""How the maps of an attention divide into samples and heads, from what its module put out."""

from math import prod
from typing import Any

from einops import rearrange
from torch import Tensor

from dsf.inspection.hooks import Call
from dsf.inspection.whereabouts import Frame, Whereabouts, around


def tell_heads(where: Whereabouts, call: Call, mixed: Tensor) -> None:
    """Once the module of ``call`` is through, note its heads and what stands around them.

    ``heads`` is None where the attention made only some of what the module put out.

    Args:
        mixed: the response as the module has it, ``*batch time channel``.
    """

    def tell(frame: Frame, ran: int, given: Any, output: Any) -> None:
        put_out = first_tensor(output)
        heads = None if put_out is None else heads_of(mixed, put_out)
        widths = [one.given.shape[-1] for one in frame.projected[ran:]]
        if heads is None or put_out is None:
            call.arguments["heads"] = None
            return
        merged = rearrange(mixed.flatten(0, -3), "(s h) t c -> s t (h c)", h=heads)
        if merged.shape[-1] not in (*widths, *put_out.shape[1:]) and put_out.shape != mixed.shape:
            heads = None
        call.arguments["heads"] = heads
        if heads is not None:
            value = call.arguments["value"].unflatten(0, (-1, heads))
            call.surroundings = around(frame, ran, value, merged, given, output)

    where.when_through(call.module, tell)


def first_tensor(output: Any) -> Tensor | None:
    """What a module put out; the first part where there are several."""
    while isinstance(output, tuple | list | dict) and output:
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output if isinstance(output, Tensor) else None


def heads_of(mixed: Tensor, output: Tensor) -> int | None:
    """Heads of every sample; None where the attention wrote other tokens than ``output`` has."""
    steps, maps = mixed.shape[-2], mixed.shape[:-2].numel()
    if output.shape == mixed.shape:
        return mixed.shape[-3]
    last, second = output.shape[:-1], (output.shape[0], *output.shape[2:])  # where channels stand
    for shape in (last, second):
        tokens = prod(shape)
        heads, rest = divmod(maps * steps, tokens) if tokens else (0, 0)
        fits = len(shape) == 1 or steps in shape or tokens == output.shape[0] * steps
        if rest == 0 and heads > 0 and maps % heads == 0 and fits:
            return heads
    return None
