"""Clients that leave by the hundred, at every stage: nothing of theirs is left, and nobody else's answer changes."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest

from certserve.client import AsyncClient
from certserve.sampling.engine import Job
from certserve.sampling.source import DrawSource

TIMEOUT = 30.0
ROWS = 240
WAVE = 3 * ROWS
WAVES = 2
"""Of a wave, a third is cancelled in the queue, a third in a batch that waits, a third in the batch that runs."""

ANSWERING = 200
TASKS = 2
"""Of an idle server: gRPC's, the heartbeat."""

SMALL: dict[str, Any] = {"n0": 1, "n": 2, "alpha": 0.4}
COMPANION: dict[str, Any] = {"n": 40_000, "nonce": b"companion"}


class Gate:
    """A sampler that runs one batch of `ROWS` draws at a time while another is made; shut, one batch for each step."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self._change = threading.Condition()
        self._steps = 0
        self._shut = False
        self._batches: list[set[int]] = []  # whose draws are in each, the first of which runs
        self.largest_batch = self.half_batch = ROWS
        self.parallel, self.num_classes = 2, sampler.num_classes
        self.held: set[int] = set()
        self.holds = 0

    @property
    def made(self) -> set[int]:
        """Whose draws are in batches that wait."""
        return set().union(*self._batches[1:])

    def shut(self) -> None:
        """Hold up the next batch, and those after it."""
        with self._change:
            self._shut, self._steps = True, 0

    def step(self) -> None:
        """Let one go."""
        with self._change:
            self._steps += 1
            self._change.notify_all()

    def open(self) -> None:
        """Let all go."""
        with self._change:
            self._shut = False
            self._change.notify_all()

    def labels(self, work: Sequence[tuple[DrawSource, Any]]) -> Any:
        """Those of the real sampler, of one batch after the other."""
        numbers = {_number(source) for source, _ in work}
        with self._change:
            self._batches.append(numbers)
            assert self._change.wait_for(lambda: self._batches[0] is numbers, TIMEOUT)
            if self._shut:
                self.held = numbers
                self.holds += 1
                assert self._change.wait_for(lambda: not self._shut or self._steps, TIMEOUT)
                self._steps -= self._shut
                self.held = set()
        try:
            return self._sampler.labels(work)
        finally:
            with self._change:
                self._batches.pop(0)
                self._change.notify_all()


class Story:
    """Victims that come while a companion's request is in progress, and leave."""

    def __init__(self, server: Any, gate: Gate, harness: ModuleType, client: AsyncClient) -> None:
        self._server = server
        self._gate = gate
        self._harness = harness
        self._client = client

    def _arrive(self, count: int) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(self._client.certify(self._image(k), **SMALL)) for k in range(count)]

    def _image(self, number: int) -> Any:
        """An image that carries a number in pixels which do not matter."""
        pixels = self._harness.image()
        pixels[0, 0, :2] = number % 256, number // 256
        return pixels

    def jobs(self) -> int:
        """How many there are in the engine."""
        return len(self._server.engine()._running)

    async def hold(self) -> None:
        """Return when the device is held up by a batch of the companion's."""
        self._gate.shut()
        await _until(lambda: bool(self._gate.held))

    async def _step(self, batches: int) -> None:
        """Let so many batches go; return when the next one is held up."""
        for _ in range(batches):
            holds = self._gate.holds
            self._gate.step()
            await _until(lambda holds=holds: self._gate.holds > holds)  # type: ignore[misc]

    async def wave(self) -> Counter[str]:
        """One wave of clients that all leave while the device is held up; where they were."""
        await self._step(3)  # so that small jobs have their credit again
        victims = self._arrive(WAVE)
        await _until(lambda: self.jobs() == WAVE + 1)
        await self._step(2)  # those that were made before they came
        await _until(lambda: bool(self._gate.made))
        stages = await asyncio.to_thread(self._server.call, self._stages)
        for victim in victims:
            victim.cancel()
        ends = await asyncio.gather(*victims, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends)
        await _until(lambda: self.jobs() == 1)
        return Counter(stages[k] for k in range(WAVE))

    def _stages(self) -> dict[int, str]:
        """Where each request is, by number."""
        gate, found = self._gate, {}
        for running in self._server.engine()._running.values():
            number = _number(running.job.source)
            found[number] = "running" if number in gate.held else "batched" if number in gate.made else "queued"
        return found

    async def leave_when_answered(self) -> None:
        """Clients that are gone when the server has their outcome, before it has made a reply of it."""
        engine, loop = self._server.engine(), asyncio.get_running_loop()
        victims = self._arrive(ANSWERING)
        gone = [threading.Event() for _ in victims]
        for victim, event in zip(victims, gone, strict=True):
            victim.add_done_callback(lambda _, event=event: event.set())  # type: ignore[misc]
        usual, answered = engine._decide, []

        def decide(job: int, selection: Any, votes: Any) -> None:
            usual(job, selection, votes)
            number = _number(engine._running[job].job.source)
            if number < ANSWERING:
                assert engine._running[job].known
                answered.append(number)
                loop.call_soon_threadsafe(victims[number].cancel)
                assert gone[number].wait(TIMEOUT)

        engine._decide = decide
        await _until(lambda: self.jobs() == ANSWERING + 1)
        while len(answered) < ANSWERING:
            await self._step(1)
        ends = await asyncio.gather(*victims, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends)
        del engine._decide


