"""Signals that announce the end of a run: the first one ends it in order, another one at once."""

import os
import select
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

# SLURM (sbatch --signal=USR1@120), cloud machines and Ctrl-C send them.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_REPEAT_S = 1.0  # torchrun passes on at once what its processes have received already
_DEADLINE_S = 50.0  # for all that a signal leads to; a minute is promised
_PATIENCE_S = 20.0  # for the next step; torchrun, SLURM and clouds give 30 s and more


class Leave:
    """Handler that raises ``SystemExit`` at the first signal, and ends the process at another one.

    Args:
        code: Exit code; None for 128 more than the number of the signal.

    Attributes:
        came: Number of the first signal; None before it.
    """

    def __init__(self, code: int | None) -> None:
        self.code = code
        self.came: int | None = None
        self._at = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Answer a signal.

        Args:
            number: Number of the signal.
            frame: Not used.
        """
        if self.is_first(number):
            self.leave()

    def is_first(self, number: int) -> bool:
        """Note a signal, and return whether it is the first; a later one ends the process."""
        if self.came is None:
            self.came, self._at = number, time.monotonic()
            return True
        if time.monotonic() - self._at > _REPEAT_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        return False

    def leave(self) -> None:
        """Raise ``SystemExit`` for the signal that came."""
        sys.exit(128 + (self.came or 0) if self.code is None else self.code)


class Hold(Leave):
    """Handler that only notes the first signal, for a training to save before its next step.

    If no step comes within 20 s, as during a validation or while data cannot be read, the signal
    ends the run where it is.

    Attributes:
        is_saving: Whether this process writes a checkpoint, which is written to its end.
    """

    is_saving = False

    def __init__(self) -> None:
        super().__init__(os.EX_TEMPFAIL)
        self._before: dict[int, Any] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note a signal, or end the run 20 s after it.

        Args:
            number: Number of the signal.
            frame: Not used.
        """
        if number == signal.SIGALRM and not self.is_saving:
            self.leave()
        if number == signal.SIGALRM or self.is_first(number):
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE_S)

    def start(self) -> None:
        """Note signals from now on."""
        self._before = {each: signal.signal(each, self) for each in (*SIGNALS, signal.SIGALRM)}

    def stop(self) -> None:
        """Restore the handlers before ``start``; without one, nothing is done."""
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def end_in_time() -> None:
    """End the process with exit code 75, 50 s after a signal, if its handlers could not.

    Python calls handlers only between its own instructions, not while a library waits, for example
    for the other processes of a run.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))

    def watch() -> None:
        while os.read(reader, 1)[0] not in SIGNALS:
            pass
        came = time.monotonic()
        while (waited := time.monotonic() - came) < _DEADLINE_S or Hold.is_saving:
            is_repeated = select.select([reader], [], [], 1)[0] and os.read(reader, 1)[0] in SIGNALS
            if is_repeated and waited > _REPEAT_S:
                time.sleep(1)  # for its handler
                os.kill(os.getpid(), signal.SIGKILL)
        os.write(2, b"stopped while a library was waiting: the same command resumes\n")
        os._exit(os.EX_TEMPFAIL)

    threading.Thread(target=watch, daemon=True).start()
