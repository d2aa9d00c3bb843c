"""The loop: slices to the executor, labels to the scheduler, evidence to the plans.

One engine serves one model on one event loop. The executor has one batch more than it runs at once, so that it never
waits for the loop; while that one has not begun it makes way for a small job, and is made again without the draws of
a job that has ended. A lone job that may end before its last draw gets half batches at first, and none more than run:
what it draws in vain, the next request waits for. Cancelling a job forgets its draws; batch-mates cannot notice. A
batch that fails is run again slice by slice, each with nothing beside it, so that only the job whose slice fails twice
is told of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from certserve.errors import BackendFailed, Infeasible, InternalError, Overloaded, Unavailable
from certserve.sampling.executor import Executor
from certserve.sampling.scheduler import SMALL_JOB, Scheduler
from certserve.sampling.slices import Slice
from certserve.sampling.source import DrawSource
from certserve.smoothing.outcomes import Votes

__all__ = ["Decider", "Engine", "Job"]

Outcome = TypeVar("Outcome", covariant=True)
Labels = list[npt.NDArray[np.uint16]]

_log = logging.getLogger(__name__)
_MEMORY_SECONDS = 10.0
_SHORTEST_WAIT = 0.1  # seconds
_MARGIN = 0.8  # of the draws that fit by the best pace: what is advised should not miss the deadline
_YOUNG = 512  # draws, before which most of the jobs that stop early have ended


class Decider(Protocol, Generic[Outcome]):
    """Turns a job's votes into its outcome: see `certserve.smoothing.plans`."""

    def look(self, selection: Votes, votes: Votes) -> Outcome | None:
        """The outcome at the newest look, or None to go on; never None at the last."""

    def end(self, reason: str) -> Outcome:
        """The outcome where no further look can be waited for."""


@dataclass(frozen=True, slots=True)
class Job(Generic[Outcome]):
    """One request's draws, and what is asked of the votes.

    Attributes:
        source: the noisy copies. n0: selection draws. looks: numbers of estimation draws, increasing.
        decider: shown the votes at each look, in order; it knows what they come to.
        on_progress: told how many draws have been counted, after each batch that held some of them.
    """

    source: DrawSource
    n0: int
    looks: Sequence[int]
    decider: Decider[Outcome]
    on_progress: Callable[[int], None] | None = None


@dataclass(slots=True)
class _Running:
    job: Job[object]
    answer: asyncio.Future[Any]
    failed: set[Slice] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Flight:
    """A batch that the executor has, and whether it is as large as was allowed."""

    batch: tuple[Slice, ...]
    full: bool


class _Pace:
    """Draws a second while the device is busy with full batches: a moving average, and the best of late.

    What was measured long ago is forgotten: a device that was slow for a while must not be taken to be so for ever.

    Args:
        batches: how many full batches in a row are measured as one, since so many run at once.
    """

    def __init__(self, batches: int) -> None:
        self._batches = batches
        self._since = 0.0
        self._seen = 0
        self._draws = 0
        self._measured = 0.0
        self.rate = 0.0
        self.best = 0.0

    def start(self, now: float) -> None:
        self._since = now
        self._seen = self._draws = 0

    def record(self, draws: int, full: bool, now: float) -> None:
        self._seen += 1
        self._draws += draws
        if not full:
            self.start(now)
        elif self._seen == self._batches:
            rate = self._draws / max(now - self._since, 1e-6)
            self.rate = 0.9 * self.rate + 0.1 * rate if self.rate else rate
            self.best = max(self.rate, 0.999 * self.best)
            self._measured = now
            self.start(now)

    def forget_old(self, now: float) -> None:
        """Forget a pace that nothing has confirmed of late."""
        if now - self._measured > _MEMORY_SECONDS:
            self.rate = self.best = 0.0

    def seconds_for(self, draws: int) -> float:
        """How long `draws` take at this pace, at least a tenth of a second; one second where nothing is known."""
        return max(draws / self.rate, _SHORTEST_WAIT) if self.rate else 1.0


