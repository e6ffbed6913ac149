"""Memories of a fixed number of slots, read by softmax over the slots."""

from jaxtyping import Float
from torch import Tensor

from dsf.ingredients.memories import read_from
from dsf.system import System
from dsf.transition import Diagonal


def slot_system(
    *,
    decay: Float[Tensor, "*batch time slot"],
    write: Float[Tensor, "*batch time slot"],
    key: Float[Tensor, "*batch time key"],
    query: Float[Tensor, "*batch time key"],
) -> System:
    """``A_t = diag(decay_t)``, ``B_t = write_t``, ``C_t = softmax over the slots of K_t q_t``.

    The keys K_t that the slots hold are made by the same A and B, from keys in place of values.
    """
    A = Diagonal(decay)

    def scores(held: Tensor, start: int, stop: int) -> Tensor:
        return (held @ query[..., start:stop, :, None]).squeeze(-1)

    read = read_from(A, write, key, scores).softmax(dim=-1)
    return System.from_write_and_read(A, write, read)
