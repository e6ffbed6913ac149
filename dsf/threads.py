"""How many threads torch may use, for as long as a block runs."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


@contextmanager
def limited_to(count: int) -> Iterator[None]:
    """So many threads inside, as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """A single thread inside, as many as before afterwards.

    Several would wait for each other on a busy machine, most of all in short runs; and with one,
    sums keep their order.
    """
    return limited_to(1)
