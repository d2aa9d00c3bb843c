"""An answer is known on one thread and given on another: once, to whoever still waits, and nothing after it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from certserve.errors import BackendFailed, Unavailable
from certserve.sampling.engine import Engine, _Running
from certserve.sampling.executor import ThreadExecutor
from certserve.sampling.sampler import Sampler

if TYPE_CHECKING:
    from tests.sampling.conftest import Bench


def _on(executor: Any, scenario: Callable[[Engine], Awaitable[None]]) -> None:
    async def main() -> None:
        engine = Engine(executor)
        try:
            await asyncio.wait_for(scenario(engine), 60.0)
        finally:
            await engine.close()

    asyncio.run(main())


def test_an_answer_that_is_known_when_the_budget_ends_is_given(bench: Bench) -> None:
    """Were it thrown away, an abstention would be given for it."""
    executor = bench.executor()

    async def scenario(engine: Engine) -> None:
        task = asyncio.create_task(engine.run(bench.job(1, 0, (20,)), 0.05))
        await executor.settle()
        executor.pending.pop().answer()
        time.sleep(0.1)  # so that the event loop finds the answer and the end of the budget at once
        assert await task == bench.evidence(1, 0, (20,))

    _on(executor, scenario)


def test_a_failure_that_is_known_when_the_budget_ends_is_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """And is not an abstention for want of time; nor does the event loop complain that nobody heard of it."""
    executor = bench.executor()

    def raises(*_: object) -> None:
        raise BackendFailed("told to")

    async def scenario(engine: Engine) -> None:
        job: Any = replace(bench.job(1, 0, (20,)), decider=SimpleNamespace(look=raises))
        task = asyncio.create_task(engine.run(job, 0.05))
        await executor.settle()
        executor.pending.pop().answer()
        time.sleep(0.1)
        with pytest.raises(BackendFailed, match="told to"):
            await task

    _on(executor, scenario)
    gc.collect()
    assert not caplog.records


def test_a_timeout_of_the_job_s_own_is_not_the_budget_s(bench: Bench) -> None:
    executor = bench.executor()

    def raises(*_: object) -> None:
        raise TimeoutError("its own")

    async def scenario(engine: Engine) -> None:
        job: Any = replace(bench.job(1, 0, (20,)), decider=SimpleNamespace(look=raises))
        task = asyncio.create_task(engine.run(job, 50.0))
        await executor.finish()
        with pytest.raises(TimeoutError, match="its own"):
            await task

    _on(executor, scenario)


@pytest.mark.parametrize("budget", [0.0, -1.0])
def test_a_budget_that_has_ended_is_answered_at_once(bench: Bench, budget: float) -> None:
    executor = bench.executor()
    decider = SimpleNamespace(look=lambda *_: "looked", end=lambda reason: reason)

    async def scenario(engine: Engine) -> None:
        job: Any = replace(bench.job(1, 0, (20,)), decider=decider)
        assert await engine.run(job, budget) == "the time budget ended after 0 of 20 draws"
        assert engine.waiting == 0

    _on(executor, scenario)


@pytest.mark.parametrize("end", ["answered", "failed"])
def test_whoever_leaves_when_it_is_known_is_told_nothing(
    bench: Bench, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that is forced upon whoever has gone is an error of the event loop's, in its log."""
    executor = bench.executor()
    told: list[int] = []

    def raises(*_: object) -> None:
        raise BackendFailed("told to")

    async def scenario(engine: Engine) -> None:
        job: Any = replace(bench.job(1, 0, (20,)), on_progress=told.append)
        if end == "failed":
            job = replace(job, decider=SimpleNamespace(look=raises))
        task = asyncio.create_task(engine.run(job))
        await executor.settle()
        executor.pending.pop().answer()
        task.cancel()
        await executor.settle()
        assert task.cancelled()
        assert not engine._running

    _on(executor, scenario)
    assert not caplog.records
    assert not told


