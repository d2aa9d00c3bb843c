"""A model in a process of its own: what its death costs, and what it does not."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from certserve.errors import BackendFailed, BundleError, Unavailable
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.keystream import Key
from certserve.sampling.engine import Engine, Job
from certserve.sampling.executor import Labels
from certserve.sampling.process import ProcessExecutor
from certserve.sampling.slices import DrawSet, Slice
from certserve.sampling.source import DrawSource

TIMEOUT = 300.0
N = 3_000


@pytest.fixture
def make(process_folder: Path) -> Callable[[], Any]:
    return partial(importlib.import_module("scripted_model").make, str(process_folder))


@pytest.fixture
def executor(make: Callable[[], Any]) -> Iterator[ProcessExecutor]:
    made = ProcessExecutor(make)
    yield made
    made.close()


def _source(seed: int, sigma: float = 0.5) -> DrawSource:
    pixels = (np.arange(192) * (2 * seed + 1) % 256).astype(np.uint8).reshape(3, 8, 8)
    return DrawSource(Key(bytes([seed]) * 32), pixels, sigma, Arithmetic.GRID)


def _submit(executor: ProcessExecutor, piece: Slice) -> Future[Labels]:
    return executor.submit(lambda: [(_source(piece.job), piece)])


def _job(seed: int, sigma: float = 0.5, n: int = N) -> Job[Any]:
    return Job(_source(seed, sigma), 10, (n,), SimpleNamespace(look=lambda chosen, votes: (chosen, votes)))


def _answers(executor: ProcessExecutor, *jobs: Job[Any], meanwhile: Callable[[], None] = lambda: None) -> list[Any]:
    """What an engine on the executor answers; exceptions are among the answers."""

    async def main() -> list[Any]:
        engine = Engine(executor)
        tasks = [asyncio.create_task(engine.run(job)) for job in jobs]
        await asyncio.sleep(0.05)
        meanwhile()
        found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), TIMEOUT)
        engine._stop(Unavailable("The test is over."))
        return found

    return asyncio.run(main())


def _kill(executor: ProcessExecutor) -> None:
    assert executor.pid is not None
    os.kill(executor.pid, signal.SIGKILL)


def test_it_is_another_process_and_says_what_make_says(executor: ProcessExecutor) -> None:
    assert executor.pid not in (None, os.getpid())
    assert (executor.known, executor.largest_batch, executor.num_classes) == ("one", 32, 4)
    assert executor.alive


def test_a_kill_costs_a_retry_and_no_answer(executor: ProcessExecutor) -> None:
    """Answers while the process is killed are, bit for bit, those of an undisturbed run."""
    undisturbed = _answers(executor, *(_job(seed) for seed in range(4)))
    before = executor.pid
    disturbed = _answers(executor, *(_job(seed) for seed in range(4)), meanwhile=lambda: _kill(executor))
    assert disturbed == undisturbed
    assert executor.pid != before


def test_an_input_that_kills_the_process_fails_alone(executor: ProcessExecutor) -> None:
    """Its neighbours answer as if it had not been there, and so do those who come later."""
    undisturbed = _answers(executor, _job(1), _job(2))
    first, poison, second = _answers(executor, _job(1), _job(3, sigma=10.0), _job(2))
    assert [first, second] == undisturbed
    assert isinstance(poison, BackendFailed)
    assert "twice" in str(poison)
    assert _answers(executor, _job(1), _job(2)) == undisturbed


def test_a_kill_while_nothing_runs_is_not_noticed(executor: ProcessExecutor) -> None:
    undisturbed = _answers(executor, _job(1))
    for _ in range(4):
        _kill(executor)
        time.sleep(0.05)
        assert _answers(executor, _job(1)) == undisturbed


@pytest.fixture
def parallel_executor(
    request: pytest.FixtureRequest, make: Callable[[], Any], process_folder: Path
) -> Iterator[ProcessExecutor]:
    """One that runs as many batches at once as the parameter says."""
    (process_folder / "parallel").write_text(str(request.param), encoding="utf-8")
    made = ProcessExecutor(make)
    assert made.parallel == request.param
    yield made
    made.close()


@pytest.mark.parametrize("parallel_executor", [1, 2, 3], indirect=True)
def test_only_what_ran_alone_fails_with_the_process(parallel_executor: ProcessExecutor, process_folder: Path) -> None:
    """What it ran beside others when it was killed, and what it had not begun, the next process answers."""
    executor, parallel = parallel_executor, parallel_executor.parallel
    (process_folder / "hold").touch()
    pieces = [Slice(1, DrawSet.ESTIMATION, 32 * k, 32) for k in range(parallel + 2)]
    futures = [_submit(executor, piece) for piece in pieces]
    time.sleep(0.2)
    _kill(executor)
    (process_folder / "hold").unlink()
    lost = 1 if parallel == 1 else 0
    for future in futures[:lost]:
        with pytest.raises(BackendFailed, match="died"):
            future.result(TIMEOUT)
    later = [future.result(TIMEOUT)[0].tolist() for future in futures[lost:]]
    again = [_submit(executor, piece).result(TIMEOUT)[0].tolist() for piece in pieces[lost:]]
    assert later == again


@pytest.mark.parametrize("parallel_executor", [2], indirect=True)
def test_a_question_that_kills_the_process_fails_alone(parallel_executor: ProcessExecutor) -> None:
    """However often it is asked while others are answered: each of those is, and so are other questions."""
    executor = parallel_executor
    undisturbed = _answers(executor, *(_job(seed) for seed in range(4)))
    poison, harmless = np.full((1, 3, 8, 8), 10.0, np.float32), np.zeros((1, 3, 8, 8), np.float32)
    asked: list[Any] = []

    def ask() -> None:
        asked.extend(executor.ask(question) for question in (poison, harmless, poison))

    assert _answers(executor, *(_job(seed) for seed in range(4)), meanwhile=ask) == undisturbed
    for question in (asked[0], asked[2]):
        assert isinstance(question.exception(TIMEOUT), BackendFailed)
    assert asked[1].result(TIMEOUT).shape == (1, 4)


@pytest.mark.parametrize("parallel_executor", [2], indirect=True)
def test_questions_that_nobody_waits_for_are_not_answered(
    parallel_executor: ProcessExecutor, process_folder: Path
) -> None:
    """The process has as many as it answers at once; those behind them can be taken back, and batches pass them."""
    executor = parallel_executor
    (process_folder / "hold").touch()
    questions = [executor.ask(np.zeros((1, 3, 8, 8), np.float32)) for _ in range(20)]
    batch = _submit(executor, Slice(1, DrawSet.ESTIMATION, 0, 8))
    assert [question.cancel() for question in questions] == [False] * 2 + [True] * 18
    assert not batch.cancel()
    (process_folder / "hold").unlink()
    assert [question.result(TIMEOUT).shape for question in questions[:2]] == [(1, 4)] * 2
    assert len(batch.result(TIMEOUT)[0]) == 8
    assert executor.ask(np.zeros((2, 3, 8, 8), np.float32)).result(TIMEOUT).shape == (2, 4)


def test_a_process_that_comes_up_as_another_model_is_not_used(executor: ProcessExecutor, process_folder: Path) -> None:
    (process_folder / "name").write_text("two", encoding="utf-8")
    _kill(executor)
    time.sleep(0.2)
    with pytest.raises(Exception, match=r"has ended|died"):
        _submit(executor, Slice(1, DrawSet.ESTIMATION, 0, 4)).result(TIMEOUT)
    deadline = time.monotonic() + TIMEOUT
    while executor.alive and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not executor.alive


def test_what_make_raises_is_raised_here(make: Callable[[], Any], process_folder: Path) -> None:
    (process_folder / "broken").touch()
    with pytest.raises(BundleError, match="the bundle is broken"):
        ProcessExecutor(make)


def test_a_process_that_does_not_come_up_is_one_sentence(make: Callable[[], Any], process_folder: Path) -> None:
    (process_folder / "dies").touch()
    with pytest.raises(BackendFailed, match="did not come up"):
        ProcessExecutor(make)


@pytest.mark.parametrize("early", [False, True])
def test_inputs_are_forgotten_there_too(executor: ProcessExecutor, early: bool) -> None:
    """Of jobs that are forgotten when their batch is back, and while it runs."""
    for job in range(5):
        batch = _submit(executor, Slice(job, DrawSet.ESTIMATION, 0, 4))
        if not early:
            batch.result(TIMEOUT)
        executor.forget(job)
        batch.result(TIMEOUT)
    deadline = time.monotonic() + TIMEOUT
    while executor._sent and time.monotonic() < deadline:
        time.sleep(0.01)
    assert executor._sent == set()


def test_an_input_is_not_kept_here_either(executor: ProcessExecutor) -> None:
    """While the process has nothing to do, and whether garbage is collected or not."""

    def ask() -> weakref.ref[Any]:
        source = _source(1)
        executor.submit(lambda: [(source, Slice(1, DrawSet.ESTIMATION, 0, 4))]).result(TIMEOUT)
        executor.forget(1)
        return weakref.ref(source.pixels)

    gc.disable()
    try:
        pixels = ask()
        deadline = time.monotonic() + 10.0
        while pixels() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert pixels() is None
    finally:
        gc.enable()


def test_whatever_a_runtime_raises_there_is_answered(executor: ProcessExecutor, process_folder: Path) -> None:
    """An exception that is no Exception leaves nobody waiting, and the process alive."""
    pid = executor.pid
    (process_folder / "exit").touch()
    with pytest.raises(BackendFailed, match="SystemExit: told to"):
        _submit(executor, Slice(1, DrawSet.ESTIMATION, 0, 4)).result(30.0)
    assert len(_submit(executor, Slice(1, DrawSet.ESTIMATION, 0, 4)).result(TIMEOUT)[0]) == 4
    assert executor.pid == pid


def test_closing_ends_the_process_and_fails_what_comes_after(make: Callable[[], Any]) -> None:
    executor = ProcessExecutor(make)
    child = executor._child
    executor.close()
    assert not child.is_alive()
    assert not executor.alive
    with pytest.raises(BackendFailed, match="has ended"):
        _submit(executor, Slice(1, DrawSet.ESTIMATION, 0, 4)).result(TIMEOUT)
