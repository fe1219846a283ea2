"""Many threads at one limit: nobody sleeps beside a free slot, nobody is too much."""

import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for

import pytest

from datasets.collect.rate_limit import RateLimit, Requester, Stopped
from tests.references.waiting import HANG_S, wait_until
from utils.retry import Transient

LONG_S = 10 * HANG_S  # of the waits that are cut short


def sleepers(limit: RateLimit) -> int:
    return len(limit._changed._waiters) + len(limit._ended._waiters)  # type: ignore[attr-defined]


def test_a_free_slot_goes_to_who_waits_for_it_not_to_who_waits_for_a_repeat() -> None:
    limit = RateLimit(1, 1e6)
    has_slot = threading.Event()

    def take() -> None:
        with limit.slot():
            has_slot.set()

    with ThreadPoolExecutor(2) as pool:
        with limit.slot():
            pool.submit(limit.wait, LONG_S)
            wait_until(lambda: sleepers(limit) == 1)
            pool.submit(take)
            wait_until(lambda: sleepers(limit) == 2)
        assert has_slot.wait(HANG_S)
        limit.close()


def test_no_more_requests_than_the_limit_are_in_flight_and_all_get_their_turn() -> None:
    limit, lock, together = RateLimit(4, 1e6), threading.Lock(), threading.Barrier(4)
    now, most = 0, 0

    def request() -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(HANG_S)  # all slots are taken each time
        with lock:
            now -= 1
        return 1

    requester = Requester(limit)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: requester.call(request), range(200)))
    assert (sum(answers), most) == (200, 4)
    assert requester.statistics.requests == 200


def test_requests_that_fail_together_all_succeed_in_the_end() -> None:
    failures = iter(range(300))
    lock = threading.Lock()

    def request() -> int:
        with lock:
            number = next(failures)
        if number % 3 and number < 150:
            raise Transient("busy", is_quota=number % 2 == 0)
        return 1

    requester = Requester(RateLimit(8, 1e6), base_wait_s=1e-3, max_wait_s=1e-2)
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(lambda _: requester.call(request), range(100))) == 100
    assert requester.statistics.errors["busy"] == requester.statistics.requests - 100
    assert 1 <= requester.limit.limit <= 8


@pytest.mark.parametrize("waits_for", ["a slot", "a repeat"])
def test_closing_sends_all_away_who_wait(waits_for: str) -> None:
    limit = RateLimit(1, 1e6)

    def enter() -> None:
        with limit.slot():
            pass

    action = enter if waits_for == "a slot" else lambda: limit.wait(LONG_S)
    with ThreadPoolExecutor(3) as pool, limit.slot():
        futures = [pool.submit(action) for _ in range(3)]
        wait_until(lambda: sleepers(limit) == 3)
        limit.close()
        done, still = wait_for(futures, HANG_S)
        assert not still
    assert all(isinstance(future.exception(), Stopped) for future in done)
