"""Worker processes that end with this one, and without a traceback when it is interrupted."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, parent_process
from typing import Any

from utils.errors import UserError


def in_processes(
    work: Callable[[Any], Any], tasks: Sequence[Any], num_workers: int, *, ahead: int = 4
) -> Iterator[Any]:
    """Yield the result of each task in order.

    Args:
        work: Function that processes can receive; each receives it once.
        tasks: Its arguments.
        num_workers: Processes to use; 0 works in this one.
        ahead: Results per process that wait at most to be taken.
    """
    if num_workers == 0 or not tasks:
        yield from map(work, tasks)
        return
    waiting: deque[Future[Any]] = deque()
    with process_pool(min(num_workers, len(tasks)), work) as pool:
        for task in tasks:
            waiting.append(pool.submit(_work_on, task))
            if len(waiting) > ahead * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def process_pool(
    num_workers: int, work: Callable[[Any], Any] | None = None
) -> Iterator[ProcessPoolExecutor]:
    """Provide a pool of processes; at the end, tasks that have not started are cancelled.

    Ctrl-C in a terminal reaches all processes: the workers ignore it and finish their current task,
    and this process ends the work.

    Args:
        num_workers: Number of processes, at least 1.
        work: What the tasks of ``in_processes`` call.

    Raises:
        UserError: A process was killed.
    """
    pool = ProcessPoolExecutor(num_workers, initializer=_start, initargs=(work,))
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


_work: Callable[[Any], Any] | None  # of a worker process


def _start(work: Callable[[Any], Any] | None) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _work_on(task: Any) -> Any:
    assert _work is not None
    return _work(task)


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
