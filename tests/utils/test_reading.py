"""A read that hangs is reported with the name of its file, again and again but rarely."""

import threading
import time

import pytest

from tests.references.waiting import wait_until
from utils import reading
from utils.reading import Reading, watch_reading


def test_a_hanging_read_is_reported_with_the_innermost_name(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reading, "STUCK_S", 0.1)
    monkeypatch.setattr(reading, "_watcher", None)
    answered = threading.Event()
    shown: list[str] = []

    def read() -> None:
        with Reading("data"):
            with Reading("data/B4.tif"):
                answered.wait()
            time.sleep(0)

    thread = threading.Thread(target=read)
    thread.start()
    watch_reading()

    def reported(times: int) -> bool:
        shown.extend(capfd.readouterr().err.split("\n"))
        return sum("warning: data/B4.tif has not been read" in line for line in shown) >= times

    started = time.monotonic()
    wait_until(lambda: reported(3))
    assert time.monotonic() - started > 0.4  # after 0.1, 0.2 and 0.4 s
    answered.set()
    thread.join()
    assert not reading._open