def _number(source: DrawSource) -> int:
    return int(source.pixels[0, 0, 0]) + 256 * int(source.pixels[0, 0, 1])


async def _until(holds: Callable[[], bool]) -> None:
    end = asyncio.get_running_loop().time() + TIMEOUT
    while not holds():
        assert asyncio.get_running_loop().time() < end, "it does not become true"
        await asyncio.sleep(0.002)


def _tasks(server: Any) -> int:
    """How many tasks there are on the server's loop, beside the one that counts them."""
    return int(server.call(lambda: sum(not task.done() for task in asyncio.all_tasks()))) - 1


def _left() -> Counter[str]:
    """Requests' objects that are alive anywhere in this process."""
    gc.collect()
    return Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing) in (Job, DrawSource))


@pytest.fixture
def gated(harness: ModuleType, loaded: Any) -> Iterator[tuple[Any, Gate]]:
    """A server of the linear model, and the gate in front of it."""
    with harness.Server(loaded[:1]) as server, ThreadPoolExecutor(2) as device:
        executor = server.engine()._executor
        executor._sampler = gate = Gate(executor._sampler)
        executor._device = device
        yield server, gate
        gate.open()


def _disturb(server: Any, gate: Gate, harness: ModuleType, loop: Any, waves: int) -> tuple[Any, Counter[str]]:
    """The companion's answer while so many waves come and go, and where their clients were when they left."""

    async def story() -> tuple[Any, Counter[str]]:
        async with AsyncClient(server.target) as client, AsyncClient(server.target) as other:
            told = Story(server, gate, harness, client)
            staying = asyncio.create_task(other.certify(harness.image(), **COMPANION))
            await told.hold()
            stages: Counter[str] = Counter()
            for _ in range(waves):
                stages += await told.wave()
            await told.leave_when_answered()
            assert not staying.done()
            gate.open()
            return await staying, stages

    found: tuple[Any, Counter[str]] = loop.run(story())
    return found


def test_a_thousand_clients_leave_and_nothing_of_them_is_left(
    gated: tuple[Any, Gate], server: Any, harness: ModuleType, loop: Any
) -> None:
    """No job, no task, no object; and whoever stays has the counts of an undisturbed run."""
    with server.client() as one:
        undisturbed = one.certify(harness.image(), **COMPANION)
    disturbed, gate = gated
    objects, before = [], _left()  # of other tests
    for waves in (1, WAVES):  # the first fills what is kept for good
        answer, stages = _disturb(disturbed, gate, harness, loop, waves)
        assert answer == undisturbed
        assert stages == {stage: waves * ROWS for stage in ("queued", "batched", "running")}
        assert harness.eventually(disturbed.idle)
        assert harness.eventually(lambda: _tasks(disturbed) == TASKS)
        assert harness.eventually(lambda: _left() <= before), f"still in memory: {_left() - before}"
        objects.append(len(gc.get_objects()))
    assert objects[1] - objects[0] < WAVE * (WAVES - 1) // 2, "less than one object for two clients"