class Engine:
    """Runs jobs on an executor. Made and used on one event loop.

    Args:
        executor: where slices run.
        largest_queue: draws that may wait. largest_jobs: jobs that may be running or waiting, each of which holds
            its input. More are refused with `Overloaded`.
        clock: seconds; by it the pace of the device is measured.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        largest_queue: int = 50_000_000,
        largest_jobs: int = 2_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor = executor
        self._clock = clock
        self._scheduler = Scheduler(executor.num_classes)
        self._largest_queue = largest_queue
        self._largest_jobs = largest_jobs
        self._numbers = itertools.count()
        self._running: dict[int, _Running] = {}
        self._in_flight: dict[Future[Labels], _Flight] = {}
        self._news = asyncio.Event()  # a batch is back, or a job came or went
        self._retrying = False  # a slice that failed is running again
        self._pace = _Pace(executor.parallel)
        self._event_loop = asyncio.get_running_loop()
        self._loop = asyncio.create_task(self._run(), name="certserve engine")

    @property
    def alive(self) -> bool:
        """Whether the loop is running, and what it runs slices on."""
        return self._executor.alive and not self._loop.done()

    @property
    def waiting(self) -> int:
        """Draws not yet handed to the executor."""
        return self._scheduler.waiting

    async def ended(self) -> None:
        """Return when the engine has stopped, for whatever reason."""
        await asyncio.wait({self._loop})

    def make_way(self) -> None:
        """Let what is asked of the executor now go before the newest batch, if that one has not begun."""
        self._take_back()

    def check_admission(
        self, n: int, n0: int = 0, seconds: float | None = None, *, first_look: int | None = None
    ) -> None:
        """Return if a job of n0 + n draws may be queued now, and can be at its first look in so many seconds.

        The first look is at n where none is given. The times are those that full batches have taken of late; where
        none has run, all jobs are taken to be fast.

        Raises:
            Infeasible: not even when nothing else is waiting.
            Overloaded: too many draws wait. Unavailable: the engine has stopped.
        """
        draws = n0 + n
        if not self.alive:
            raise Unavailable("The sampling engine has stopped.")
        if draws > self._largest_queue:
            raise Infeasible(f"{draws} draws are more than this server queues; ask for at most {self._largest_queue}.")
        if self.waiting + draws > self._largest_queue or len(self._running) >= self._largest_jobs:
            wait = self._pace.seconds_for(self.waiting)
            raise Overloaded(f"{self.waiting} draws are waiting; try again later.", retry_after=wait)
        self._pace.forget_old(self._clock())
        if seconds is not None and self._pace.rate:
            self._check_time(first_look or n, n0, seconds)

    def _check_time(self, n: int, n0: int, seconds: float) -> None:
        if n + n0 > self._pace.best * seconds:
            fit = int(_MARGIN * self._pace.best * seconds) - n0
            advice = f"about {fit} do: ask for fewer draws, or allow" if fit > 0 else "none do: allow"
            raise Infeasible(
                f"{n} estimation draws do not fit into the {seconds:.3g} s that the deadline leaves, even when this "
                f"server is idle; {advice} more time."
            )
        ahead = self._scheduler.ahead_of(n0 + n)
        needed = self._pace.seconds_for(n0 + n + ahead)
        if ahead and needed > seconds:
            raise Overloaded(
                f"Other requests are ahead: this one would take about {needed:.1f} s, and the deadline leaves "
                f"{seconds:.3g} s; try again later.",
                retry_after=needed - seconds,
            )

    async def run(self, job: Job[Outcome], budget: float | None = None) -> Outcome:
        """The outcome of a job; cancelling the awaiting task forgets the job.

        Args:
            budget: seconds after which the looks so far must do; None: no limit.

        Raises:
            Overloaded: too many draws wait.
            BackendFailed: the model failed on this job's draws, twice.
            Unavailable: the engine is closed. InternalError: the engine's loop failed.
        """
        self.check_admission(job.looks[-1], job.n0)
        number = next(self._numbers)
        running = _Running(job, asyncio.get_running_loop().create_future())
        self._running[number] = running
        self._executor.admit(number, job.source)
        self._scheduler.add(number, n0=job.n0, looks=job.looks)
        if job.n0 + job.looks[-1] <= SMALL_JOB:
            self._take_back()
        self._news.set()
        try:
            async with asyncio.timeout(budget):
                outcome: Outcome = await running.answer
                return outcome
        except TimeoutError:
            counted = self._scheduler.counted(number)
            return job.decider.end(f"the time budget ended after {counted} of {job.n0 + job.looks[-1]} draws")
        finally:
            self._forget(number)

    async def close(self) -> None:
        """Stop, and close the executor; jobs still running fail with `Unavailable`."""
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, self._executor.close)

    async def _run(self) -> None:
        error: Exception = Unavailable("The sampling engine is stopping.")
        try:
            while True:
                self._submit()
                await self._news.wait()
                self._news.clear()
                for batch in [b for b in self._in_flight if b.done()]:
                    self._collect(batch, self._in_flight.pop(batch))
                    del batch  # a failed one holds the inputs it failed on
        except Exception as failure:
            _log.exception("the sampling engine failed")
            error = InternalError("The sampling engine failed.")
            error.__cause__ = failure
        finally:
            for running in list(self._running.values()):
                if not running.answer.done():
                    running.answer.set_exception(error)

    def _submit(self) -> None:
        while rows := self._rows_to_submit():
            again = self._scheduler.has_returned
            if self._in_flight and (again or self._retrying):
                return
            batch = self._scheduler.next_batch(rows)
            if not batch:
                return
            if not self._in_flight:
                self._pace.start(self._clock())
            future = self._executor.submit(batch)
            self._in_flight[future] = _Flight(batch, _size(batch) >= rows)
            self._retrying = again
            future.add_done_callback(self._wake)

    def _wake(self, _: object) -> None:
        """A batch is back; called on the executor's threads, at whatever time."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed, and nobody waits
            self._event_loop.call_soon_threadsafe(self._news.set)

    def _rows_to_submit(self) -> int:
        """How many draws the next batch may hold; 0: the executor has enough."""
        parallel, largest = self._executor.parallel, self._executor.largest_batch
        if self._may_end_soon():
            return self._executor.half_batch if len(self._in_flight) < parallel else 0
        return largest if len(self._in_flight) <= parallel else 0

    def _may_end_soon(self) -> bool:
        """Whether a single job runs, which looks at its votes before the last draw, and has only begun."""
        if len(self._running) != 1:
            return False
        ((number, only),) = self._running.items()
        return len(only.job.looks) > 1 and self._scheduler.counted(number) < _YOUNG

    def _take_back(self, job: int | None = None) -> None:
        """Take the newest batch back if it has not begun, so that another is made; only if it has draws of `job`."""
        if len(self._in_flight) <= self._executor.parallel:
            return
        newest = next(reversed(self._in_flight))
        flight = self._in_flight[newest]
        if (job is None or any(piece.job == job for piece in flight.batch)) and newest.cancel():
            del self._in_flight[newest]
            self._scheduler.take_back(flight.batch)
            self._news.set()

    def _collect(self, future: Future[Labels], flight: _Flight) -> None:
        batch = flight.batch
        try:
            labels = future.result()
        except Exception as error:
            self._retry(batch, error)
            return
        self._pace.record(_size(batch), flight.full, self._clock())
        for piece, found in zip(batch, labels, strict=True):
            try:
                news = self._scheduler.record(piece, found)
            except Exception as error:
                self._fail(piece.job, BackendFailed("The labels of this request's draws are unusable."), error)
                continue
            for selection, votes in news:
                self._decide(piece.job, selection, votes)
        for number in {piece.job for piece in batch}:
            self._report(number)

    def _decide(self, number: int, selection: Votes, votes: Votes) -> None:
        running = self._running.get(number)
        if running is None or running.answer.done():
            return
        try:
            outcome = running.job.decider.look(selection, votes)
        except Exception as error:
            self._fail(number, error)
            return
        if outcome is not None:
            running.answer.set_result(outcome)
            self._scheduler.cancel(number)

    def _retry(self, batch: tuple[Slice, ...], error: Exception) -> None:
        """Run each slice of a failed batch once more, with nothing beside it; one that failed before fails its job."""
        _log.warning("a batch of %d slices failed: %s", len(batch), error)
        for piece in batch:
            running = self._running.get(piece.job)
            if running is None:
                continue
            if piece in running.failed:
                self._fail(piece.job, BackendFailed("The model failed on this request's draws, twice."), error)
            else:
                running.failed.add(piece)
                self._scheduler.put_back(piece)

    def _fail(self, number: int, error: Exception, cause: Exception | None = None) -> None:
        running = self._running.get(number)
        error.__cause__ = cause or error.__cause__
        if running is not None and not running.answer.done():
            running.answer.set_exception(error)
        self._scheduler.cancel(number)

    def _report(self, number: int) -> None:
        running = self._running.get(number)
        if running is None or running.job.on_progress is None or running.answer.done():
            return
        try:
            running.job.on_progress(self._scheduler.counted(number))
        except Exception as error:
            self._fail(number, error)

    def _forget(self, number: int) -> None:
        self._running.pop(number, None)
        self._scheduler.cancel(number)
        self._take_back(number)
        self._executor.forget(number)


def _size(batch: tuple[Slice, ...]) -> int:
    return sum(piece.count for piece in batch)
