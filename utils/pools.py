"""Worker processes that end without a traceback when the work is interrupted."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from utils.errors import UserError


@contextmanager
def process_pool(
    num_workers: int, start: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """Provide a pool of processes; at the end, tasks that have not started are cancelled.

    Ctrl-C in a terminal reaches all processes: the workers ignore it and finish their current task,
    and this process ends the work.

    Args:
        num_workers: Number of processes, at least 1.
        start: Function that each process calls first.
        arguments: Arguments of ``start``.

    Raises:
        UserError: A process was killed.
    """
    pool = ProcessPoolExecutor(num_workers, initializer=_start, initargs=(start, arguments))
    try:
        with _signals_held():
            pool.submit(int)  # any work starts the processes
        yield pool
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, perhaps because the memory is full: run the same command "
            "again with fewer --num_workers; finished work is kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if start is not None:
        start(*arguments)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Delay interruptions: a partially started pool can be neither used nor shut down."""
    came: list[int] = []
    # Other threads cannot set handlers and are never interrupted.
    in_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for signalled in came:
            signal.raise_signal(signalled)
