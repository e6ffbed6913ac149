"""Independent pieces of work on as many threads as torch uses."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import torch

Piece = TypeVar("Piece")


def in_parallel(work: Callable[[Piece], None], pieces: Sequence[Piece]) -> None:
    """Call ``work`` on every piece, in threads: compiled loops release the interpreter lock.

    The threads are started anew in every call, since a pool would not survive a fork.
    """
    workers = min(torch.get_num_threads(), len(pieces))
    if workers <= 1:
        for piece in pieces:
            work(piece)
        return
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work, piece) for piece in pieces]:
            done.result()


def shares(count: int) -> list[slice]:
    """Nearly equal parts of so many pieces, one for every thread."""
    parts = min(torch.get_num_threads(), count)
    bounds = [k * count // parts for k in range(parts + 1)] if parts else []
    return [slice(*each) for each in pairwise(bounds)]
