"""A batch that has not begun makes way for a small job, and nobody loses or gains a draw by it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from certserve.sampling.engine import Engine

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
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("newcomer", [SMALL, OTHER])
def test_the_prepared_batch(bench: Bench, parallel: int, begun: bool, newcomer: int) -> None:
    """Taken back for a small job alone, and only before it has begun; the job is in the batch that replaces it."""
    executor = bench.executor(ROWS, parallel, begins=False)

    async def scenario(engine: Engine) -> None:
        tasks = {LARGE: asyncio.create_task(engine.run(bench.job(LARGE, *PLANS[LARGE])))}
        await executor.settle()
        for submitted in executor.pending[: parallel + begun]:
            submitted.future.set_running_or_notify_cancel()
        waiting = engine.waiting
        tasks[newcomer] = asyncio.create_task(engine.run(bench.job(newcomer, *PLANS[newcomer])))
        await executor.settle()
        taken_back = [submitted for submitted in executor.history if submitted.taken_back]
        if newcomer == SMALL and not begun:
            assert taken_back == [executor.history[parallel]]
            assert SMALL in executor.history[-1].seeds
        else:
            assert taken_back == []
            assert executor.history[-1].seeds == {LARGE}
        assert engine.waiting == waiting + PLANS[newcomer][1][-1]
        await executor.finish()
        for seed, task in tasks.items():
            assert await task == bench.evidence(seed, *PLANS[seed])

    _on(executor, scenario)


def test_many_small_jobs_one_after_the_other(bench: Bench) -> None:
    """The large one goes on between them, and all of them end with exactly their draws."""
    executor = bench.executor(ROWS, begins=False)

    async def scenario(engine: Engine) -> None:
        tasks = [(LARGE, asyncio.create_task(engine.run(bench.job(LARGE, *PLANS[LARGE]))))]
        for _ in range(200):
            tasks.append((SMALL, asyncio.create_task(engine.run(bench.job(SMALL, *PLANS[SMALL])))))
            await executor.settle()
            executor.pending.pop(0).answer()
            await executor.settle()
            executor.pending = [submitted for submitted in executor.pending if not submitted.taken_back]
        large = sum(piece.count for each in executor.history for seed, piece in each.work if seed == LARGE)
        assert large > 200 * ROWS // 4
        await executor.finish()
        for seed, task in tasks:
            assert await task == bench.evidence(seed, *PLANS[seed])

    _on(executor, scenario)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("beside", [False, True])
def test_a_job_that_ends_leaves_no_batch_behind(bench: Bench, begun: bool, beside: bool) -> None:
    """A batch of its draws that has not begun never runs; the others' draws take its place."""
    executor = bench.executor(ROWS, begins=False)

    async def scenario(engine: Engine) -> None:
        seeds = (LARGE, OTHER) if beside else (LARGE,)
        tasks = [asyncio.create_task(engine.run(bench.job(seed, *PLANS[seed]))) for seed in seeds]
        await executor.settle()
        for submitted in executor.history[: 1 + begun]:
            submitted.future.set_running_or_notify_cancel()
        tasks[0].cancel()
        await executor.settle()
        assert [submitted.taken_back for submitted in executor.history[:2]] == [False, not begun]
        await executor.finish()
        assert all(submitted.seeds == {OTHER} for submitted in executor.history[2:])
        assert len(executor.history) == 2 or beside
        if beside:
            assert await tasks[1] == bench.evidence(OTHER, *PLANS[OTHER])

    _on(executor, scenario)


def test_a_job_forgotten_before_its_batch_is_taken_back(bench: Bench) -> None:
    """Its draws are dropped; those of its batch-mates are not."""
    executor = bench.executor(ROWS, begins=False)

    async def scenario(engine: Engine) -> None:
        tasks = [asyncio.create_task(engine.run(bench.job(seed, *PLANS[seed]))) for seed in (LARGE, OTHER)]
        await executor.settle()
        executor.pending[0].future.set_running_or_notify_cancel()
        tasks[0].cancel()
        await executor.settle()
        small = asyncio.create_task(engine.run(bench.job(SMALL, *PLANS[SMALL])))
        await executor.finish()
        assert executor.history[1].taken_back
        assert await tasks[1] == bench.evidence(OTHER, *PLANS[OTHER])
        assert await small == bench.evidence(SMALL, *PLANS[SMALL])

    _on(executor, scenario)
