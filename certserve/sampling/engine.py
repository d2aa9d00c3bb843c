"""Batches for the executor, labels to the scheduler, evidence to the plans.

One engine serves one model. Jobs come and go on one event loop; the executor's threads make batches and count them, and
need not wait for the loop. A batch is made when the executor takes it, on threads when it begins: a small job is in the
next one, and draws of a job that has ended in none. A lone job that may end before its last draw gets at first half
batches, and none more than run: see `certserve.sampling.sizes`. Cancelling a job forgets its draws;
batch-mates cannot notice. A batch that fails is run again slice by slice, each with nothing beside it, so that only the
job whose slice fails twice is told of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from certserve.errors import BackendFailed, CertserveError, InternalError, Unavailable
from certserve.sampling.admission import Admission
from certserve.sampling.executor import Executor, Labels, Work
from certserve.sampling.pace import Pace
from certserve.sampling.scheduler import Scheduler
from certserve.sampling.sizes import BatchSizes
from certserve.sampling.slices import Slice
from certserve.sampling.source import DrawSource
from certserve.smoothing.outcomes import Votes

__all__ = ["Decider", "Engine", "Job"]

Outcome = TypeVar("Outcome", covariant=True)

_log = logging.getLogger(__name__)
_YOUNG = 512  # draws, before which most of the jobs that stop early have ended


class Decider(Protocol, Generic[Outcome]):
    """Turns a job's votes into its outcome: see `certserve.smoothing.plans`.

    Asked on any thread, while the engine's other threads wait, so it must be quick and wait for nobody.
    """

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
        on_progress: told on the event loop how many draws have been counted, after each batch that held some of them
            and did not end the job.
    """

    source: DrawSource
    n0: int
    looks: Sequence[int]
    decider: Decider[Outcome]
    on_progress: Callable[[int], None] | None = None


@dataclass(slots=True)
class _Running:
    """A job, and its answer: an outcome or an error, which is given on the event loop a moment after it is known."""

    job: Job[object]
    answer: asyncio.Future[Any]
    outcome: object = None
    error: Exception | None = None
    failed: set[Slice] = field(default_factory=set)

    @property
    def known(self) -> bool:
        return self.outcome is not None or self.error is not None


@dataclass(slots=True)
class _Turn:
    """A batch that the executor was asked to run: what it holds once it is taken, and whether that is all it may."""

    batch: tuple[Slice, ...] = ()
    full: bool = False


