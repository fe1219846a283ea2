"""Requests to a service with a quota, in simulated time wherever one thread is enough."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from types import SimpleNamespace
from typing import Any

import pytest

from datasets.collect import rate_limit
from datasets.collect.rate_limit import RateLimit, Requester, Stopped
from tests.references.waiting import HANG_S, wait_until
from utils.retry import Transient

LONG_S = 10 * HANG_S  # of the waits that are cut short


class Clock(threading.Condition):
    """Time that passes only while the one thread waits, for a slot or for a repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.waits: list[float] = []
        self.is_set = threading.Event().is_set

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None, "waits forever"
        self.now += timeout
        self.waits.append(timeout)
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rate_limit, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def new_limit(clock: Clock, max_in_flight: int = 8, max_rate: float = 1e6) -> RateLimit:
    limit = RateLimit(max_in_flight, max_rate)
    limit._changed = limit._closed = clock  # type: ignore[assignment]
    return limit


def failing(
    *errors: Exception, clock: Clock | None = None, takes_s: float = 0
) -> Callable[[], str]:
    """A request that fails so many times, and works then."""
    left = list(errors)

    def request() -> str:
        if clock is not None:
            clock.now += takes_s
        if left:
            raise left.pop(0)
        return "answer"

    return request


def begin(limit: RateLimit) -> float:
    with limit.slot() as began:
        return began


@pytest.mark.parametrize("start_s", [0, 1000])
def test_requests_begin_evenly_after_the_burst_of_a_second(clock: Clock, start_s: float) -> None:
    limit = new_limit(clock, max_rate=10)
    clock.now = start_s
    began = [begin(limit) for _ in range(40)]
    assert began == pytest.approx([start_s + max(0, number / 10 - 1) for number in range(40)])


def test_the_limit_rises_by_one_after_as_many_successes_within_its_bounds(clock: Clock) -> None:
    limit = new_limit(clock, max_in_flight=5)
    limit.limit = 4
    for _ in range(4):
        limit.succeeded()
    assert 4.8 < limit.limit < 5
    limit.succeeded()
    assert limit.limit == 5
    for second in range(10):
        clock.now = float(second)
        limit.exceeded(began=second)
    assert limit.limit == 1


def test_refusals_of_one_round_halve_the_limit_once(clock: Clock) -> None:
    limit = new_limit(clock, max_in_flight=40)
    clock.now = 5
    for began in (1.0, 3.0, 4.9, 5.0):
        limit.exceeded(began)
    assert limit.limit == 20
    clock.now = 7
    limit.exceeded(began=5.1)
    assert limit.limit == 10


def test_a_lowered_limit_holds_for_those_that_wait(clock: Clock) -> None:
    limit = new_limit(clock, max_in_flight=2)
    with limit.slot():
        limit.exceeded(began=0)
        with pytest.raises(AssertionError, match="waits forever"), limit.slot():
            pass
    begin(limit)


def test_nothing_begins_after_closing() -> None:
    limit = RateLimit(1, 1e6)
    limit.close()
    with pytest.raises(Stopped):
        begin(limit)
    with pytest.raises(Stopped):
        limit.wait(LONG_S)


def test_a_request_is_repeated_until_it_works(clock: Clock) -> None:
    seen: list[Transient] = []
    requester = Requester(new_limit(clock), on_error=seen.append)
    requester.limit.limit = 2
    errors = [Transient("HTTP 500"), Transient("HTTP 503"), Transient("HTTP 500")]
    assert requester.call(failing(*errors)) == "answer"
    assert seen == errors
    statistics = requester.statistics
    assert statistics.requests == 4
    assert statistics.errors == {"HTTP 500": 2, "HTTP 503": 1}
    assert (statistics.last_success, statistics.last_error) == (clock.now, "")
    assert requester.limit.limit == 2.5  # raised by the success


def test_waits_are_drawn_below_a_bound_that_doubles(clock: Clock) -> None:
    """Also after thousands of repeats, whose power of two no float holds."""
    requester = Requester(new_limit(clock), base_wait_s=2, max_wait_s=10, budget_s=1e9)
    random.seed(5)
    requester.call(failing(*[Transient("no")] * 2000))
    draws, bounds = random.Random(5), [2, 4, 8, *[10] * 1997]
    assert clock.waits == pytest.approx([draws.uniform(0, bound) for bound in bounds])


