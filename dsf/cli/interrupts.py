"""Interrupts wait while torch is imported: inside of it they may end the process with a dump."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_back() -> Iterator[None]:
    """An interrupt in the ``with`` block takes effect at its end."""
    before = signal.getsignal(signal.SIGINT)
    came: list[tuple[int, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))

    in_main = threading.current_thread() is threading.main_thread()  # others set no handler
    if not callable(before) or not in_main:
        yield
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        before(*came[0])
