"""Requests to a service with a quota: few at a time, not too often, repeated when they fail."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from utils.retry import Transient

Answer = TypeVar("Answer")


class Stopped(Exception):
    """The run ends: no thread may wait any longer."""


class RateLimit:
    """Lets threads begin requests.

    The limit of requests in flight adapts as TCP does (additive increase, multiplicative decrease;
    Chiu and Jain 1989): halved when the service answers that it is too much, raised by one after as
    many successes as the limit.

    Args:
        max_in_flight: Requests at a time, at most.
        max_rate: Requests per second, at most, on average over a second.
    """

    def __init__(self, max_in_flight: int, max_rate: float) -> None:
        self.max_in_flight = max_in_flight
        self.limit = float(max_in_flight)
        self._in_flight = 0
        self._max_rate = max_rate
        self._next = 0.0  # when the next request may begin, if they come evenly
        self._paused_until = 0.0
        self._decreased_at = -1.0
        self._changed = threading.Condition()
        self._closed = threading.Event()

    @contextmanager
    def slot(self) -> Iterator[float]:
        """Wait for a turn, and give when it began; ``Stopped`` after ``close``."""
        began = self._enter()
        try:
            yield began
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify()

    def succeeded(self) -> None:
        """Raise the limit by one after as many successes."""
        with self._changed:
            self.limit = min(self.limit + 1 / self.limit, self.max_in_flight)
            self._changed.notify()

    def exceeded(self, began: float) -> None:
        """Halve the limit; requests that began before the last halving do not count."""
        with self._changed:
            if began > self._decreased_at:
                self.limit = max(1.0, self.limit / 2)
                self._decreased_at = time.monotonic()

    def pause(self, seconds: float) -> None:
        """Let no thread begin a request for some seconds; a longer pause is not shortened."""
        with self._changed:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def close(self) -> None:
        """Let all that wait, and all later calls, raise ``Stopped``."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait outside of any slot; ``Stopped`` after ``close``."""
        if self._closed.wait(seconds):
            raise Stopped

    def _enter(self) -> float:
        with self._changed:
            while not self._closed.is_set():
                now = time.monotonic()
                # A burst of a second's requests is allowed, for they count per minute.
                ready = max(self._next - 1, self._paused_until)
                if now >= ready and self._in_flight < int(self.limit):
                    self._next = max(self._next, now) + 1 / self._max_rate
                    self._in_flight += 1
                    return now
                self._changed.wait(ready - now if now < ready else None)
            raise Stopped


@dataclass
class Statistics:
    """Counts of the requests so far."""

    requests: int = 0  # begun, repeats included
    errors: Counter[str] = field(default_factory=Counter)  # failed ones by reason
    last_success: float = field(default_factory=time.monotonic)  # at first when counting began
    last_error: str = ""  # empty if none failed since the last success


class Requester:
    """Sends requests through a limit, and repeats those that may work later.

    Args:
        limit: Shared by all threads.
        base_wait_s: Bound of the first wait before a repeat; it doubles each time.
        max_wait_s: Bound of every wait.
        budget_s: Longest time for a request with its repeats.
        max_strange: Strange answers to a request in a row, until it counts as failed.
        on_error: Called with the error of every failed request.
    """

    def __init__(
        self,
        limit: RateLimit,
        *,
        base_wait_s: float = 1.0,
        max_wait_s: float = 60.0,
        budget_s: float = 600.0,
        max_strange: int = 5,
        on_error: Callable[[Transient], None] = lambda error: None,
    ) -> None:
        self.limit = limit
        self.statistics = Statistics()
        self._base_wait_s = base_wait_s
        self._max_wait_s = max_wait_s
        self._budget_s = budget_s
        self._max_strange = max_strange
        self._on_error = on_error
        self._lock = threading.Lock()

    def call(self, request: Callable[[], Answer]) -> Answer:
        """Return what ``request`` returns, in the end.

        Raises:
            Transient: The last one, when the budget is used up, or one that ``is_too_large``.
            Stopped: The run ends.
        """
        started, repeats, strange = time.monotonic(), 0, 0
        while True:
            try:
                return self._once(request)
            except Transient as error:
                strange = strange + 1 if error.is_strange else 0
                wait_s = max(error.wait_s, self._jitter(2 ** min(repeats, 60)))
                left_s = started + self._budget_s - time.monotonic()
                if error.is_too_large or strange >= self._max_strange:
                    raise
                if wait_s > left_s:  # what failed for so long may fail because of its size
                    error.is_too_large = not (error.is_strange or error.is_quota or error.wait_s)
                    raise
            repeats += 1
            self.limit.wait(wait_s)

    def back_off(self, repeats: int) -> None:
        """Wait before a request that failed alone is tried again: seconds, then a minute."""
        self.limit.wait(self._jitter(10 ** min(repeats, 9)))

    def _jitter(self, factor: float) -> float:
        """Draw a wait from 0 on, so that clients that failed together come back apart."""
        return random.uniform(0, min(self._max_wait_s, self._base_wait_s * factor))

    def _once(self, request: Callable[[], Answer]) -> Answer:
        with self.limit.slot() as began:
            with self._lock:
                self.statistics.requests += 1
            try:
                answer = request()
            except Transient as error:
                self.limit.pause(error.wait_s)
                if error.is_quota:
                    self.limit.exceeded(began)
                with self._lock:
                    self.statistics.errors[str(error)] += 1
                    self.statistics.last_error = str(error)
                self._on_error(error)
                raise
        now = time.monotonic()
        with self._lock:
            self.statistics.last_success, self.statistics.last_error = now, ""
        self.limit.succeeded()
        return answer
