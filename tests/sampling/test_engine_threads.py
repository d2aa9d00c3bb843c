"""The engine on a real thread and a real model: the same question, the same answer, and nothing kept of it."""

from __future__ import annotations

import asyncio
import gc
import logging
import tracemalloc
import weakref
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest

from certserve.errors import BackendFailed
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.keystream import Key
from certserve.sampling.engine import Engine, Job
from certserve.sampling.executor import ThreadExecutor
from certserve.sampling.sampler import Sampler
from certserve.sampling.slices import DrawSet
from certserve.sampling.source import DrawSource
from certserve.smoothing.outcomes import Votes

SHAPE = (1, 4, 4)
LADDER = (1, 8, 32, 128)
N0, LOOKS = 30, (100, 1_000)
TIMEOUT = 60.0
"""Seconds after which a test gives up; nothing is measured by it."""

Result = TypeVar("Result")


class Fragile:
    """A linear backend that fails on the runs it is told to, counted from 0, and on white images."""

    def __init__(self, models: ModuleType, failing: Iterable[int] = ()) -> None:
        self._backend = models.linear(SHAPE)
        self.shape: tuple[int, int, int] = self._backend.shape
        self.num_classes: int = self._backend.num_classes
        self.failing = set(failing)
        self.runs = 0

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self.runs += 1
        if self.runs - 1 in self.failing:
            raise BackendFailed("a passing failure")
        if (pixels.mean(axis=(1, 2, 3)) > 0.9).any():  # sigma is small beside that
            raise BackendFailed("white is poison")
        return np.asarray(self._backend.logits(pixels))


def _source(seed: int, *, white: bool = False) -> DrawSource:
    pixels = (np.arange(16) * (2 * seed + 1) * 5 % 128).astype(np.uint8).reshape(SHAPE)
    return DrawSource(Key(bytes([seed]) * 32), pixels | np.uint8(255 * white), 0.05, Arithmetic.GRID)


def _collector(last: int) -> Any:
    """A decider that ends with all it was shown at look number `last`."""
    looks: list[Votes] = []

    def look(chosen: Votes, votes: Votes) -> tuple[Votes, ...] | None:
        looks.append(votes)
        return (chosen, *looks) if len(looks) == last else None

    return SimpleNamespace(look=look)


def _job(source: DrawSource, n0: int = N0, looks: tuple[int, ...] = LOOKS) -> Job[Any]:
    return Job(source, n0, looks, _collector(len(looks)))


def _with_engine(backend: Fragile, scenario: Callable[[Engine], Awaitable[Result]]) -> Result:
    async def main() -> Result:
        with ThreadPoolExecutor(1) as device:
            engine = Engine(ThreadExecutor(Sampler(backend, LADDER), device))
            try:
                return await asyncio.wait_for(scenario(engine), TIMEOUT)
            finally:
                await engine.close()

    return asyncio.run(main())


def _together(backend: Fragile, *sources: DrawSource) -> list[Any]:
    """What becomes of jobs that run at the same time."""

    async def scenario(engine: Engine) -> list[Any]:
        jobs = [engine.run(_job(source)) for source in sources]
        return list(await asyncio.gather(*jobs, return_exceptions=True))

    return _with_engine(backend, scenario)


def _expected(models: ModuleType, source: DrawSource) -> tuple[Votes, ...]:
    """The votes, from single draws and numpy."""
    totals = [(DrawSet.SELECTION, N0), *((DrawSet.ESTIMATION, look) for look in LOOKS)]
    tallies = []
    for draws, total in totals:
        rows = np.empty((total, 16), np.float32)
        for i in range(total):
            source.write(draws, i, rows[i : i + 1])
        labels = models.linear(SHAPE).logits(rows.reshape(-1, *SHAPE)).argmax(axis=1)
        tallies.append(np.bincount(labels, minlength=models.CLASSES))
    votes = [Votes(tuple(int(count) for count in tally)) for tally in tallies]
    return tuple(votes)


def test_the_answer_is_that_of_the_single_draws(models: ModuleType) -> None:
    assert _together(Fragile(models), _source(1)) == [_expected(models, _source(1))]