def test_whoever_leaves_is_told_of_no_progress(bench: Bench) -> None:
    executor = bench.executor()
    told: list[int] = []

    async def scenario(engine: Engine) -> None:
        task = asyncio.create_task(engine.run(replace(bench.job(1, 0, (90,)), on_progress=told.append)))
        await executor.settle()
        executor.pending.pop(0).answer()
        task.cancel()
        await executor.settle()
        assert not told

    _on(executor, scenario)


def test_what_fails_after_the_end_is_nobody_s_concern(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A runtime that is torn down fails its batches, and the log does not speak of them."""
    executor = bench.executor()

    async def scenario(engine: Engine) -> None:
        task = asyncio.create_task(engine.run(bench.job(1, 0, (90,))))
        await executor.settle()
        await engine.close()
        with pytest.raises(Unavailable):
            await task
        executor.pending.pop(0).fail(BackendFailed("torn down"))

    _on(executor, scenario)
    assert not caplog.records


def test_batches_that_are_cancelled_with_their_device(
    bench: Bench, models: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    """The job fails, and the thread that closes the device waits for nobody who waits for it."""

    async def main() -> None:
        device = ThreadPoolExecutor(1)
        engine = Engine(ThreadExecutor(Sampler(models.linear((1, 2, 2)), (8,)), device))
        device.submit(time.sleep, 0.1)
        task = asyncio.create_task(engine.run(bench.job(1, 0, (90,))))
        await asyncio.sleep(0)
        with engine._lock:
            await asyncio.to_thread(device.shutdown, wait=False, cancel_futures=True)
        with pytest.raises(Unavailable, match="closed"):
            await task
        assert not engine.alive
        await engine.close()

    asyncio.run(asyncio.wait_for(main(), 30.0))
    assert not caplog.records


def test_no_batch_is_asked_for_when_the_event_loop_is_gone(bench: Bench) -> None:
    """A device that works for nobody is one that does not end."""
    executor = bench.executor()

    async def main() -> None:
        engine = Engine(executor)
        engine._begin(_Running(bench.job(1, 0, (900,)), asyncio.get_running_loop().create_future()))

    asyncio.run(main())
    asked = len(executor.history)
    executor.pending.pop(0).answer()
    assert len(executor.history) == asked


def test_a_device_that_is_closed_beneath_the_engine(
    bench: Bench, models: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    """As when Python ends while a model is in use: the job fails as if it were closed, and nothing is logged."""
    running, go = threading.Event(), threading.Event()
    linear = models.linear((1, 2, 2))

    class Backend:
        shape, num_classes = linear.shape, linear.num_classes

        def logits(self, pixels: Any) -> Any:
            running.set()
            assert go.wait(30.0)
            return linear.logits(pixels)

    async def main() -> None:
        device = ThreadPoolExecutor(1)
        engine = Engine(ThreadExecutor(Sampler(Backend(), (8,)), device))
        task = asyncio.create_task(engine.run(bench.job(1, 0, (90,))))
        assert await asyncio.to_thread(running.wait, 30.0)
        device.shutdown(wait=False)
        go.set()
        with pytest.raises(Unavailable, match="closed"):
            await task
        assert not engine.alive
        await engine.close()

    asyncio.run(main())
    assert not caplog.records


def test_batches_that_a_closed_device_never_begins(
    bench: Bench, models: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    """They end with the engine, without a word in the log."""

    async def main() -> None:
        device = ThreadPoolExecutor(1)
        engine = Engine(ThreadExecutor(Sampler(models.linear((1, 2, 2)), (8,)), device))
        busy = device.submit(time.sleep, 0.1)
        task = asyncio.create_task(engine.run(bench.job(1, 0, (90,))))
        await asyncio.sleep(0)
        await engine.close()
        device.shutdown(cancel_futures=True)
        assert busy.done()
        with pytest.raises(Unavailable):
            await task

    asyncio.run(main())
    assert not caplog.records
