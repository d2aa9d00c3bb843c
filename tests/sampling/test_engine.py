"""The engine on an executor that the test controls: what shares a batch, and what cancelling leaves untouched."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from certserve.errors import Infeasible, InternalError, Overloaded, Unavailable
from certserve.sampling.engine import Engine, Job
from certserve.sampling.scheduler import SMALL_JOB

if TYPE_CHECKING:
    from certserve.smoothing.outcomes import Votes
    from tests.sampling.conftest import Bench, Evidence, ScriptedExecutor

PLANS: dict[int, tuple[int, tuple[int, ...]]] = {
    1: (10, (50, 120)),
    2: (0, (90,)),
    3: (33, (1, 40, 41, 77)),
    4: (5, (3, SMALL_JOB)),
}
"""Jobs by seed: selection draws and looks; the last is large."""


TIMEOUT = 60.0
"""Seconds after which a test gives up; nothing is measured by it."""


async def _jobs(engine: Engine, bench: Bench, seeds: Iterable[int]) -> dict[int, asyncio.Task[Evidence]]:
    tasks = {seed: asyncio.create_task(engine.run(bench.job(seed, *PLANS[seed]))) for seed in seeds}
    await asyncio.sleep(0)
    return tasks


def _on(executor: ScriptedExecutor, scenario: Callable[[Engine], Awaitable[None]], **options: Any) -> None:
    """Run a scenario with an engine on `executor`, and close it."""

    async def main() -> None:
        engine = Engine(executor, **options)
        try:
            await asyncio.wait_for(scenario(engine), TIMEOUT)
        finally:
            await engine.close()

    asyncio.run(main())


def test_every_job_ends_with_the_votes_of_exactly_its_draws(bench: Bench) -> None:
    executor = bench.executor()

    async def scenario(engine: Engine) -> None:
        tasks = await _jobs(engine, bench, PLANS)
        await executor.finish()
        for seed, task in tasks.items():
            assert await task == bench.evidence(seed, *PLANS[seed])

    _on(executor, scenario)


def test_concurrent_jobs_share_batches(bench: Bench) -> None:
    executor = bench.executor(largest_batch=128, ahead=None)

    async def scenario(engine: Engine) -> None:
        await _jobs(engine, bench, PLANS)
        executor.history[0].begin()
        assert executor.history[0].seeds == set(PLANS)
        assert sum(piece.count for _, piece in executor.history[0].work) == 128

    _on(executor, scenario)


def test_at_most_two_batches_are_with_the_executor(bench: Bench) -> None:
    executor = bench.executor(largest_batch=8)

    async def scenario(engine: Engine) -> None:
        tasks = await _jobs(engine, bench, PLANS)
        await executor.settle()
        while executor.pending:
            assert len(executor.pending) <= 2
            executor.pending.pop(0).answer()
            await executor.settle()
        assert all(task.done() for task in tasks.values())

    _on(executor, scenario)


def test_a_job_that_comes_while_there_is_room_starts_at_once(bench: Bench) -> None:
    executor = bench.executor(largest_batch=128)

    async def scenario(engine: Engine) -> None:
        await _jobs(engine, bench, [2])
        await executor.settle()
        assert len(executor.pending) == 1
        await _jobs(engine, bench, [3])
        await executor.settle()
        assert [submitted.seeds for submitted in executor.pending] == [{2}, {3}]

    _on(executor, scenario)


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_lone_job_that_may_end_soon_gets_half_batches_and_none_prepared(bench: Bench, parallel: int) -> None:
    """A whole batch, or more than run at once, before 512 draws are counted, or not so after that, fails."""
    executor = bench.executor(largest_batch=64, parallel=parallel)

    async def scenario(engine: Engine) -> None:
        job = bench.job(1, 64, tuple(range(64, 1_025, 64)))
        task = asyncio.create_task(engine.run(job))
        await executor.settle()
        counted = 0
        while counted < 512:
            assert len(executor.pending) == parallel
            assert {sum(piece.count for _, piece in batch.work) for batch in executor.pending} == {32}
            counted += 32
            executor.pending.pop(0).answer()
            await executor.settle()
        assert len(executor.pending) == parallel + 1
        assert sum(piece.count for _, piece in executor.pending[-1].work) == 64
        await executor.finish()
        assert (await task).looks

    _on(executor, scenario)


def test_one_is_prepared_where_it_will_not_be_in_vain(bench: Bench) -> None:
    """None for a job with one look, or where two jobs run, fails."""
    for plans in ([(0, (400,))], [(0, (10, 400)), (0, (10, 400))]):
        executor = bench.executor(largest_batch=64, parallel=2)

        async def scenario(engine: Engine, plans: Any = plans, executor: ScriptedExecutor = executor) -> None:
            tasks = [asyncio.create_task(engine.run(bench.job(i, *plan))) for i, plan in enumerate(plans)]
            await executor.settle()
            assert len(executor.pending) == 3
            await executor.finish()
            await asyncio.gather(*tasks)

        _on(executor, scenario)


def test_a_newcomer_beside_a_lone_job_starts_at_once(bench: Bench) -> None:
    """A second job that waits until the half batches of the first are back fails; so does another answer of either."""
    executor = bench.executor(largest_batch=64)
    looks = tuple(range(64, 513, 64))

    async def scenario(engine: Engine) -> None:
        first = asyncio.create_task(engine.run(bench.job(1, 0, looks)))
        await executor.settle()
        assert [submitted.seeds for submitted in executor.pending] == [{1}]
        second = asyncio.create_task(engine.run(bench.job(2, 0, looks)))
        await executor.settle()
        assert [submitted.seeds for submitted in executor.pending] == [{1}, {1, 2}]
        await executor.finish()
        assert await first == bench.evidence(1, 0, looks)
        assert await second == bench.evidence(2, 0, looks)

    _on(executor, scenario)


def test_a_half_batch_that_fails_runs_again(bench: Bench) -> None:
    executor = bench.executor(largest_batch=64)
    looks = tuple(range(64, 257, 64))

    async def scenario(engine: Engine) -> None:
        task = asyncio.create_task(engine.run(bench.job(1, 0, looks)))
        await executor.settle()
        executor.pending.pop(0).fail(RuntimeError("for once"))
        await executor.finish()
        assert await task == bench.evidence(1, 0, looks)

    _on(executor, scenario)


def test_batches_may_come_back_out_of_order(bench: Bench) -> None:
    executor = bench.executor()

    async def scenario(engine: Engine) -> None:
        tasks = await _jobs(engine, bench, PLANS)
        await executor.settle()
        while executor.pending:
            executor.pending.pop().answer()
            await executor.settle()
        for seed, task in tasks.items():
            assert await task == bench.evidence(seed, *PLANS[seed])

    _on(executor, scenario)


def test_a_decision_at_an_early_look_drops_the_rest(bench: Bench) -> None:
    executor = bench.executor(parallel=2)

    async def scenario(engine: Engine) -> None:
        early: Job[Evidence] = replace(bench.job(4, 0, (15, SMALL_JOB)), decider=bench.collector(1))
        task = asyncio.create_task(engine.run(early))
        await executor.settle()
        executor.pending.pop(0).answer()
        assert await task == bench.evidence(4, 0, (15,))
        assert engine.waiting == 0
        await executor.finish()
        assert len(executor.history) == 2

    _on(executor, scenario)


def test_looks_are_decided_in_order_and_none_after_the_outcome(bench: Bench) -> None:
    executor = bench.executor(largest_batch=128)
    seen: list[int] = []

    class Decider:
        def look(self, selection: Votes, votes: Votes) -> str | None:
            seen.append(votes.total)
            return "enough" if len(seen) == 3 else None

        def end(self, reason: str) -> str:
            return reason

    async def scenario(engine: Engine) -> None:
        task = asyncio.create_task(engine.run(Job(bench.source(1), 5, (1, 10, 20, 30), Decider())))
        await executor.finish()
        assert await task == "enough"
        assert seen == [1, 10, 20]

    _on(executor, scenario)


def test_progress_tells_how_many_draws_have_been_counted(bench: Bench) -> None:
    executor = bench.executor()
    told: list[int] = []

    async def scenario(engine: Engine) -> None:
        task = asyncio.create_task(engine.run(replace(bench.job(1, 10, (90,)), on_progress=told.append)))
        await executor.finish()
        await task
        assert told == [32, 64, 96]

    _on(executor, scenario)


@pytest.mark.parametrize("order", [0, -1], ids=["in order", "out of order"])
@pytest.mark.parametrize("victim", PLANS)
def test_cancelling_a_job_at_any_point_changes_nothing_for_the_others(bench: Bench, victim: int, order: int) -> None:
    for step in range(14):
        executor = bench.executor()

        async def scenario(engine: Engine, executor: ScriptedExecutor = executor, step: int = step) -> None:
            tasks = await _jobs(engine, bench, PLANS)
            await executor.settle()
            for _ in range(step):
                executor.pending.pop(order).answer()
                await executor.settle()
            tasks.pop(victim).cancel()
            await executor.finish()
            for seed, task in tasks.items():
                assert await task == bench.evidence(seed, *PLANS[seed])

        _on(executor, scenario)


def test_a_job_cancelled_in_the_queue_never_runs(bench: Bench) -> None:
    executor = bench.executor()

    async def scenario(engine: Engine) -> None:
        await _jobs(engine, bench, [1])
        await executor.settle()
        waiting = await _jobs(engine, bench, [2])
        await executor.settle()
        waiting[2].cancel()
        await executor.finish()
        assert waiting[2].cancelled()
        assert all(submitted.seeds == {1} for submitted in executor.history)

    _on(executor, scenario)


def test_a_job_cancelled_in_flight_submits_no_more(bench: Bench) -> None:
    executor = bench.executor(parallel=2)

    async def scenario(engine: Engine) -> None:
        tasks = await _jobs(engine, bench, [4])
        await executor.settle()
        tasks[4].cancel()
        await executor.finish()
        assert tasks[4].cancelled()
        assert len(executor.history) == 2
        assert engine.waiting == 0

    _on(executor, scenario)


def test_too_much_work_is_refused_with_a_hint(bench: Bench) -> None:
    executor = bench.executor()

    async def scenario(engine: Engine) -> None:
        tasks = await _jobs(engine, bench, [1])  # 130 draws, 16 of them submitted
        await executor.settle()
        engine.check_admission(16)
        with pytest.raises(Overloaded, match="114 draws are waiting") as refusal:
            engine.check_admission(17)
        assert refusal.value.retry_after > 0.0
        with pytest.raises(Overloaded):
            await engine.run(bench.job(2, *PLANS[2]))
        await executor.finish()
        assert await tasks[1] == bench.evidence(1, *PLANS[1])
        assert len(executor.forgotten) == 1
        engine.check_admission(130)
        with pytest.raises(Infeasible, match="at most 130"):
            engine.check_admission(131)

    _on(executor, scenario, largest_queue=130)


def test_closing_fails_what_still_runs(bench: Bench) -> None:
    executor = bench.executor()

    async def scenario(engine: Engine) -> None:
        tasks = await _jobs(engine, bench, PLANS)
        await executor.settle()
        assert engine.alive
        await engine.close()
        for task in tasks.values():
            with pytest.raises(Unavailable):
                await task
        assert not engine.alive
        with pytest.raises(Unavailable):
            await engine.run(bench.job(1, *PLANS[1]))
        await engine.close()

    _on(executor, scenario)


def test_a_job_that_comes_with_the_closing_fails_too(bench: Bench) -> None:
    executor = bench.executor()

    async def scenario(engine: Engine) -> None:
        outcomes = await asyncio.gather(engine.run(bench.job(1, 0, (9,))), engine.close(), return_exceptions=True)
        assert isinstance(outcomes[0], Unavailable)

    _on(executor, scenario)


def test_a_batch_that_comes_back_after_the_event_loop_is_not_missed(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A device cannot be interrupted: its last batch may end when nobody is there any more."""
    executor = bench.executor()

    async def scenario(engine: Engine) -> None:
        tasks = await _jobs(engine, bench, [1])
        await executor.settle()
        tasks[1].cancel()

    _on(executor, scenario)
    executor.pending.pop().answer()
    assert not caplog.records


