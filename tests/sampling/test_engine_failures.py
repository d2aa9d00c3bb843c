"""Failures: only the job that cannot be run is told of one; the others get the answer they would have had."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from certserve.errors import BackendFailed
from certserve.sampling.engine import Engine

if TYPE_CHECKING:
    from tests.sampling.conftest import Bench, Evidence, Respond, ScriptedExecutor, Submitted

PLANS: dict[int, tuple[int, tuple[int, ...]]] = {1: (10, (50, 120)), 2: (0, (90,)), 3: (33, (1, 77)), 4: (5, (400,))}
POISON = 2


class Poisoned:
    """Fails every batch that holds a draw of the poisonous job, and answers the others."""

    def __call__(self, submitted: Submitted) -> None:
        if POISON in submitted.seeds:
            submitted.fail(MemoryError("one of these draws is poison"))
        else:
            submitted.answer()


class FailingOnce:
    """Fails the batches with the given numbers, in order of submission, and answers the others."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = set(numbers)
        self.seen = 0

    def __call__(self, submitted: Submitted) -> None:
        if self.seen in self.numbers:
            submitted.fail(BackendFailed("a passing failure"))
        else:
            submitted.answer()
        self.seen += 1


async def _outcomes(engine: Engine, bench: Bench, executor: ScriptedExecutor, respond: Respond) -> dict[int, object]:
    """What becomes of the jobs of PLANS, submitted together."""
    tasks = {seed: asyncio.create_task(engine.run(bench.job(seed, *plan))) for seed, plan in PLANS.items()}
    await executor.finish(respond)
    found = await asyncio.wait_for(asyncio.gather(*tasks.values(), return_exceptions=True), 30)
    return dict(zip(tasks, found, strict=True))


def _run(bench: Bench, executor: ScriptedExecutor, respond: Respond) -> dict[int, object]:
    async def main() -> dict[int, object]:
        engine = Engine(executor)
        try:
            found = await _outcomes(engine, bench, executor, respond)
            assert engine.alive
            assert not engine._running
            assert (engine._asked, engine._begun) == (0, 0)
            return found
        finally:
            await engine.close()

    return asyncio.run(main())


def _expected(bench: Bench, *seeds: int) -> dict[int, Evidence]:
    return {seed: bench.evidence(seed, *PLANS[seed]) for seed in seeds}


@pytest.mark.parametrize("rows", [8, 32, 128])
def test_a_poisonous_input_fails_alone(bench: Bench, rows: int) -> None:
    found = _run(bench, bench.executor(rows), Poisoned())
    failure = found.pop(POISON)
    assert isinstance(failure, BackendFailed)
    assert isinstance(failure.__cause__, MemoryError)
    assert found == _expected(bench, 1, 3, 4)


def test_it_is_run_again_alone_before_it_fails(bench: Bench) -> None:
    executor = bench.executor(128, ahead=None)
    _run(bench, executor, Poisoned())
    shared, *later = [submitted for submitted in executor.history if POISON in submitted.seeds]
    assert len(shared.work) > 1
    assert later
    assert all(len(submitted.work) == 1 for submitted in later if submitted.work[0] in shared.work)


def test_its_mates_are_run_again_each_alone(bench: Bench) -> None:
    executor = bench.executor(128, ahead=None)
    _run(bench, executor, Poisoned())
    shared = executor.history[0]
    again = [submitted.work[0] for submitted in executor.history[1:] if len(submitted.work) == 1]
    assert len({seed for seed, _ in shared.work}) == 4
    for mate in shared.work:
        assert mate in again


@pytest.mark.parametrize("rows", [8, 32, 128])
def test_a_failure_that_passes_changes_no_answer(bench: Bench, rows: int) -> None:
    for number in range(6):
        assert _run(bench, bench.executor(rows), FailingOnce(number)) == _expected(bench, *PLANS)


def test_two_failures_that_pass_change_no_answer(bench: Bench) -> None:
    assert _run(bench, bench.executor(8), FailingOnce(0, 1)) == _expected(bench, *PLANS)


def test_whatever_a_runtime_raises_is_a_failure_of_its_batch(bench: Bench) -> None:
    """Fails if an exception that is no Exception ends the device's thread, with the job waiting for ever."""
    executor = bench.executor(128)

    def respond(submitted: Submitted) -> None:
        if POISON in submitted.seeds:
            submitted.fail(SystemExit("of a runtime"))
        else:
            submitted.answer()

    found = _run(bench, executor, respond)
    failure = found.pop(POISON)
    assert isinstance(failure, BackendFailed)
    assert isinstance(failure.__cause__, SystemExit)
    assert found == _expected(bench, 1, 3, 4)


def test_what_was_held_up_by_a_job_that_leaves_goes_on_at_once(bench: Bench) -> None:
    """Fails if the next batch waits until the one beside it is back."""
    executor = bench.executor(16, 2, ahead=None)

    async def main() -> None:
        engine = Engine(executor)
        leaving = asyncio.create_task(engine.run(bench.job(4, 0, (400,))))
        await executor.settle()
        executor.pending[0].begin()
        staying = asyncio.create_task(engine.run(bench.job(1, 0, (400,))))
        await executor.settle()
        executor.pending[1].begin()
        executor.pending.pop(0).fail(BackendFailed("a passing failure"))
        await executor.settle()
        assert len(executor.pending) == 1
        leaving.cancel()
        await executor.settle()
        assert len(executor.pending) == 2
        await executor.finish()
        assert await staying == bench.evidence(1, 0, (400,))
        await engine.close()

    asyncio.run(main())


def test_cancelling_a_job_whose_slice_waits_to_run_again(bench: Bench) -> None:
    executor = bench.executor(128)

    async def main() -> None:
        engine = Engine(executor)
        tasks = {seed: asyncio.create_task(engine.run(bench.job(seed, *plan))) for seed, plan in PLANS.items()}
        await executor.settle()
        executor.pending.pop(0).fail(BackendFailed("a passing failure"))
        tasks[3].cancel()
        await executor.finish()
        for seed in (1, 2, 4):
            assert await tasks[seed] == bench.evidence(seed, *PLANS[seed])
        await engine.close()

    asyncio.run(main())
    assert all(3 not in submitted.seeds for submitted in executor.history[2:])


@pytest.mark.parametrize("part", ["decider", "on_progress"])
def test_a_job_whose_own_function_raises_fails_alone(bench: Bench, part: str) -> None:
    executor = bench.executor(32)

    def raises(*_: object) -> None:
        raise ZeroDivisionError("in the job's own function")

    usual = bench.job(2, *PLANS[2])
    decider: Any = SimpleNamespace(look=raises)
    spoilt = replace(usual, decider=decider) if part == "decider" else replace(usual, on_progress=raises)

    async def main() -> None:
        engine = Engine(executor)
        good = asyncio.create_task(engine.run(bench.job(1, *PLANS[1])))
        bad = asyncio.create_task(engine.run(spoilt))
        await executor.finish()
        with pytest.raises(ZeroDivisionError):
            await bad
        assert await good == bench.evidence(1, *PLANS[1])
        assert engine.alive
        assert engine.waiting == 0
        await engine.close()

    asyncio.run(main())
