"""A context manager that limits torch to one thread."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the block with a single torch thread, and restore the number of threads afterwards.

    On a busy machine several threads wait for each other, which costs most in short runs; with one
    thread the order of summation, and so the rounding, is fixed.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