def test_an_executor_that_cannot_take_work_fails_every_job(bench: Bench) -> None:
    """Those that run, and those that come after."""
    executor = bench.executor()

    def refuse(take: object) -> None:
        raise RuntimeError("the device is gone")

    async def scenario(engine: Engine) -> None:
        tasks = await _jobs(engine, bench, PLANS)
        executor.submit = refuse  # type: ignore[assignment, method-assign]
        executor.pending.pop(0).answer()
        for task in tasks.values():
            with pytest.raises(InternalError):
                await task
        assert not engine.alive
        with pytest.raises(Unavailable):
            await engine.run(bench.job(2, *PLANS[2]))

    _on(executor, scenario)


def test_nothing_is_kept_of_jobs_that_are_over(bench: Bench) -> None:
    """Ended, cancelled in the queue, cancelled in flight: afterwards the engine is as it began."""
    executor = bench.executor()

    async def scenario(engine: Engine) -> None:
        tasks = await _jobs(engine, bench, PLANS)
        await executor.settle()
        tasks[4].cancel()
        queued = await _jobs(engine, bench, [1])
        queued[1].cancel()
        await executor.finish()
        assert tasks[1].done()
        scheduler = engine._scheduler
        assert not any((engine._running, engine._asked, engine._begun))
        assert sorted(executor.forgotten) == list(range(5))
        assert not any((scheduler._jobs, scheduler._small, scheduler._large, scheduler._returned))

    _on(executor, scenario)


def test_jobs_are_limited_whatever_their_size(bench: Bench) -> None:
    """Each holds its input: fails if millions of small ones may wait."""
    executor = bench.executor()

    async def scenario(engine: Engine) -> None:
        tasks = await _jobs(engine, bench, [1, 2])
        with pytest.raises(Overloaded):
            engine.check_admission(1)
        await executor.finish()
        assert await tasks[1] == bench.evidence(1, *PLANS[1])
        assert await tasks[2] == bench.evidence(2, *PLANS[2])
        engine.check_admission(1)

    _on(executor, scenario, largest_jobs=2)
