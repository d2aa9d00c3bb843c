"""Several batches at once: none too few, and none that fails takes an innocent one with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from certserve.errors import BackendFailed
from certserve.sampling.engine import Engine

if TYPE_CHECKING:
    from tests.sampling.conftest import Bench, Evidence, ScriptedExecutor

PLANS: dict[int, tuple[int, tuple[int, ...]]] = {1: (10, (50, 120)), 2: (0, (90,)), 3: (33, (1, 77)), 4: (5, (2_400,))}
POISON = 2
TIMEOUT = 60.0


def _on(executor: ScriptedExecutor, scenario: Callable[[Engine], Awaitable[None]]) -> None:
    async def main() -> None:
        engine = Engine(executor)
        try:
            await asyncio.wait_for(scenario(engine), TIMEOUT)
        finally:
            await engine.close()

    asyncio.run(main())


async def _jobs(engine: Engine, bench: Bench) -> dict[int, asyncio.Task[Evidence]]:
    tasks = {seed: asyncio.create_task(engine.run(bench.job(seed, *plan))) for seed, plan in PLANS.items()}
    await asyncio.sleep(0)
    return tasks


@pytest.mark.parametrize("parallel", [1, 2, 4])
@pytest.mark.parametrize("order", [0, -1], ids=["in order", "out of order"])
def test_one_batch_more_than_run_at_once_is_with_the_executor(bench: Bench, parallel: int, order: int) -> None:
    """Never more, and never fewer while draws wait; whichever comes back first."""
    executor = bench.executor(16, parallel)

    async def scenario(engine: Engine) -> None:
        tasks = await _jobs(engine, bench)
        await executor.settle()
        while executor.pending:
            assert len(executor.pending) == parallel + 1 or not engine.waiting
            assert len(executor.pending) <= parallel + 1
            executor.pending.pop(order).answer()
            await executor.settle()
        for seed, task in tasks.items():
            assert await task == bench.evidence(seed, *PLANS[seed])

    _on(executor, scenario)


class Device:
    """Runs the first `parallel` batches at once; one with a poisonous draw fails all that run beside it."""

    def __init__(self, executor: ScriptedExecutor) -> None:
        self._executor = executor
        self.failed: set[object] = set()

    async def run(self, latest_first: bool) -> None:
        """Until nothing is submitted any more."""
        executor = self._executor
        await executor.settle()
        while running := executor.pending[: executor.parallel]:
            assert len(executor.history) < 2_000, "the engine submits without end"
            self._check_quarantine()
            if any(POISON in submitted.seeds for submitted in running):
                del executor.pending[: executor.parallel]
                for submitted in running:
                    self.failed |= {piece for _, piece in submitted.work}
                    submitted.fail(BackendFailed("the process died"))
            else:
                done = running[-1 if latest_first else 0]
                executor.pending.remove(done)
                done.answer()
            await executor.settle()

    def _check_quarantine(self) -> None:
        """What failed before runs with nothing beside it."""
        pieces = [piece for submitted in self._executor.pending for _, piece in submitted.work]
        assert not self.failed & set(pieces) or len(pieces) == 1


@pytest.mark.parametrize("latest_first", [False, True])
@pytest.mark.parametrize("rows", [8, 32, 128])
@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_what_kills_the_batches_beside_it_fails_alone(
    bench: Bench, parallel: int, rows: int, latest_first: bool
) -> None:
    """An innocent slice is hit once by its poisonous neighbours, and then has the device to itself."""
    executor = bench.executor(rows, parallel)

    async def scenario(engine: Engine) -> None:
        tasks = await _jobs(engine, bench)
        await Device(executor).run(latest_first)
        with pytest.raises(BackendFailed, match="twice"):
            await tasks.pop(POISON)
        for seed, task in tasks.items():
            assert await task == bench.evidence(seed, *PLANS[seed])
        assert engine.alive
        assert not engine._running

    _on(executor, scenario)


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_after_the_quarantine_batches_run_side_by_side_again(bench: Bench, parallel: int) -> None:
    executor = bench.executor(16, parallel)

    async def scenario(engine: Engine) -> None:
        tasks = await _jobs(engine, bench)
        await executor.settle()
        executor.pending.pop(0).fail(BackendFailed("a passing failure"))
        await executor.settle()
        while len(executor.pending) <= parallel:
            executor.pending.pop(0).answer()
            await executor.settle()
        await executor.finish()
        for seed, task in tasks.items():
            assert await task == bench.evidence(seed, *PLANS[seed])

    _on(executor, scenario)


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_cancelling_the_job_in_quarantine_holds_nobody_up(bench: Bench, parallel: int) -> None:
    executor = bench.executor(128, parallel)

    async def scenario(engine: Engine) -> None:
        tasks = await _jobs(engine, bench)
        await executor.settle()
        executor.pending.pop(0).fail(BackendFailed("a passing failure"))
        await executor.settle()
        tasks.pop(1).cancel()
        tasks.pop(3).cancel()
        await executor.finish()
        for seed, task in tasks.items():
            assert await task == bench.evidence(seed, *PLANS[seed])

    _on(executor, scenario)
