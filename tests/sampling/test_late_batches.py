"""A batch is made when it begins: of whoever is there then, and of nobody who is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from certserve.errors import InternalError
from certserve.sampling.engine import Engine
from certserve.sampling.executor import Work
from certserve.sampling.sizes import BatchSizes

if TYPE_CHECKING:
    from tests.sampling.conftest import Bench, ScriptedExecutor

LARGE, SMALL, OTHER = 1, 2, 3
PLANS: dict[int, tuple[int, tuple[int, ...]]] = {LARGE: (5, (2_400,)), SMALL: (0, (20,)), OTHER: (0, (2_001,))}
ROWS = 16


def _on(executor: ScriptedExecutor, scenario: Callable[[Engine], Awaitable[None]]) -> None:
    async def main() -> None:
        engine = Engine(executor)
        try:
            await asyncio.wait_for(scenario(engine), 60.0)
        finally:
            await engine.close()

    asyncio.run(main())


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_as_many_batches_as_run_are_asked_for(bench: Bench, parallel: int) -> None:
    """Never more, and never fewer while draws wait."""
    executor = bench.executor(ROWS, parallel, ahead=None)

    async def scenario(engine: Engine) -> None:
        task = asyncio.create_task(engine.run(bench.job(LARGE, *PLANS[LARGE])))
        await executor.settle()
        while executor.pending:
            assert len(executor.pending) == parallel or engine.waiting < parallel * ROWS
            assert len(executor.pending) <= parallel
            executor.pending.pop(0).answer()
        assert await task == bench.evidence(LARGE, *PLANS[LARGE])

    _on(executor, scenario)


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_no_more_batches_than_the_draws_fill_are_asked_for(bench: Bench, parallel: int) -> None:
    """Else threads are woken for nothing."""
    executor = bench.executor(ROWS, parallel, ahead=None)
    few = executor.half_batch + 1

    async def scenario(engine: Engine) -> None:
        task = asyncio.create_task(engine.run(bench.job(SMALL, 0, (few,))))
        await executor.settle()
        assert len(executor.pending) == min(parallel, 2)
        await executor.finish()
        assert await task == bench.evidence(SMALL, 0, (few,))
        assert len(executor.history) == min(parallel, 2)

    _on(executor, scenario)


def _sizes(executor: ScriptedExecutor) -> list[int]:
    """The draws of each batch that was asked for, once all have begun."""
    for submitted in executor.pending:
        if not submitted.future.running():
            submitted.begin()
    return [sum(piece.count for _, piece in submitted.work) for submitted in executor.pending]


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_what_little_waits_is_shared_by_those_that_run_nothing(bench: Bench, parallel: int) -> None:
    """One that takes a whole batch, while the others have none, answers later than it could."""
    executor = bench.executor(ROWS, parallel, ahead=None)

    async def scenario(engine: Engine) -> None:
        task = asyncio.create_task(engine.run(bench.job(SMALL, 0, (ROWS,))))
        await executor.settle()
        assert _sizes(executor) == ([ROWS] if parallel == 1 else [ROWS // 2] * 2)
        await executor.finish()
        assert await task == bench.evidence(SMALL, 0, (ROWS,))
        assert bool(engine._pace.rate) == (parallel == 1), "full batches alone tell how fast the device is"

    _on(executor, scenario)


def test_the_last_that_runs_nothing_takes_all_that_waits(bench: Bench) -> None:
    executor = bench.executor(ROWS, 2, ahead=None)
    draws = ROWS + executor.half_batch + 1

    async def scenario(engine: Engine) -> None:
        task = asyncio.create_task(engine.run(bench.job(SMALL, 0, (draws,))))
        await executor.settle()
        assert _sizes(executor) == [ROWS, draws - ROWS]
        await executor.finish()
        assert await task == bench.evidence(SMALL, 0, (draws,))

    _on(executor, scenario)


@pytest.mark.parametrize(("parallel", "halves"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_threads_that_begin_together_do_not_come_back_together(bench: Bench, parallel: int, halves: int) -> None:
    """Else they wait for each other after each batch; a half where there was one before, or for little, fails."""
    executor = bench.executor(ROWS, parallel, ahead=None)

    async def scenario(engine: Engine) -> None:
        for draws, expected in [(2_400, halves), (parallel * ROWS, 0), (2_400, halves)]:
            task = asyncio.create_task(engine.run(bench.job(SMALL, 0, (draws,))))
            await executor.settle()
            assert _sizes(executor) == [ROWS // 2] * expected + [ROWS] * (parallel - expected)
            executor.pending.pop(0).answer()
            await executor.settle()
            assert set(_sizes(executor)[parallel - 1 :]) <= {ROWS}
            await executor.finish()
            assert await task == bench.evidence(SMALL, 0, (draws,))

    _on(executor, scenario)


def test_halves_for_a_lone_job_are_not_those_that_part_threads(bench: Bench) -> None:
    """Else two threads that begin with a lone job's halves come back together for as long as others follow."""
    sizes = BatchSizes(bench.executor(ROWS, 2))
    assert [sizes.take(begun, 1_000, True) for begun in (0, 1)] == [ROWS // 2] * 2
    assert [sizes.take(1, 1_000, False) for _ in range(3)] == [ROWS // 2, ROWS, ROWS]


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_a_small_job_is_in_the_next_batch_that_begins(bench: Bench, parallel: int) -> None:
    executor = bench.executor(ROWS, parallel, ahead=None)

    async def scenario(engine: Engine) -> None:
        tasks = {LARGE: asyncio.create_task(engine.run(bench.job(LARGE, *PLANS[LARGE])))}
        await executor.settle()
        for submitted in executor.pending[:-1]:
            submitted.begin()
        tasks[SMALL] = asyncio.create_task(engine.run(bench.job(SMALL, *PLANS[SMALL])))
        await executor.settle()
        executor.pending[-1].begin()
        assert SMALL in executor.pending[-1].seeds
        assert all(submitted.seeds == {LARGE} for submitted in executor.pending[:-1])
        await executor.finish()
        for seed, task in tasks.items():
            assert await task == bench.evidence(seed, *PLANS[seed])

    _on(executor, scenario)


def test_many_small_jobs_one_after_the_other(bench: Bench) -> None:
    """The large one goes on between them, and all of them end with exactly their draws."""
    executor = bench.executor(ROWS, ahead=None)

    async def scenario(engine: Engine) -> None:
        tasks = [(LARGE, asyncio.create_task(engine.run(bench.job(LARGE, *PLANS[LARGE]))))]
        for _ in range(200):
            tasks.append((SMALL, asyncio.create_task(engine.run(bench.job(SMALL, *PLANS[SMALL])))))
            await executor.settle()
            executor.pending.pop(0).answer()
        large = sum(piece.count for each in executor.history for seed, piece in each.work if seed == LARGE)
        assert large > 200 * ROWS // 4
        await executor.finish()
        for seed, task in tasks:
            assert await task == bench.evidence(seed, *PLANS[seed])

    _on(executor, scenario)


@pytest.mark.parametrize("beside", [False, True])
def test_a_job_that_is_gone_is_in_no_batch_that_begins(bench: Bench, beside: bool) -> None:
    """Another's draws take their place; where there is none, the batch is empty and not the last."""
    executor = bench.executor(ROWS, ahead=None)

    async def scenario(engine: Engine) -> None:
        seeds = (LARGE, OTHER) if beside else (LARGE,)
        tasks = [asyncio.create_task(engine.run(bench.job(seed, *PLANS[seed]))) for seed in seeds]
        await executor.settle()
        tasks[0].cancel()
        await executor.settle()
        executor.pending.pop(0).answer()
        assert executor.history[0].seeds == ({OTHER} if beside else set())
        small = asyncio.create_task(engine.run(bench.job(SMALL, *PLANS[SMALL])))
        await executor.finish()
        assert await small == bench.evidence(SMALL, *PLANS[SMALL])
        if beside:
            assert await tasks[1] == bench.evidence(OTHER, *PLANS[OTHER])

    _on(executor, scenario)


def test_what_waits_for_a_slice_alone_begins_after_it(bench: Bench) -> None:
    """A batch that was asked for before another failed is empty while the slices of that one run again."""
    executor = bench.executor(ROWS, 2, ahead=None)

    async def scenario(engine: Engine) -> None:
        task = asyncio.create_task(engine.run(bench.job(LARGE, *PLANS[LARGE])))
        await executor.settle()
        first, second = executor.pending
        first.begin()
        executor.pending.remove(first)
        first.fail(RuntimeError("for once"))
        again, held_up = executor.pending
        again.begin()
        assert again is second
        assert again.work == first.work[:1]
        held_up.answer()
        assert not held_up.work
        executor.pending.remove(held_up)
        assert executor.pending == [again]
        await executor.finish()
        assert await task == bench.evidence(LARGE, *PLANS[LARGE])

    _on(executor, scenario)


def test_an_engine_that_cannot_make_batches_fails_its_jobs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = bench.executor(ROWS, ahead=None)

    async def scenario(engine: Engine) -> None:
        task = asyncio.create_task(engine.run(bench.job(LARGE, *PLANS[LARGE])))
        await executor.settle()

        def fail(rows: int) -> Work:
            raise ZeroDivisionError(rows)

        monkeypatch.setattr(engine._scheduler, "next_batch", fail)
        submitted = executor.pending.pop(0)
        with pytest.raises(ZeroDivisionError) as raised:
            submitted.begin()
        submitted.future.set_exception(raised.value)
        with pytest.raises(InternalError) as failure:
            await task
        assert isinstance(failure.value.__cause__, ZeroDivisionError)
        assert not engine.alive
        await engine.ended()

    _on(executor, scenario)
