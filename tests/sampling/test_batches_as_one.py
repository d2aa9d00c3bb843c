"""Where batches are fast, several are submitted as one; by a clock that the test controls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from certserve.sampling.engine import Engine

if TYPE_CHECKING:
    from tests.sampling.conftest import Bench, ScriptedExecutor, Submitted

BATCH = 32


class Device:
    """Runs `parallel` batches of 32 rows at once, each in so many seconds by its clock."""

    def __init__(self, bench: Bench, parallel: int, seconds: float) -> None:
        self.executor: ScriptedExecutor = bench.executor(BATCH, parallel)
        self.seconds = seconds
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def answer(self, submitted: Submitted) -> None:
        self.now += self.seconds * self.sizes([submitted])[0] / BATCH / self.executor.parallel
        submitted.answer()

    def sizes(self, batches: list[Submitted]) -> list[int]:
        """Draws of each."""
        return [sum(piece.count for _, piece in submitted.work) for submitted in batches]


def _on(device: Device, scenario: Callable[[Engine], Awaitable[None]]) -> None:
    async def main() -> None:
        engine = Engine(device.executor, clock=device.clock)
        try:
            await asyncio.wait_for(scenario(engine), 60.0)
        finally:
            await engine.close()

    asyncio.run(main())


async def _run(engine: Engine, bench: Bench, device: Device, looks: tuple[int, ...]) -> list[int]:
    """Sizes of the batches of a lone job, which ends with its last look."""
    before = len(device.executor.history)
    task = asyncio.create_task(engine.run(bench.job(1, 0, looks)))
    await device.executor.finish(device.answer)
    assert await task == bench.evidence(1, 0, looks)
    return device.sizes(device.executor.history[before:])


@pytest.mark.parametrize("parallel", [1, 2, 4])
@pytest.mark.parametrize(
    ("seconds", "as_one"), [(0.5, 1), (0.0101, 1), (0.0051, 1), (0.0049, 2), (0.0019, 5), (0.0001, 8), (0.0, 8)]
)
def test_as_many_as_take_ten_milliseconds_and_eight_at_most(
    bench: Bench, parallel: int, seconds: float, as_one: int
) -> None:
    device = Device(bench, parallel, seconds)

    async def scenario(engine: Engine) -> None:
        sizes = await _run(engine, bench, device, (10_000,))
        assert max(sizes) == as_one * BATCH
        assert sizes[: parallel + 1] == [BATCH] * (parallel + 1), "nothing is known of the pace yet"
        assert sizes.count(as_one * BATCH) > len(sizes) / 2

    _on(device, scenario)


@pytest.mark.parametrize("parallel", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 31, 32, 33, 100, 128, 129, 200, 256])
def test_a_small_job_leaves_no_thread_idle(bench: Bench, parallel: int, n: int) -> None:
    """However fast they are, more batches on one thread than its share fail."""
    device = Device(bench, parallel, 0.0001)

    async def scenario(engine: Engine) -> None:
        await _run(engine, bench, device, (10_000,))
        before = len(device.executor.history)
        task = asyncio.create_task(engine.run(bench.job(2, 0, (n,))))
        await device.executor.settle()
        sizes = device.sizes(device.executor.history[before:])
        assert len(sizes[:parallel]) == min(parallel, -(-n // BATCH))
        assert max(sizes[:parallel]) <= -(-n // (parallel * BATCH)) * BATCH
        await device.executor.finish(device.answer)
        assert await task == bench.evidence(2, 0, (n,))

    _on(device, scenario)


def test_a_lone_job_that_may_end_gets_them_one_by_one(bench: Bench) -> None:
    """What it draws in vain at its end is more than it must be where batches are submitted as one."""
    device = Device(bench, 2, 0.0001)

    async def scenario(engine: Engine) -> None:
        assert max(await _run(engine, bench, device, (10_000,))) > BATCH
        assert max(await _run(engine, bench, device, (100, 10_000))) == BATCH

    _on(device, scenario)