def test_back_off_grows_to_the_longest_wait(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    requester = Requester(new_limit(clock), base_wait_s=2, max_wait_s=60)
    for repeats in (0, 1, 2, 400):
        requester.back_off(repeats)
    assert clock.waits == [2, 20, 60, 60]


def test_the_last_error_comes_when_the_budget_is_used_up(clock: Clock) -> None:
    requester = Requester(new_limit(clock), base_wait_s=1, budget_s=100)
    errors = [Transient(f"number {number}") for number in range(1000)]
    with pytest.raises(Transient) as caught:
        requester.call(failing(*errors, clock=clock, takes_s=7))
    tried = requester.statistics.requests
    assert caught.value is errors[tried - 1]
    assert 40 < clock.now <= 107


def test_a_few_strange_answers_in_a_row_end_the_repeats(clock: Clock) -> None:
    requester = Requester(new_limit(clock), max_strange=3)
    strange, usual = Transient("a page", is_strange=True), Transient("HTTP 500")
    assert requester.call(failing(strange, strange, usual, strange, strange)) == "answer"
    before = requester.statistics.requests
    with pytest.raises(Transient):
        requester.call(failing(*[strange] * 10))
    assert requester.statistics.requests == before + 3


@pytest.mark.parametrize(("is_quota", "limit"), [(True, 4), (False, 8)])
def test_retry_after_holds_all_requests_and_only_quota_errors_lower_the_limit(
    clock: Clock, is_quota: bool, limit: float
) -> None:
    """Retry-After comes with 503 as with 429 (RFC 9110, section 10.2.3)."""
    requester = Requester(new_limit(clock), budget_s=10)
    with pytest.raises(Transient):  # a wait that does not fit the budget is not begun
        requester.call(failing(Transient("no", wait_s=60, is_quota=is_quota)))
    assert (clock.waits, requester.limit.limit) == ([], limit)
    requester.limit.pause(2)  # does not shorten it
    requester.call(failing())
    assert clock.now == 60


def test_what_is_too_large_is_not_repeated(clock: Clock) -> None:
    requester = Requester(new_limit(clock))
    with pytest.raises(Transient, match="timed out"):
        requester.call(failing(Transient("timed out", is_too_large=True)))
    assert requester.statistics.requests == 1
    assert (clock.now, requester.statistics.errors) == (0, {"timed out": 1})


@pytest.mark.parametrize("traits", [{}, {"is_quota": True}, {"wait_s": 99}])
def test_what_fails_until_the_budget_is_used_up_may_be_too_large(
    clock: Clock, traits: dict[str, Any]
) -> None:
    requester = Requester(new_limit(clock), budget_s=50)
    with pytest.raises(Transient) as caught:
        requester.call(failing(*[Transient("HTTP 500", **traits)] * 999))
    assert caught.value.is_too_large == (not traits)


def test_other_errors_are_not_repeated_and_give_their_slot_back(clock: Clock) -> None:
    requester = Requester(new_limit(clock, max_in_flight=1))
    for _ in range(3):
        with pytest.raises(KeyError):
            requester.call(failing(KeyError("bug")))
    assert requester.call(failing()) == "answer"
    assert requester.statistics.requests == 4


def sleepers(limit: RateLimit) -> int:
    conditions: list[Any] = [limit._changed, limit._closed._cond]  # type: ignore[attr-defined]
    return sum(len(condition._waiters) for condition in conditions)


def test_a_free_slot_goes_to_a_thread_that_waits_for_it_not_for_a_repeat() -> None:
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
    assert (sum(answers), most, requester.statistics.requests) == (200, 4, 200)


@pytest.mark.parametrize("waits_for", ["a slot", "a repeat"])
def test_closing_ends_all_waits(waits_for: str) -> None:
    limit = RateLimit(1, 1e6)
    actions = {"a slot": lambda: begin(limit), "a repeat": lambda: limit.wait(LONG_S)}
    with ThreadPoolExecutor(3) as pool, limit.slot():
        futures = [pool.submit(actions[waits_for]) for _ in range(3)]
        wait_until(lambda: sleepers(limit) == 3)
        limit.close()
        done, still = wait_for(futures, HANG_S)
        assert not still
    assert all(isinstance(future.exception(), Stopped) for future in done)
