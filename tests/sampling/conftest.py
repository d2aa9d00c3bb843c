"""What the tests of sampling share: the tiny models, and a bench of jobs whose labels are known beforehand."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from certserve.noise.arithmetic import Arithmetic
from certserve.noise.keystream import Key
from certserve.sampling.engine import Job
from certserve.sampling.executor import Work
from certserve.sampling.slices import DrawSet, Slice
from certserve.sampling.source import DrawSource
from certserve.smoothing.outcomes import Votes

CLASSES = 3

Labels = npt.NDArray[np.uint16]


def labels_of(seed: int, draws: DrawSet, first: int, count: int) -> Labels:
    """The labels of a run of draws, 0..CLASSES, as a pure function of (seed, set, index): no model needed."""
    index = np.arange(first, first + count, dtype=np.uint64)
    mixed = index * np.uint64(2654435761) + np.uint64(977 * seed + (31 if draws is DrawSet.SELECTION else 0))
    return ((mixed >> np.uint64(9)) % np.uint64(CLASSES + 1)).astype(np.uint16)


def votes_of(labels: Labels) -> Votes:
    """The votes of labels, counted independently of the scheduler."""
    return Votes(tuple(int((labels == c).sum()) for c in range(CLASSES)), int((labels == CLASSES).sum()))


class Evidence(NamedTuple):
    """What a job was shown: the selection votes, and the estimation votes at each look."""

    selection: Votes
    looks: tuple[Votes, ...]


class Collector:
    """A decider that goes on to look number `last`, and ends with all it was shown."""

    def __init__(self, last: int) -> None:
        self._last = last
        self._looks: list[Votes] = []

    def look(self, selection: Votes, votes: Votes) -> Evidence | None:
        self._looks.append(votes)
        return Evidence(selection, tuple(self._looks)) if len(self._looks) == self._last else None

    def end(self, reason: str) -> Evidence:
        return Evidence(Votes(()), tuple(self._looks))


def evidence_of(seed: int, n0: int, looks: Sequence[int]) -> Evidence:
    """The evidence a job must end with: the votes of exactly its selection draws and of each prefix it looks at."""
    selection = votes_of(labels_of(seed, DrawSet.SELECTION, 0, n0))
    return Evidence(selection, tuple(votes_of(labels_of(seed, DrawSet.ESTIMATION, 0, look)) for look in looks))


@dataclass
class Submitted:
    """A batch that the engine has submitted, and that waits for the test: to begin, unless it has, and to end."""

    take: Callable[[], Work]
    future: Future[list[Labels]]
    work: list[tuple[int, Slice]] = field(default_factory=list)

    @property
    def seeds(self) -> set[int]:
        """Which jobs' draws it holds."""
        return {seed for seed, _ in self.work}

    def begin(self) -> None:
        """Ask what is in it. A source's first pixel is its job's seed."""
        assert self.future.set_running_or_notify_cancel()
        self.work = [(int(source.pixels.flat[0]), piece) for source, piece in self.take()]

    def answer(self) -> None:
        """Give the right labels, whether it has begun or not."""
        if not self.future.running():
            self.begin()
        found = [labels_of(seed, piece.draws, piece.first, piece.count) for seed, piece in self.work]
        self.future.set_result(found)

    def fail(self, error: BaseException) -> None:
        """Fail all of it, which has begun."""
        self.future.set_exception(error)


Respond = Callable[[Submitted], None]


class ScriptedExecutor:
    """An executor that does nothing until the test says so.

    Args:
        ahead: how many batches it wants beside those that run; a batch begins when it is submitted. None: as threads
            do it, with none ahead, and a batch begins when the test says so.
    """

    num_classes = CLASSES
    alive = True

    def __init__(self, largest_batch: int = 32, parallel: int = 1, ahead: int | None = 1) -> None:
        self.largest_batch = largest_batch
        self.half_batch = -(-largest_batch // 2)
        self.parallel = parallel
        self.ahead = ahead or 0
        self._begins = ahead is not None
        self.forgotten: list[int] = []
        self.pending: list[Submitted] = []
        self.history: list[Submitted] = []
        self.asked: list[tuple[object, Future[Any]]] = []

    def forget(self, job: int) -> None:
        self.forgotten.append(job)

    def close(self) -> None:
        self.alive = False

    def submit(self, take: Callable[[], Work]) -> Future[list[Labels]]:
        submitted = Submitted(take, Future())
        if self._begins:
            submitted.begin()
        self.pending.append(submitted)
        self.history.append(submitted)
        return submitted.future

    def ask(self, question: object) -> Future[Any]:
        asked: Future[Any] = Future()
        self.asked.append((question, asked))
        return asked

    async def settle(self) -> None:
        """Let the engine do all it can do before the next batch comes back."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def finish(self, respond: Respond = Submitted.answer) -> None:
        """Respond to batches, in order, until the engine submits no more."""
        await self.settle()
        while self.pending:
            assert len(self.history) < 1_000, "the engine submits without end"
            submitted = self.pending.pop(0)
            if not submitted.future.running():
                submitted.begin()
            respond(submitted)
            await self.settle()


class Bench:
    """Makes jobs that end with all of their evidence."""

    def source(self, seed: int) -> DrawSource:
        """An input known by its seed, 0..255."""
        pixels = np.full((1, 2, 2), seed, np.uint8)
        return DrawSource(Key(bytes([seed]) * 32), pixels, 0.25, Arithmetic.GRID)

    def job(self, seed: int, n0: int, looks: Sequence[int]) -> Job[Evidence]:
        """A job that goes on until its last look."""
        return Job(self.source(seed), n0, looks, self.collector(len(looks)))

    def collector(self, last: int) -> Collector:
        """A decider that ends with its evidence at look number `last`."""
        return Collector(last)

    def evidence(self, seed: int, n0: int, looks: Sequence[int]) -> Evidence:
        """What `job` ends with."""
        return evidence_of(seed, n0, looks)

    def seen(self, selection: Votes, looks: Sequence[Votes]) -> Evidence:
        """What a collector that was shown these ends with."""
        return Evidence(selection, tuple(looks))

    def news(self, seed: int, n0: int, looks: Sequence[int]) -> list[tuple[Votes, Votes]]:
        """What the scheduler must report of a job that has reached these looks."""
        selection, votes = evidence_of(seed, n0, looks)
        return [(selection, each) for each in votes]

    def labels(self, seed: int, draws: DrawSet, first: int, count: int) -> Labels:
        """Labels of a run of a job's draws."""
        return labels_of(seed, draws, first, count)

    def executor(self, largest_batch: int = 32, parallel: int = 1, *, ahead: int | None = 1) -> ScriptedExecutor:
        """An executor that the test controls."""
        return ScriptedExecutor(largest_batch, parallel, ahead)


@pytest.fixture(scope="session")
def bench() -> Bench:
    return Bench()


@pytest.fixture(scope="session")
def models() -> ModuleType:
    """tests/models.py, to which no import path leads."""
    spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parents[1] / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def process_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the files that tell scripted_model.py what to do; a spawned process finds that module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return tmp_path
