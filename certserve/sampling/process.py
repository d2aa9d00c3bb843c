"""An executor in a process of its own: a runtime that crashes takes no server with it.

    parent: submit, ask -> pipe -> child: threads of the sampler -> pipe -> parent: futures

The child is started again when it dies, and given up when it does not come up any more. What it had not begun is handed
to the new one; what it was running too, each with nothing beside it, so that an input that kills it cannot spoil its
neighbours. What was alone when it died fails. No caller waits for the pipe: a thread writes to it, another reads.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import pickle
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from certserve.errors import BackendFailed, CertserveError
from certserve.sampling.executor import Labels, Work, Worker
from certserve.sampling.slices import Slice
from certserve.sampling.source import DrawSource

__all__ = ["ProcessExecutor"]

_log = logging.getLogger(__name__)
_START_SECONDS = 300.0
_END_SECONDS = 5.0
_WAITS_SECONDS = (0.5, 2.0, 8.0)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the child says of its sampler when it is ready."""

    largest_batch: int
    half_batch: int
    parallel: int
    num_classes: int
    known: object


@dataclass(slots=True)
class _Pending:
    """What the child was given to do: a batch, or another question."""

    batch: tuple[Slice, ...]
    sources: dict[int, DrawSource]
    question: object
    future: Future[Any]

    def begin(self) -> bool:
        """Whether it is still wanted; from now on it is not taken back."""
        return self.future.running() or self.future.set_running_or_notify_cancel()


class ProcessExecutor:
    """Runs slices in a child process, started by `spawn`.

    Args:
        make: called in the child, where it makes the worker; picklable, as is what is known of the sampler (an
            execution's fingerprint, say).

    Raises:
        BackendFailed: the child did not come up; `CertserveError` of another kind: what `make` raised.
    """

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._make = make
        self._known: set[int] = set()  # jobs that had a batch, and were not forgotten
        self._pending: dict[int, _Pending] = {}  # what the child has, by number, in the order of handing over
        self._waiting: deque[_Pending] = deque()  # what it is still to be given
        self._suspects: deque[_Pending] = deque()  # what was running when it died, to be run before all others
        self._alone = False  # a suspect is running
        self._up = True  # there is a child that is not known to have died
        self._numbers = itertools.count()
        self._sent: set[int] = set()  # jobs whose input the child has
        self._lock = threading.Lock()
        self._closed = False
        self._outbox: queue.SimpleQueue[tuple[Connection, object] | None] = queue.SimpleQueue()
        self._child, self._pipe, self._facts = self._start()
        threading.Thread(target=self._write, name="certserve-process-writer", daemon=True).start()
        self._reader = threading.Thread(target=self._read, name="certserve-process-executor", daemon=True)
        self._reader.start()

    @property
    def largest_batch(self) -> int:
        return self._facts.largest_batch

    @property
    def half_batch(self) -> int:
        return self._facts.half_batch

    @property
    def parallel(self) -> int:
        return self._facts.parallel

    @property
    def ahead(self) -> int:
        return 1  # an answer and the next batch are a while on their way

    @property
    def num_classes(self) -> int:
        return self._facts.num_classes

    @property
    def alive(self) -> bool:
        return not self._closed

    @property
    def known(self) -> object:
        """What `make` says of the sampler; a child that says otherwise is never used."""
        return self._facts.known

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._child.pid

    def make_again_by(self, make: Callable[[], Worker]) -> None:
        """Make the sampler in this way when the child is started again."""
        self._make = make

    def submit(self, take: Callable[[], Work]) -> Future[Labels]:
        work = () if self._closed else take()  # outside of the lock: whoever is asked may ask this executor
        sources = {piece.job: source for source, piece in work}
        future: Future[Labels] = Future()
        with self._lock:
            self._known |= set(sources)
            if work or self._closed:
                self._take(_Pending(tuple(piece for _, piece in work), sources, None, future))
            else:
                future.set_result([])
        return future

    def forget(self, job: int) -> None:
        with self._lock:
            self._known.discard(job)
            if self._unused(job):
                self._sent.discard(job)
                self._send(("forget", job))

    def ask(self, question: object) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            self._take(_Pending((), {}, question, future))
        return future

    def close(self) -> None:
        """End the child; batches still with it fail."""
        with self._lock:
            self._closed = True
            self._send(None)
        self._child.join(_END_SECONDS)
        if self._child.is_alive():
            self._child.kill()
        self._reader.join(_END_SECONDS)
        self._outbox.put(None)

    def _start(self) -> tuple[BaseProcess, Connection, _Facts]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        child = context.Process(target=_serve, args=(theirs, self._make), name="certserve-sampler", daemon=True)
        child.start()
        theirs.close()
        try:
            found = ours.recv() if ours.poll(_START_SECONDS) else None
        except EOFError:
            found = None
        if isinstance(found, _Facts):
            return child, ours, found
        child.kill()
        ours.close()
        if isinstance(found, CertserveError):
            raise found
        raise BackendFailed(f"The process that runs the model did not come up{f': {found}' if found else ''}.")

    def _read(self) -> None:
        """Resolve futures as the child answers; start it again when it dies."""
        while True:
            try:
                answer = self._pipe.recv()
            except (EOFError, OSError):
                if not self._restart():
                    return
                continue
            number, answer = answer
            with self._lock:
                pending = self._pending.pop(number)
                self._forget_done(pending)
                self._alone = False
                self._hand_over()
            if isinstance(answer, Exception):
                pending.future.set_exception(answer)
            else:
                pending.future.set_result(answer)
            del pending, answer  # inputs and labels

    def _restart(self) -> bool:
        """Whether there is a new child."""
        failed = self._blame()
        for pending in failed:
            pending.future.set_exception(BackendFailed("The process that runs the model died."))
        if not self._closed:
            self._child.join(_END_SECONDS)
            _log.warning("the process that runs the model died (exit code %s)", self._child.exitcode)
        try:
            child, pipe, facts = self._start_again()
        except CertserveError as error:
            self._give_up(error)
            return False
        with self._lock:
            if not self._closed and facts == self._facts:
                self._child, self._pipe, self._sent, self._up = child, pipe, set(), True
                self._hand_over()
                return True
        child.kill()
        pipe.close()
        self._give_up(BackendFailed("The process of this model has ended, or came up as another one."))
        return False

    def _blame(self) -> list[_Pending]:
        """Sort what the dead child had: what it ran alone has failed, what it ran beside others is suspect."""
        with self._lock:
            had, self._pending = list(self._pending.values()), {}
            self._up = self._alone = False
            running, rest = had[: self._facts.parallel], had[self._facts.parallel :]  # it begins them in order
            self._waiting.extendleft(reversed(rest))
            if len(running) == 1 or self._closed:
                return running
            self._suspects.extend(running)
            return []

    def _start_again(self) -> tuple[BaseProcess, Connection, _Facts]:
        """A new child; patient with one that does not come up at once."""
        for wait in _WAITS_SECONDS:
            if self._closed:
                break
            try:
                return self._start()
            except (CertserveError, OSError) as error:
                _log.warning("the process that runs the model did not come up again: %s", error)
            time.sleep(wait)
        raise BackendFailed("The process of this model has ended.")

    def _give_up(self, error: Exception) -> None:
        with self._lock:
            self._closed = True
            left = [*self._pending.values(), *self._suspects, *self._waiting]
            self._pending = {}
            self._suspects.clear()
            self._waiting.clear()
        for pending in left:
            if pending.begin():
                pending.future.set_exception(error)

    def _take(self, pending: _Pending) -> None:
        if self._closed:
            raise BackendFailed("The process of this model has ended.")
        self._waiting.append(pending)
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the child what it is to have: a suspect alone; else all batches, and as many questions as it answers."""
        if not self._up or self._alone:
            return
        if self._suspects:
            if not self._pending:
                self._alone = True
                self._give(self._suspects.popleft())
            return
        questions = sum(not pending.batch for pending in self._pending.values())
        left: deque[_Pending] = deque()
        for pending in self._waiting:
            if not pending.batch and questions >= self._facts.parallel:
                left.append(pending)
            elif pending.begin():
                questions += not pending.batch
                self._give(pending)
        self._waiting = left

    def _give(self, pending: _Pending) -> None:
        number = next(self._numbers)
        self._pending[number] = pending
        if not pending.batch:
            self._send(("ask", number, pending.question))
            return
        new = {job: source for job, source in pending.sources.items() if job not in self._sent}
        self._sent |= set(new)
        self._send(("run", number, new, pending.batch))

    def _forget_done(self, done: _Pending) -> None:
        """Let the child forget the inputs that were forgotten while it ran them."""
        for job in done.sources:
            if job not in self._known and self._unused(job):
                self._sent.discard(job)
                self._send(("forget", job))

    def _unused(self, job: int) -> bool:
        """Whether the child has the job's input, and no batch of it to run."""
        return job in self._sent and not any(job in pending.sources for pending in self._pending.values())

    def _send(self, message: object) -> None:
        self._outbox.put((self._pipe, message))

    def _write(self) -> None:
        """Write to the pipes, in order; what was for a child that died is dropped."""
        while (letter := self._outbox.get()) is not None:
            pipe, message = letter
            with contextlib.suppress(OSError, ValueError):  # it died: the reader hears of it, and hands over again
                pipe.send(message)


