"""Worker processes under interruptions: of the terminal, and at awkward moments."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tests.references.script import in_processes
from tests.references.waiting import wait_until
from utils import pools
from utils.pools import process_pool


@pytest.mark.parametrize(("name", "ends"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "Ended")])
def test_an_interruption_while_the_pool_starts_ends_the_work_alone(name: str, ends: str) -> None:
    """Pools that are half started hang, or fail in their own words."""
    script = f"""
import os, signal
from utils.pools import process_pool
class Ended(BaseException): pass
def end(*_): raise Ended
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, end)
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.{name}))
try:
    with process_pool(2): print("started")
except BaseException as error:
    print(type(error).__name__)
"""
    done = in_processes("-c", script)
    assert (done.stdout, done.stderr) == (f"{ends}\n", "")


def _interrupt_itself() -> str:
    os.kill(os.getpid(), signal.SIGINT)
    return "finished"


def test_workers_take_no_notice_of_the_terminal_but_can_be_ended() -> None:
    with process_pool(1) as pool:
        assert pool.submit(_interrupt_itself).result() == "finished"
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
        assert pool.submit(signal.getsignal, signal.SIGTERM).result() == signal.SIG_DFL


def test_what_has_not_begun_is_given_up(tmp_path: Path) -> None:
    with process_pool(1) as pool:
        futures = [pool.submit(wait_until, (tmp_path / "given up").exists) for _ in range(50)]
        futures[-1].add_done_callback(lambda _: (tmp_path / "given up").touch())
    assert sum(future.cancelled() for future in futures) > 40


def test_handlers_of_this_process_stay_as_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with process_pool(1):
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def _note(folder: Path, number: int) -> int:
    (folder / str(number)).touch()
    return number


def test_results_that_nobody_takes_do_not_fill_the_memory(tmp_path: Path) -> None:
    results = pools.in_processes(partial(_note, tmp_path), range(200), num_workers=2)
    assert next(results) == 0
    wait_until((tmp_path / "4").exists)
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) < 20
    assert list(results) == list(range(1, 200))
