"""Schedule the places of a shard over threads: the main thread decides, others search and read.

Only the main thread knows the blocks and writes the journal.
"""

import shutil
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType
from typing import Any

from datasets.collect.blocks import Block
from datasets.collect.collector import Collector
from datasets.collect.journal import Journal, Outcome, Record
from datasets.collect.rate_limit import Stopped
from datasets.collect.report import Ending, Progress, incomplete, some_places
from datasets.collect.scenes import Candidates, ComeBack, Lack, Place
from utils.errors import UserError
from utils.retry import Transient
from utils.signals import SIGNALS

_TICK_S = 0.5  # between looks at the clock, the disk and the service
_FLUSH_S = 0.2  # for which a journal's lines wait for others
_MANY_REFUSED = 50  # places in a row: it is not the places that are wrong
# What is not requested again, without and with --retry.
_FINAL: dict[str | None, frozenset[Outcome]] = {
    None: frozenset({"done", "no_scene", "cloudy", "refused"}),
    "failed": frozenset({"done", "no_scene", "cloudy"}),
    "all": frozenset({"done"}),
}


class Fetch:
    """One run over the blocks of a shard.

    Args:
        collector: Searches and collects places.
        journal: Journal that is open.
        blocks: Blocks to complete.
        records: Records of all journals: what is settled already.
        num_workers: Threads, the largest number of places in progress.
        retry: "failed" requests refused places again, "all" all that are not done.
        has_spares: Whether more --spares could replace places: not those of a list.
        give_up_s: Seconds without any answer of the service, after which the run stops.
        grace_s: Seconds for places in progress, after a signal; SLURM kills after 30 s.
        min_free_bytes: Free bytes on the disk, below which the run stops.
        report: Called by the main thread at each tick.
        on_block: Called by a thread for each complete block, also of earlier runs.
    """

    def __init__(
        self,
        collector: Collector,
        journal: Journal,
        blocks: Sequence[Block],
        records: Mapping[int, Record],
        *,
        num_workers: int,
        retry: str | None = None,
        has_spares: bool = True,
        give_up_s: float = 600.0,
        grace_s: float = 25.0,
        min_free_bytes: float = 2e9,
        report: Callable[[Progress], None] = lambda progress: None,
        on_block: Callable[[Block], None] | None = None,
    ) -> None:
        self.is_abandoned = False  # threads that did not end in time are still there
        self._collector = collector
        self._requester = collector.requester
        self._journal = journal
        self._num_workers = num_workers
        self._has_spares = has_spares
        self._give_up_s, self._grace_s, self._min_free = give_up_s, grace_s, min_free_bytes
        self._report = report
        self._on_block = on_block
        outcomes = {n: r.outcome for n, r in records.items() if r.outcome in _FINAL[retry]}
        for block in blocks:
            block.settle(outcomes)
        self.progress = Progress(
            wanted=sum(len(block.places) for block in blocks),
            done=sum(len(block.done) for block in blocks),
        )
        self._waiting = deque(blocks)
        self._block_of: dict[int, Block] = {}  # of places that are begun
        self._to_search: deque[int] = deque()
        self._to_collect: deque[tuple[Place, Candidates]] = deque()
        self._to_finish: deque[Block] = deque()
        self._running: dict[Future[Any], Sequence[int]] = {}
        self._lacking: list[Block] = []
        self._postponed: list[str] = []  # why
        self._refused_in_a_row = 0
        self._stop_reason = ""  # empty as long as the run continues
        self._stopped_at = 0.0
        self._error: Exception | None = None

    def run(self) -> Ending:
        """Collect until all is done or something stops it; nothing that was done is lost.

        Raises:
            UserError: No request can work, every place is refused, or nothing can be written.
        """
        pool = ThreadPoolExecutor(self._num_workers)
        try:
            with _signals(self._on_signal):
                self._loop(pool)
        finally:
            self._requester.limit.close()
            # After an error of this thread, those of others end with their requests.
            late = wait(self._running, timeout=self._grace_left_s).not_done
            self.is_abandoned = bool(late)
            pool.shutdown(wait=not late, cancel_futures=True)
            self._journal.flush()
        self._report(self.progress)
        if self._error is not None:
            raise self._error
        if self._stop_reason:
            return Ending("later", self._stop_reason)
        if self._postponed:
            what = some_places(len(self._postponed))
            return Ending("later", f"{what} got no answer, the last error: {self._postponed[-1]}")
        if self._lacking:
            failures = sum((block.failures for block in self._lacking), Counter[Outcome]())
            missing = sum(block.missing for block in self._lacking)
            return incomplete(missing, failures, self._has_spares)
        return Ending("complete")

    def _loop(self, pool: ThreadPoolExecutor) -> None:
        flushed = looked = time.monotonic()
        while True:
            if not self._stop_reason:
                self._submit(pool)
            if not self._running or self._grace_left_s <= 0:
                return
            done, _ = wait(self._running, timeout=_TICK_S, return_when=FIRST_COMPLETED)
            for future in done:
                self._take(future, self._running.pop(future))
            now = time.monotonic()
            if now - flushed > _FLUSH_S:
                self._journal.flush()
                flushed = now
            if now - looked > _TICK_S:
                self._look_around(now)
                looked = now

    @property
    def _grace_left_s(self) -> float:
        """Seconds left for what is in progress, once the run is to stop."""
        stopped_for = time.monotonic() - self._stopped_at if self._stop_reason else 0
        return max(0.0, self._grace_s - stopped_for)

    def _stop(self, reason: str, *, finishes: bool = False) -> None:
        """Begin nothing more; what is in progress ends with its request, or is finished."""
        if not self._stop_reason:
            self._stop_reason, self._stopped_at = reason, time.monotonic()
        if not finishes:
            self._requester.limit.close()

    def _on_signal(self, name: str) -> None:
        """Finish what is in progress; a further signal waits for nothing, which loses only that."""
        if self._stop_reason:
            self._grace_s = 0.0
        self._stop(f"{name} was received", finishes=True)

    def _fail(self, error: Exception) -> None:
        """End the run by the first error that comes."""
        self._error = self._error or error
        self._stop("an error occurred")

    def _look_around(self, now: float) -> None:
        """Report, and stop if nothing can come or be written any more."""
        self._report(self.progress)
        statistics = self._requester.statistics
        silent_s = now - statistics.last_success
        if silent_s > self._give_up_s:
            errors = [f", most often: {reason}" for reason, _ in statistics.errors.most_common(1)]
            self._stop(f"the service has not answered for {silent_s:.0f} s{''.join(errors)}")
        folder = self._journal.path.parent
        free = shutil.disk_usage(folder).free
        if free < self._min_free:
            self._stop(f"{folder} has only {free / 1e9:.1f} GB free (--min_free_gb): make room")

    def _submit(self, pool: ThreadPoolExecutor) -> None:
        """Keep all threads busy, first with what is nearest to its end."""
        while len(self._running) < self._num_workers:
            if self._to_finish and self._on_block is not None:
                self._running[pool.submit(self._on_block, self._to_finish.popleft())] = ()
            elif self._to_collect:
                place, candidates = self._to_collect.popleft()
                future = pool.submit(self._collector.collect, place, candidates)
                self._running[future] = [place.number]
            elif self._to_search:
                size = min(self._collector.places_per_search, len(self._to_search))
                batch = [self._to_search.popleft() for _ in range(size)]
                self._running[pool.submit(self._collector.search, batch)] = batch
            elif self._waiting:
                self._advance(self._waiting.popleft())
            else:
                return

    def _advance(self, block: Block) -> None:
        """Queue the places that a block needs, or close it."""
        for number in block.begin():
            self._block_of[number] = block
            self._to_search.append(number)
        if block.is_complete:
            self._to_finish.append(block)
        elif block.missing and block not in self._lacking:
            self._lacking.append(block)

    def _take(self, future: Future[Any], numbers: Sequence[int]) -> None:
        """Note the result of a thread; what it did not settle stays open for the next run."""
        try:
            result = future.result()
        except Stopped:
            return
        except Transient as error:
            self._postponed += [str(error)] * len(numbers)
            if error.is_strange:
                self._stop(f"the answers are not those of the service: {error}")
        except ComeBack as error:
            self._stop(str(error))
        except Exception as error:
            self._fail(error)
        else:
            if isinstance(result, Record):
                self._settle(result)
                return
            for place, found in result or ():  # nothing of a block that was finished
                if isinstance(found, Lack):
                    self._settle(Record(place.number, found.outcome, found.reason))
                else:
                    self._to_collect.append((place, found))

    def _settle(self, record: Record) -> None:
        self._journal.add(record)
        self.progress.outcomes[record.outcome] += 1
        if record.outcome == "done":
            self.progress.done += 1
            self.progress.images += len(record.scenes)
            self.progress.num_bytes += record.num_bytes
        is_refused = record.outcome == "refused"
        self._refused_in_a_row = self._refused_in_a_row + 1 if is_refused else 0
        if self._refused_in_a_row == _MANY_REFUSED:
            reason = (
                f"the last {_MANY_REFUSED} places were all refused, the last one for "
                f"{record.reason}: check --collection and --bands; if they are right, --retry "
                "failed requests those places again"
            )
            if self.progress.outcomes.total() > _MANY_REFUSED:  # the settings did work
                self._stop(reason)
            else:
                self._fail(UserError(reason))
        block = self._block_of.pop(record.place)
        block.settle({record.place: record.outcome})
        self._advance(block)


@contextmanager
def _signals(action: Callable[[str], None]) -> Iterator[None]:
    """Call ``action`` with the name of each signal to end; only the main thread can do so."""

    def handle(number: int, frame: FrameType | None) -> None:
        action(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
