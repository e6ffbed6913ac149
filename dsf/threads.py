"""How many threads torch may use, for as long as a block runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """A single thread inside, as many as before afterwards.

    Several would wait for each other on a busy machine, most of all in short runs; and with one,
    sums keep their order.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
