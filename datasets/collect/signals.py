"""Signals that ask a process to end."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ending_signals(action: Callable[[str], None]) -> Iterator[None]:
    """Call ``action`` with the name of each SIGTERM or SIGINT that comes meanwhile.

    Only the main thread can do so.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        action(signal.Signals(number).name)

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
