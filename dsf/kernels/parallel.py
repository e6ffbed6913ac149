"""Independent pieces of one job on as many threads as torch has."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")


def in_parallel(work: Callable[[Piece], None], pieces: Sequence[Piece]) -> None:
    """``work`` done on every piece. Helps where it runs compiled loops, which hold no lock.

    The threads live for one call: kept ones would be dead in a forked process.
    """
    workers = min(torch.get_num_threads(), len(pieces))
    if workers <= 1:
        for piece in pieces:
            work(piece)
        return
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work, piece) for piece in pieces]:
            done.result()
