"""Context managers that limit how many threads torch computes with."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


@contextmanager
def limited_to(count: int) -> Iterator[None]:
    """Run the block with ``count`` torch threads, and restore their number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """Run the block with a single torch thread, and restore the number of threads afterwards.

    On a busy machine several threads wait for each other, which costs most in short runs; with one
    thread the order of summation, and so the rounding, is fixed.
    """
    return limited_to(1)