def test_the_same_question_has_the_same_answer_alone_and_beside_nine_others(models: ModuleType) -> None:
    alone = _together(Fragile(models), _source(1))
    beside = _together(Fragile(models), *(_source(seed) for seed in (2, 3, 4, 5, 1, 6, 7, 8, 9, 10)))
    assert beside[4:5] == alone
    assert len({repr(evidence) for evidence in beside}) == 10


@pytest.mark.parametrize("failing", [[0], [1], [3], [0, 9], [5, 20]])
def test_the_same_question_has_the_same_answer_after_a_retry(models: ModuleType, failing: list[int]) -> None:
    backend = Fragile(models, failing)
    sources = [_source(seed) for seed in (1, 2, 3)]
    assert _together(backend, *sources) == _together(Fragile(models), *sources)
    assert backend.runs > max(failing)


def test_the_same_question_asked_twice_at_once_has_one_answer(models: ModuleType) -> None:
    first, second = _together(Fragile(models), _source(1), _source(1))
    assert first == second


def test_a_poisonous_input_fails_alone(models: ModuleType) -> None:
    good = [_source(seed) for seed in (1, 2, 3)]
    *found, failure = _together(Fragile(models), *good, _source(4, white=True))
    assert isinstance(failure, BackendFailed)
    assert found == _together(Fragile(models), *good)


def test_a_cancelled_job_changes_nothing_for_the_others(models: ModuleType) -> None:
    async def scenario(engine: Engine) -> Any:
        tasks = [asyncio.create_task(engine.run(_job(_source(seed)))) for seed in (1, 2, 3)]
        counted = asyncio.Event()
        telling = replace(_job(_source(4), 0, (5_000,)), on_progress=lambda _: counted.set())
        victim = asyncio.create_task(engine.run(telling))
        await counted.wait()
        victim.cancel()
        tasks[1].cancel()
        await tasks[2]
        return await tasks[0]

    assert [_with_engine(Fragile(models), scenario)] == _together(Fragile(models), _source(1))


@pytest.mark.parametrize("white", [False, True], ids=["answered", "failed"])
def test_nothing_of_an_input_outlives_its_job(models: ModuleType, white: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the engine goes on, the pixels that it was asked about are gone from memory."""
    # pytest keeps log records, a record its exception, an exception the frames it passed through.
    monkeypatch.setattr(logging.getLogger("certserve.sampling.engine"), "disabled", True)

    async def ask(engine: Engine) -> weakref.ref[npt.NDArray[np.uint8]]:
        source = _source(1, white=white)
        pixels = source.pixels
        assert pixels.dtype == np.uint8
        await asyncio.gather(engine.run(_job(source)), return_exceptions=True)
        return weakref.ref(pixels)  # type: ignore[arg-type]

    async def scenario(engine: Engine) -> None:
        pixels = await ask(engine)
        for _ in range(1_000):  # the thread lets go a moment after its labels are there
            gc.collect()
            if pixels() is None:
                return
            await asyncio.sleep(0.005)
        pytest.fail("the input is still in memory")

    _with_engine(Fragile(models), scenario)


def test_the_input_of_a_batch_that_failed_is_not_kept_by_a_cycle(
    models: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pixels are gone with their job, whether garbage is collected or not."""
    monkeypatch.setattr(logging.getLogger("certserve.sampling.engine"), "disabled", True)

    async def ask(engine: Engine) -> weakref.ref[npt.NDArray[np.uint8]]:
        source = _source(1)
        pixels = source.pixels
        assert pixels.dtype == np.uint8
        await engine.run(_job(source))
        return weakref.ref(pixels)  # type: ignore[arg-type]

    async def scenario(engine: Engine) -> None:
        pixels = await ask(engine)
        for _ in range(1_000):  # the thread lets go a moment after its labels are there
            if pixels() is None:
                return
            await asyncio.sleep(0.005)
        pytest.fail("the input is still in memory")

    gc.disable()
    try:
        _with_engine(Fragile(models, [0]), scenario)
    finally:
        gc.enable()


def test_memory_does_not_grow_with_the_number_of_draws(models: ModuleType) -> None:
    def peak(n: int) -> int:
        async def scenario(engine: Engine) -> int:
            tracemalloc.start()
            try:
                await engine.run(_job(_source(1), 100, (n,)))
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

        return _with_engine(Fragile(models), scenario)

    peak(2_000)  # what is made once is no matter of n
    assert peak(200_000) - peak(2_000) < 300_000, "not even a label a draw (two bytes) may be kept"
