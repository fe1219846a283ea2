"""Waiting in tests: for what happens, never for how long it takes on some machine."""

import time
from collections.abc import Callable

HANG_S = 600.0  # no honest wait takes as long, however busy the machine is: only a hang does


def wait_until(is_true: Callable[[], bool]) -> None:
    """Return as soon as a condition holds; fail where it never does."""
    end = time.monotonic() + HANG_S
    while not is_true():
        assert time.monotonic() < end, "what the test waits for did not happen"
        time.sleep(0.005)