class Engine:
    """Runs jobs on an executor. Made and used on one event loop, and called by the executor from its threads.

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
        self._sizes = BatchSizes(executor)
        self._numbers = itertools.count()
        self._running: dict[int, _Running] = {}
        self._asked = 0  # batches that the executor was asked to run, and that are not back
        self._begun = 0  # of these, those that were taken
        self._retrying = False  # a slice that failed is running again
        self._pace = Pace(executor.parallel)
        self._admission = Admission(self._scheduler, self._pace, largest_queue, largest_jobs, clock)
        self._stopped = False  # for good
        self._lock = threading.RLock()  # of all of the above; an executor's own lock is only ever taken after it
        self._event_loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._event_loop.create_future()

    @property
    def alive(self) -> bool:
        """Whether jobs can be run."""
        return self._executor.alive and not self._stopped

    @property
    def waiting(self) -> int:
        """Draws in no batch yet."""
        return self._scheduler.waiting

    async def ended(self) -> None:
        """Return when the engine has stopped, for whatever reason."""
        await asyncio.wait({self._ended})

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
        if not self.alive:
            raise Unavailable("The sampling engine has stopped.")
        with self._lock:
            self._admission.check(len(self._running), n, n0, seconds, first_look or n)

    async def run(self, job: Job[Outcome], budget: float | None = None) -> Outcome:
        """The outcome of a job; cancelling the awaiting task forgets the job.

        Args:
            budget: seconds after which the looks so far must do; None: no limit.

        Raises:
            Infeasible, Overloaded: as `check_admission`.
            BackendFailed: the model failed on this job's draws, twice, or nothing runs it any more.
            Unavailable: the engine is closed, or its device. InternalError: the engine failed.
        """
        running = _Running(job, self._event_loop.create_future())
        number = self._begin(running)
        try:
            async with asyncio.timeout(budget):
                outcome: Outcome = await running.answer
                return outcome
        except TimeoutError:
            outcome = self._end_early(number, running)
            return outcome
        finally:
            self._forget(number)

    async def close(self) -> None:
        """Stop, and close the executor; jobs still running fail with `Unavailable`."""
        self._stop(Unavailable("The sampling engine is stopping."))
        await self.ended()
        await self._event_loop.run_in_executor(None, self._executor.close)

    def _begin(self, running: _Running) -> int:
        job = running.job
        with self._lock:
            self.check_admission(job.looks[-1], job.n0)
            number = next(self._numbers)
            self._running[number] = running
            self._scheduler.add(number, n0=job.n0, looks=job.looks)
        self._submit()
        return number

    def _end_early(self, number: int, running: _Running) -> Any:
        """The outcome of a job that waits for no further look."""
        job = running.job
        with self._lock:
            if running.error is not None:
                raise running.error
            if running.outcome is None:
                counted, total = self._scheduler.counted(number), job.n0 + job.looks[-1]
                running.outcome = job.decider.end(f"the time budget ended after {counted} of {total} draws")
            return running.outcome

    def _forget(self, number: int) -> None:
        with self._lock:
            self._running.pop(number, None)
            self._scheduler.cancel(number)
            self._executor.forget(number)
        self._submit()  # what it held up may go on

    def _stop(self, error: Exception) -> None:
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            for number in list(self._running):
                self._fail(number, error)
            self._on_event_loop(self._ended.set_result, None)

    def _break(self, failure: BaseException) -> None:
        """Stop because nothing runs batches any more, or because of what should not have happened."""
        if isinstance(failure, CertserveError):
            self._stop(failure)
            return
        _log.error("the sampling engine failed", exc_info=failure)
        error = InternalError("The sampling engine failed.")
        error.__cause__ = failure
        self._stop(error)

    def _submit(self) -> None:
        """Ask the executor to run as many batches as it should have."""
        with self._lock:
            try:
                while self._wants_another():
                    if not self._asked:
                        self._pace.start(self._clock())
                    self._asked += 1
                    turn = _Turn()
                    future = self._executor.submit(partial(self._take, turn))
                    future.add_done_callback(partial(self._back, turn))
            except Exception as error:
                self._break(error)

    def _wants_another(self) -> bool:
        if self._asked >= self._executor.parallel + self._executor.ahead:  # as a rule, and quickly said
            return False
        if self._stopped or self._event_loop.is_closed() or self._must_wait():
            return False
        alone, waiting = self._may_end_soon(), self._scheduler.waiting
        if alone and self._asked >= self._executor.parallel:
            return False
        return waiting > (self._asked - self._begun) * self._sizes.usual(self._begun, waiting, alone)

    def _must_wait(self) -> bool:
        """Whether the next batch may not begin yet: a slice that failed runs with nothing beside it."""
        return self._begun > 0 and (self._retrying or self._scheduler.has_returned)

    def _may_end_soon(self) -> bool:
        """Whether a single job runs, which looks at its votes before the last draw, and has only begun."""
        if len(self._running) != 1:
            return False
        ((number, only),) = self._running.items()
        return len(only.job.looks) > 1 and self._scheduler.counted(number) < _YOUNG

    def _take(self, turn: _Turn) -> Work:
        """What is to run now; called by the executor, on whatever thread."""
        with self._lock:
            if self._stopped or self._must_wait():
                return ()
            alone, again = self._may_end_soon(), self._scheduler.has_returned
            turn.batch = self._scheduler.next_batch(self._sizes.take(self._begun, self._scheduler.waiting, alone))
            if not turn.batch:
                return ()
            self._begun += 1
            self._retrying = again
            turn.full = _size(turn.batch) >= self._sizes.most(alone)
            return [(self._running[piece.job].job.source, piece) for piece in turn.batch]

    def _back(self, turn: _Turn, future: Future[Labels]) -> None:
        """A batch has run, or was empty, or was cancelled; called by the executor, on whatever thread."""
        if self._stopped:
            return
        if future.cancelled():  # by who closes the device, whose lock that thread may hold: ours must not come after it
            self._on_event_loop(self._break, Unavailable("The device is closed."))
            return
        try:
            with self._lock:
                self._asked -= 1
                self._begun -= bool(turn.batch)
                self._collect(turn, future)
        except BaseException as error:
            self._break(error)
        self._submit()

    def _collect(self, turn: _Turn, future: Future[Labels]) -> None:
        error = future.exception()  # if it were raised, a cycle would keep the inputs that it was raised on
        if error is not None and turn.batch:
            self._retry(turn.batch, error)
        elif error is not None:  # it could not be taken
            raise error
        else:
            self._pace.record(_size(turn.batch), turn.full, self._clock())
            self._count(turn.batch, future.result())

    def _count(self, batch: tuple[Slice, ...], labels: Labels) -> None:
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
        if running is None or running.known:
            return
        try:
            outcome = running.job.decider.look(selection, votes)
        except Exception as error:
            self._fail(number, error)
            return
        if outcome is not None:
            running.outcome = outcome
            self._on_event_loop(_answer, running.answer, outcome)
            self._scheduler.cancel(number)

    def _retry(self, batch: tuple[Slice, ...], error: BaseException) -> None:
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

    def _fail(self, number: int, error: Exception, cause: BaseException | None = None) -> None:
        running = self._running.get(number)
        error.__cause__ = cause or error.__cause__
        if running is not None and not running.known:
            running.error = error
            self._on_event_loop(_refuse, running.answer, error)
        self._scheduler.cancel(number)

    def _report(self, number: int) -> None:
        running = self._running.get(number)
        if running is not None and running.job.on_progress is not None and not running.known:
            self._on_event_loop(self._tell, number, running, self._scheduler.counted(number))

    def _tell(self, number: int, running: _Running, counted: int) -> None:
        """Tell of a job's progress; called on the event loop."""
        if running.answer.done() or running.job.on_progress is None:
            return
        try:
            running.job.on_progress(counted)
        except Exception as error:
            with self._lock:
                self._fail(number, error)

    def _on_event_loop(self, function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # it is closed, and nobody waits
            self._event_loop.call_soon_threadsafe(function, *arguments)


def _answer(answer: asyncio.Future[Any], outcome: object) -> None:
    if not answer.done():
        answer.set_result(outcome)


def _refuse(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


def _size(batch: tuple[Slice, ...]) -> int:
    return sum(piece.count for piece in batch)
