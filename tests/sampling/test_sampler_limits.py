"""The sampler where memory is short, where the ladder is odd, and under several threads: the labels stay the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest

from certserve.errors import BackendFailed, OutOfMemory
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.keystream import Key
from certserve.sampling.sampler import Sampler
from certserve.sampling.slices import DrawSet, Slice
from certserve.sampling.source import DrawSource

SHAPE = (3, 8, 8)
LADDER = (1, 8, 32, 64)
TIMEOUT = 30.0
"""Seconds after which a test gives up; nothing is measured by it."""

ERRORS = [OutOfMemory("no memory"), MemoryError()]


class Small:
    """A backend with memory for so many rows; it keeps the sizes of the batches it was given, and those it ran."""

    def __init__(self, models: ModuleType, largest: int, error: Exception = ERRORS[0]) -> None:
        self._backend = models.linear()
        self.shape: tuple[int, int, int] = self._backend.shape
        self.num_classes: int = self._backend.num_classes
        self.largest = largest
        self.error = error
        self.asked: list[int] = []
        self.run: list[int] = []

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self.asked.append(len(pixels))
        if len(pixels) > self.largest:
            raise self.error
        self.run.append(len(pixels))
        return np.asarray(self._backend.logits(pixels))


class Meeting:
    """A backend that knows how many threads are in it at once, and lets `together` of them meet each time."""

    def __init__(self, models: ModuleType, together: int) -> None:
        self._backend = models.linear()
        self.shape: tuple[int, int, int] = self._backend.shape
        self.num_classes: int = self._backend.num_classes
        self._barrier = threading.Barrier(together)
        self._lock = threading.Lock()
        self._inside = 0
        self.most = 0

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
        self._barrier.wait(TIMEOUT)
        found = np.asarray(self._backend.logits(pixels))
        with self._lock:
            self._inside -= 1
        return found


def _source(seed: int) -> DrawSource:
    pixels = (np.arange(192) * (seed + 3) % 256).astype(np.uint8).reshape(SHAPE)
    return DrawSource(Key(bytes([seed]) * 32), pixels, 0.5, Arithmetic.GRID)


def _work(total: int, seed: int = 1) -> list[tuple[DrawSource, Slice]]:
    """So many draws, of two inputs and both sets."""
    first = total // 3
    pieces = [Slice(seed, DrawSet.SELECTION, 5, first), Slice(seed + 1, DrawSet.ESTIMATION, 70, total - first)]
    return [(_source(piece.job), piece) for piece in pieces if piece.count]


@pytest.fixture(scope="module")
def single(models: ModuleType) -> Callable[[int, int], list[int]]:
    """The labels of `_work`, each draw on its own."""
    sampler = Sampler(models.linear(), (1,))
    known: dict[tuple[int, DrawSet], list[int]] = {}
    for job in range(1, 12):
        for draws, first in ((DrawSet.SELECTION, 5), (DrawSet.ESTIMATION, 70)):
            source = _source(job)
            found = [sampler.labels([(source, Slice(job, draws, first + i, 1))])[0][0] for i in range(300)]
            known[job, draws] = [int(label) for label in found]

    def labels(total: int, seed: int = 1) -> list[int]:
        return [label for _, piece in _work(total, seed) for label in known[piece.job, piece.draws][: piece.count]]

    return labels


def _flat(found: Sequence[npt.NDArray[np.uint16]]) -> list[int]:
    return [int(label) for labels in found for label in labels]


@pytest.mark.parametrize(
    "shapes", [(1,), (7,), (64,), (5, 30, 64), (3, 4), (2, 63, 64), (10, 11, 12), (1, 2, 4, 8), (1, 100), LADDER]
)
def test_any_number_of_draws_on_any_ladder(
    models: ModuleType, single: Callable[..., list[int]], shapes: tuple[int, ...]
) -> None:
    """Fails where padding overwrites draws that have not run, or does not fit behind them."""
    backend = Small(models, 1_000)
    sampler = Sampler(backend, shapes)
    for total in range(1, 201):
        assert _flat(sampler.labels(_work(total))) == single(total)
    assert set(backend.asked) <= set(shapes)


@pytest.mark.parametrize("error", ERRORS, ids=["OutOfMemory", "MemoryError"])
@pytest.mark.parametrize("largest", [1, 8, 31, 63])
def test_without_memory_it_goes_on_with_a_smaller_shape_for_good(
    models: ModuleType, single: Callable[..., list[int]], largest: int, error: Exception
) -> None:
    backend = Small(models, largest, error)
    sampler = Sampler(backend, LADDER)
    assert _flat(sampler.labels(_work(200))) == single(200)
    fits = [rows for rows in LADDER if rows <= largest]
    assert [rows for rows in backend.asked if rows > largest] == [rows for rows in LADDER[::-1] if rows > largest]
    assert sampler.largest_batch == fits[-1]
    backend.asked.clear()
    backend.largest = 1_000
    assert _flat(sampler.labels(_work(200))) == single(200)
    assert max(backend.asked) == fits[-1]


@pytest.mark.parametrize("shapes", [(5, 30, 64), (2, 63, 64), LADDER])
@pytest.mark.parametrize("total", [1, 29, 63, 64, 65, 200])
def test_memory_may_run_out_after_any_batch(
    models: ModuleType, single: Callable[..., list[int]], shapes: tuple[int, ...], total: int
) -> None:
    """What ran before counts, what had not run still runs: nothing is lost, doubled or overwritten."""
    calm = Small(models, 1_000)
    Sampler(calm, shapes).labels(_work(total))
    for after in range(len(calm.asked)):

        class Failing(Small):
            def logits(self, pixels: npt.NDArray[np.float32], after: int = after) -> npt.NDArray[np.float32]:
                if len(self.asked) == after and len(pixels) > shapes[0]:
                    self.largest = len(pixels) - 1
                return super().logits(pixels)

        backend = Failing(models, 1_000)
        assert _flat(Sampler(backend, shapes).labels(_work(total))) == single(total)
        assert set(backend.asked) <= set(shapes)


@pytest.mark.parametrize("error", ERRORS, ids=["OutOfMemory", "MemoryError"])
@pytest.mark.parametrize("shapes", [(8,), (8, 32)])
def test_without_memory_for_the_smallest_shape_it_fails(
    models: ModuleType, single: Callable[..., list[int]], shapes: tuple[int, ...], error: Exception
) -> None:
    """As a failure of the backend; and when there is memory again it goes on."""
    backend = Small(models, 7, error)
    sampler = Sampler(backend, shapes, 4)
    for _ in range(2):
        with pytest.raises(BackendFailed, match="no memory for a batch of 8 rows") as failure:
            sampler.labels(_work(20))
        assert not isinstance(failure.value, OutOfMemory)
        assert failure.value.__cause__ is error
    backend.largest = 8
    assert _flat(sampler.labels(_work(20))) == single(20)


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_several_threads_may_ask_at_once(models: ModuleType, single: Callable[..., list[int]], parallel: int) -> None:
    """`parallel` of them are in the model together, never more, and each has its own labels."""
    backend = Meeting(models, parallel)
    sampler = Sampler(backend, (64,), parallel)
    assert sampler.parallel == parallel
    seeds = [1, 3, 5, 7, 9, 2, 4, 6]
    with ThreadPoolExecutor(len(seeds)) as threads:
        found = list(threads.map(lambda seed: sampler.labels(_work(192, seed)), seeds))
    assert [_flat(labels) for labels in found] == [single(192, seed) for seed in seeds]
    assert backend.most == parallel


def test_several_threads_may_run_out_of_memory_at_once(models: ModuleType, single: Callable[..., list[int]]) -> None:
    backend = Small(models, 8)
    sampler = Sampler(backend, LADDER, 4)
    seeds = [1, 3, 5, 7, 9, 2, 4, 6] * 4
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda seed: sampler.labels(_work(150, seed)), seeds))
    assert [_flat(labels) for labels in found] == [single(150, seed) for seed in seeds]
    assert sampler.largest_batch == 8


def test_a_failure_leaves_room_for_those_who_come_after(models: ModuleType, single: Callable[..., list[int]]) -> None:
    """Fails if a thread whose batch failed keeps its place."""
    backend = Small(models, 0)
    sampler = Sampler(backend, (8,))
    with pytest.raises(BackendFailed):
        sampler.labels(_work(20))
    backend.largest = 8
    found: list[int] = []
    later = threading.Thread(target=lambda: found.extend(_flat(sampler.labels(_work(20)))), daemon=True)
    later.start()
    later.join(TIMEOUT)
    assert found == single(20)