def _serve(pipe: Connection, make: Callable[[], Worker]) -> None:
    """The child: make the sampler, then answer batches until the pipe ends."""
    for number in (signal.SIGINT, signal.SIGHUP):  # what a terminal sends to all of a group is the parent's to handle
        signal.signal(number, signal.SIG_IGN)
    try:
        sampler, known, answer = make()
        pipe.send(_Facts(sampler.largest_batch, sampler.half_batch, sampler.parallel, sampler.num_classes, known))
    except Exception as error:
        pipe.send(error if isinstance(error, CertserveError) else f"{type(error).__name__}: {error}")
        return
    sources: dict[int, DrawSource] = {}
    answering = threading.Lock()

    def reply(number: int, function: Callable[[Any], Any], argument: Any) -> None:
        found = _result(function, argument)
        with answering, contextlib.suppress(OSError):
            try:
                pipe.send((number, found))
            except (TypeError, AttributeError, pickle.PicklingError):  # an exception that cannot be sent
                pipe.send((number, BackendFailed(str(found))))

    with ThreadPoolExecutor(sampler.parallel) as threads, contextlib.suppress(EOFError, OSError):
        while (message := pipe.recv()) is not None:
            if message[0] == "forget":
                sources.pop(message[1], None)
                continue
            if message[0] == "ask":
                threads.submit(reply, message[1], answer, message[2])
                continue
            _, number, new, batch = message
            sources |= new
            threads.submit(reply, number, sampler.labels, [(sources[piece.job], piece) for piece in batch])
            del message, new  # inputs


def _result(function: Callable[[Any], Any], argument: Any) -> Any:
    """What the function gives, or the error that it raises."""
    try:
        return function(argument)
    except CertserveError as error:
        return error
    except BaseException as error:  # whatever it is, the parent waits for an answer
        return BackendFailed(f"{type(error).__name__}: {error}")
