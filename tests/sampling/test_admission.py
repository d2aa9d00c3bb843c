"""What cannot be through before its deadline is refused at once; by a clock that the test controls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from certserve.errors import Infeasible, Overloaded
from certserve.sampling.engine import Engine
from certserve.sampling.scheduler import SMALL_JOB, Scheduler

if TYPE_CHECKING:
    from tests.sampling.conftest import Bench, ScriptedExecutor, Submitted

BATCH = 32
SECONDS_A_BATCH = 0.5  # so 64 draws a second


class Clock:
    """Seconds that pass only when a batch comes back."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def answer(self, batch: Submitted) -> None:
        self.now += SECONDS_A_BATCH
        batch.answer()

    def slow(self, batch: Submitted) -> None:
        self.now += 3 * SECONDS_A_BATCH
        batch.answer()


def _on(
    bench: Bench,
    scenario: Callable[[Engine, ScriptedExecutor, Clock], Awaitable[None]],
    parallel: int = 1,
    ahead: int | None = 1,
) -> None:
    async def main() -> None:
        executor, clock = bench.executor(BATCH, parallel, ahead=ahead), Clock()
        engine = Engine(executor, clock=clock)
        try:
            await asyncio.wait_for(scenario(engine, executor, clock), 60.0)
        finally:
            await engine.close()

    asyncio.run(main())


async def _known_pace(engine: Engine, bench: Bench, executor: ScriptedExecutor, clock: Clock) -> None:
    """Run ten full batches at 64 draws a second."""
    task = asyncio.create_task(engine.run(bench.job(1, 0, (10 * BATCH,))))
    await executor.finish(clock.answer)
    await task


def test_before_anything_has_run_nothing_is_refused(bench: Bench) -> None:
    async def scenario(engine: Engine, executor: ScriptedExecutor, clock: Clock) -> None:
        engine.check_admission(1_000_000, seconds=0.001)

    _on(bench, scenario)


def test_the_pace_is_that_of_the_batches_that_run_at_once(bench: Bench) -> None:
    """And known while they run; measured from the latest that began it would not be."""

    async def scenario(engine: Engine, executor: ScriptedExecutor, clock: Clock) -> None:
        task = asyncio.create_task(engine.run(bench.job(1, 0, (10 * BATCH,))))
        await executor.settle()
        for _ in range(4):
            clock.answer(executor.pending.pop(0))
        with pytest.raises(Infeasible):
            engine.check_admission(601, 40, seconds=10.0)
        await executor.finish(clock.answer)
        await task
        engine.check_admission(600, 40, seconds=10.0)

    _on(bench, scenario, parallel=2)


def test_the_pace_counts_the_wait_for_a_device_that_others_use_too(bench: Bench) -> None:
    """A batch that begins half a second after it was asked for is one of a slower device."""

    async def scenario(engine: Engine, executor: ScriptedExecutor, clock: Clock) -> None:
        task = asyncio.create_task(engine.run(bench.job(1, 0, (10 * BATCH,))))
        await executor.settle()
        while executor.pending:
            clock.now += SECONDS_A_BATCH
            executor.pending[0].begin()
            clock.answer(executor.pending.pop(0))
        await task
        engine.check_admission(300, 20, seconds=10.0)
        with pytest.raises(Infeasible):
            engine.check_admission(301, 20, seconds=10.0)

    _on(bench, scenario, ahead=None)


def test_what_does_not_fit_even_alone_is_infeasible_and_the_largest_that_fits_is_named(bench: Bench) -> None:
    async def scenario(engine: Engine, executor: ScriptedExecutor, clock: Clock) -> None:
        await _known_pace(engine, bench, executor, clock)
        engine.check_admission(600, 40, seconds=10.0)
        with pytest.raises(Infeasible, match=r"601 estimation draws do not fit into the 10 s .* about 472 do:"):
            engine.check_admission(601, 40, seconds=10.0)
        engine.check_admission(601, 40)

    _on(bench, scenario)


def test_what_waits_too_long_behind_others_is_overload_with_a_hint(bench: Bench) -> None:
    async def scenario(engine: Engine, executor: ScriptedExecutor, clock: Clock) -> None:
        await _known_pace(engine, bench, executor, clock)
        task = asyncio.create_task(engine.run(bench.job(2, 0, (320 + 2 * BATCH,))))
        await executor.settle()  # two batches are with the executor, 320 draws wait
        engine.check_admission(160, seconds=5.1)  # 160 of the other's draws run meanwhile
        with pytest.raises(Overloaded, match=r"about 5\.0 s, and the deadline leaves 4\.5 s") as refusal:
            engine.check_admission(160, seconds=4.5)
        assert refusal.value.retry_after == pytest.approx(0.5, rel=1e-6)
        await executor.finish(clock.answer)
        await task

    _on(bench, scenario)


def test_an_idle_engine_refuses_nothing_for_its_load_and_forgets_a_slow_spell(bench: Bench) -> None:
    """What was slow once is asked again: refused requests measure nothing, so they could never be let in."""

    async def scenario(engine: Engine, executor: ScriptedExecutor, clock: Clock) -> None:
        await _known_pace(engine, bench, executor, clock)
        clock.answer = clock.slow  # type: ignore[method-assign]
        await _known_pace(engine, bench, executor, clock)
        assert engine.waiting == 0
        engine.check_admission(600, seconds=9.5)  # by the average it would take 15 s, but nothing is ahead
        with pytest.raises(Infeasible):
            engine.check_admission(6_000, seconds=9.5)
        clock.now += 11.0
        engine.check_admission(6_000, seconds=9.5)

    _on(bench, scenario)


def test_small_batches_do_not_count_as_the_pace(bench: Bench) -> None:
    """Three draws that take half a second say nothing of a full batch."""

    async def scenario(engine: Engine, executor: ScriptedExecutor, clock: Clock) -> None:
        await _known_pace(engine, bench, executor, clock)
        for seed in range(3, 9):
            task = asyncio.create_task(engine.run(bench.job(seed, 0, (3,))))
            await executor.finish(clock.answer)
            await task
        engine.check_admission(600, 40, seconds=10.0)

    _on(bench, scenario)


@pytest.mark.parametrize(
    ("waiting", "draws", "expected"),
    [
        ([], 100, 0),
        ([100, 200], 50, 100),  # both are small: 50 of each
        ([100, 200], 150, 250),
        ([10_000], 100, 100),  # a large one gets every second row
        ([100, 10_000], 100, 300),
        ([100, 10_000], 5_000, 5_100),  # all of the small one, half of the large one
        ([10_000, 20_000], 15_000, 25_000),
    ],
)
def test_how_much_runs_before_a_new_job_is_through(waiting: list[int], draws: int, expected: int) -> None:
    assert SMALL_JOB == 2_000
    scheduler = Scheduler(2)
    for number, count in enumerate(waiting):
        scheduler.add(number, n0=0, looks=(count,))
    assert scheduler.ahead_of(draws) == expected
