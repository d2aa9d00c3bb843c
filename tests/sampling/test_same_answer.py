"""The same question has the same answer: for any capacity, any mix, any executor, and whatever goes wrong."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from certserve.errors import BackendFailed, OutOfMemory, Unavailable
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.keystream import Key
from certserve.sampling.engine import Engine, Job
from certserve.sampling.executor import Executor, ThreadExecutor
from certserve.sampling.process import ProcessExecutor
from certserve.sampling.sampler import Sampler
from certserve.sampling.source import DrawSource
from certserve.smoothing.outcomes import Votes

SHAPE = (3, 8, 8)
TIMEOUT = 300.0
"""Seconds after which a test gives up; nothing is measured by it."""

PLANS: dict[int, tuple[int, tuple[int, ...]]] = {
    1: (30, (100, 400)),
    2: (0, (77,)),
    3: (9, (2_500,)),
    4: (100, (1, 2, 1_000)),
    5: (1, (1,)),
}
"""Jobs by seed: selection draws and looks; the third is large."""

Answers = dict[int, Any]


class Fragile:
    """A linear backend with memory for so many rows; from batch number `shrinks_at` on for `then`. Loud draws fail."""

    def __init__(self, models: ModuleType, shrinks_at: int = -1, then: int = 0) -> None:
        self._backend = models.linear()
        self.shape: tuple[int, int, int] = self._backend.shape
        self.num_classes: int = self._backend.num_classes
        self._shrinks_at = shrinks_at
        self._then = then
        self.runs = 0

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self.runs += 1
        if 0 <= self._shrinks_at < self.runs and len(pixels) > self._then:
            raise OutOfMemory("no memory")
        if (pixels > 6.0).any():
            raise BackendFailed("too loud")
        return np.asarray(self._backend.logits(pixels))


def _collector(last: int) -> Any:
    """A decider that ends with all it was shown at look number `last`."""
    looks: list[Votes] = []

    def look(chosen: Votes, votes: Votes) -> tuple[Votes, ...] | None:
        looks.append(votes)
        return (chosen, *looks) if len(looks) == last else None

    return SimpleNamespace(look=look)


def _job(seed: int, sigma: float = 0.5) -> Job[Any]:
    pixels = (np.arange(192) * (2 * seed + 1) % 256).astype(np.uint8).reshape(SHAPE)
    n0, looks = PLANS[seed]
    source = DrawSource(Key(bytes([seed]) * 32), pixels, sigma, Arithmetic.GRID)
    return Job(source, n0, looks, _collector(len(looks)))


@contextmanager
def _thread(backend: Fragile, ladder: tuple[int, ...], parallel: int) -> Iterator[Executor]:
    with ThreadPoolExecutor(parallel) as device:
        yield ThreadExecutor(Sampler(backend, ladder, parallel), device)


@contextmanager
def _process(folder: Path, parallel: int) -> Iterator[ProcessExecutor]:
    (folder / "parallel").write_text(str(parallel), encoding="utf-8")
    executor = ProcessExecutor(partial(importlib.import_module("scripted_model").make, str(folder)))
    try:
        yield executor
    finally:
        executor.close()


def _ask(
    executor: Executor,
    seeds: tuple[int, ...] = tuple(PLANS),
    loud: int = 0,
    meanwhile: Callable[[], None] | None = None,
) -> Answers:
    """What becomes of jobs that are asked at once; `meanwhile` is called when the first labels are back."""

    async def main() -> Answers:
        engine = Engine(executor)
        jobs = [_job(seed, 10.0 if seed == loud else 0.5) for seed in seeds]
        tasks = [asyncio.create_task(engine.run(job)) for job in jobs]
        if meanwhile:
            await asyncio.sleep(0.02)
            meanwhile()
        found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), TIMEOUT)
        assert not engine._running
        engine._stop(Unavailable("The test is over."))
        return dict(zip(seeds, found, strict=True))

    return asyncio.run(main())


@pytest.fixture(scope="module")
def expected(models: ModuleType) -> Answers:
    """Each question asked alone, one draw at a time."""
    answers: Answers = {}
    for seed in PLANS:
        with _thread(Fragile(models), (1,), 1) as executor:
            answers |= _ask(executor, (seed,))
    return answers


def _only_the_loud_one_fails(found: Answers, expected: Answers, loud: int) -> None:
    failure = found[loud]
    assert isinstance(failure, BackendFailed)
    assert "twice" in str(failure)
    assert {seed: answer for seed, answer in found.items() if seed != loud} == {
        seed: answer for seed, answer in expected.items() if seed != loud
    }


@pytest.mark.parametrize("ladder", [(1, 8, 32, 64), (64,), (5, 30), (1, 128)], ids=str)
@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_on_threads_with_any_ladder(
    models: ModuleType, expected: Answers, ladder: tuple[int, ...], parallel: int
) -> None:
    with _thread(Fragile(models), ladder, parallel) as executor:
        assert _ask(executor) == expected


@pytest.mark.parametrize("seeds", [(3, 1), (5, 4, 3, 2, 1), (2, 5)], ids=str)
def test_in_any_mix(models: ModuleType, expected: Answers, seeds: tuple[int, ...]) -> None:
    with _thread(Fragile(models), (1, 8, 32), 2) as executor:
        assert _ask(executor, seeds) == {seed: expected[seed] for seed in seeds}


@pytest.mark.parametrize("then", [1, 8, 40])
@pytest.mark.parametrize("shrinks_at", [0, 3, 20])
@pytest.mark.parametrize("parallel", [1, 2])
def test_out_of_memory_in_the_middle(
    models: ModuleType, expected: Answers, parallel: int, shrinks_at: int, then: int
) -> None:
    backend = Fragile(models, shrinks_at, then)
    with _thread(backend, (1, 8, 32, 64), parallel) as executor:
        assert _ask(executor) == expected
        assert executor.largest_batch <= then
    assert backend.runs > shrinks_at


@pytest.mark.parametrize("parallel", [1, 2, 4])
@pytest.mark.parametrize("loud", [1, 3])
def test_beside_an_input_that_the_model_fails_on(
    models: ModuleType, expected: Answers, loud: int, parallel: int
) -> None:
    with _thread(Fragile(models), (1, 8, 32), parallel) as executor:
        _only_the_loud_one_fails(_ask(executor, loud=loud), expected, loud)


@pytest.mark.parametrize("parallel", [1, 2])
def test_in_a_process_that_is_killed(
    models: ModuleType, expected: Answers, process_folder: Path, parallel: int
) -> None:
    """In a process at all, while it is killed in the middle, and in the one that comes after it."""

    def kill() -> None:
        assert executor.pid is not None
        os.kill(executor.pid, signal.SIGKILL)

    with _process(process_folder, parallel) as executor:
        before = executor.pid
        assert _ask(executor) == expected
        assert executor.pid == before
        assert _ask(executor, meanwhile=kill) == expected
        assert executor.pid != before
        assert _ask(executor) == expected


def test_beside_an_input_that_ends_the_process(models: ModuleType, expected: Answers, process_folder: Path) -> None:
    """With two batches at once, so that innocent ones die with it."""
    with _process(process_folder, 2) as executor:
        _only_the_loud_one_fails(_ask(executor, loud=5), expected, 5)
        assert _ask(executor) == expected
