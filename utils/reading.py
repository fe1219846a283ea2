"""Report a file that has been read for minutes, such as one on a network disk that hangs."""

import os
import sys
import threading
import time
from types import TracebackType

STUCK_S = 120.0  # until the first report; each further one comes after twice the time

_open: dict[int, tuple[float, object]] = {}  # start and name of what each thread reads
_watcher: threading.Thread | None = None


class Reading:
    """Context in which this thread reads a file; takes less than a microsecond.

    Args:
        name: Path of the file, or name of the data set.
    """

    __slots__ = ("_before", "name")

    def __init__(self, name: object) -> None:
        self.name = name

    def __enter__(self) -> None:
        thread = threading.get_ident()
        self._before = _open.get(thread)
        _open[thread] = (time.monotonic(), self.name)

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        thread = threading.get_ident()
        if self._before is None:
            del _open[thread]
        else:
            _open[thread] = (time.monotonic(), self._before[1])


def watch_reading() -> None:
    """Start the thread that reports in this process, once."""
    global _watcher
    if _watcher is None:
        _watcher = threading.Thread(target=_report, daemon=True)
        _watcher.start()


def _report() -> None:
    reported: dict[tuple[int, float], float] = {}  # seconds of the last report
    while True:
        time.sleep(STUCK_S / 8)
        now, reads = time.monotonic(), dict(_open)
        keys = {(thread, start): name for thread, (start, name) in reads.items()}
        reported = {key: seconds for key, seconds in reported.items() if key in keys}
        for key, name in keys.items():
            waited = now - key[1]
            if waited >= max(STUCK_S, 2 * reported.get(key, 0)):
                reported[key] = waited
                print(
                    f"\nwarning: {name} has not been read for {waited:.0f} s: check its disk or "
                    "connection; the run continues when it answers",
                    file=sys.stderr,
                    flush=True,
                )


def _forget() -> None:
    """Forget threads of the parent process, which a fork does not have."""
    global _watcher
    _watcher = None
    _open.clear()


os.register_at_fork(after_in_child=_forget)
