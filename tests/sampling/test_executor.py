"""The contract of executors: a label for each draw, in order, whatever shares the batch."""

from __future__ import annotations

import importlib
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest

from certserve.errors import BackendFailed
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.keystream import Key
from certserve.sampling.executor import Executor, Labels, ThreadExecutor, Work
from certserve.sampling.process import ProcessExecutor
from certserve.sampling.sampler import Sampler
from certserve.sampling.slices import DrawSet, Slice
from certserve.sampling.source import DrawSource

TIMEOUT = 30.0
"""Seconds after which a test gives up; nothing is measured by it."""


class Gated:
    """A backend that waits at a gate, and fails when told to; one batch waits at a gate of its own."""

    def __init__(self, models: ModuleType) -> None:
        self._backend = models.linear()
        self.shape: tuple[int, int, int] = self._backend.shape
        self.num_classes: int = self._backend.num_classes
        self.gate = threading.Event()
        self.gate.set()
        self.hold_one = threading.Semaphore(0)
        self.go = threading.Event()
        self.failures = 0

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self.hold_one.acquire(blocking=False):
            assert self.go.wait(TIMEOUT)
        assert self.gate.wait(TIMEOUT)
        if self.failures:
            self.failures -= 1
            raise BackendFailed("told to")
        return np.asarray(self._backend.logits(pixels))


@dataclass(frozen=True)
class Subject:
    """An executor, and how to hold up the model under it, to let it go on, and to make it fail once.

    `hold_one` holds up one batch until `go`; `held` says whether there is one.
    """

    executor: Executor
    hold: Callable[[], object]
    release: Callable[[], object]
    fail_once: Callable[[], object]
    hold_one: Callable[[], object]
    held: Callable[[], bool]
    go: Callable[[], object]


def _subject(kind: str, parallel: int, models: ModuleType, request: pytest.FixtureRequest) -> Iterator[Subject]:
    if kind == "process":
        yield from _process(request.getfixturevalue("process_folder"), parallel)
    else:
        yield from _thread(models, parallel)


@pytest.fixture(params=[("thread", 1), ("thread", 2), ("process", 1), ("process", 2)], ids=lambda p: f"{p[0]} x{p[1]}")
def subject(request: pytest.FixtureRequest, models: ModuleType) -> Iterator[Subject]:
    """Each kind of executor, running one batch at a time and two."""
    kind, parallel = request.param
    yield from _subject(kind, parallel, models, request)


@pytest.fixture(params=["thread", "process"])
def pair(request: pytest.FixtureRequest, models: ModuleType) -> Iterator[Subject]:
    """Each kind of executor, running two batches at a time."""
    yield from _subject(request.param, 2, models, request)


def _thread(models: ModuleType, parallel: int) -> Iterator[Subject]:
    backend = Gated(models)
    with ThreadPoolExecutor(parallel) as device:
        executor = ThreadExecutor(Sampler(backend, (1, 8, 32), parallel), device, backend.logits)
        yield Subject(
            executor,
            hold=backend.gate.clear,
            release=backend.gate.set,
            fail_once=lambda: setattr(backend, "failures", 1),
            hold_one=backend.hold_one.release,
            held=lambda: not backend.hold_one._value,
            go=backend.go.set,
        )
        backend.gate.set()
        backend.go.set()
        executor.close()


def _process(folder: Path, parallel: int) -> Iterator[Subject]:
    (folder / "parallel").write_text(str(parallel), encoding="utf-8")
    executor = ProcessExecutor(partial(importlib.import_module("scripted_model").make, str(folder)))
    hold, hold_one = folder / "hold", folder / "hold-one"
    yield Subject(
        executor,
        hold=hold.touch,
        release=lambda: hold.unlink(missing_ok=True),
        fail_once=(folder / "fail").touch,
        hold_one=hold_one.touch,
        held=lambda: not hold_one.exists(),
        go=(folder / "go").touch,
    )
    hold.unlink(missing_ok=True)
    (folder / "go").touch()
    executor.close()


def _source(seed: int) -> DrawSource:
    pixels = (np.arange(192) * (2 * seed + 1) % 256).astype(np.uint8).reshape(3, 8, 8)
    return DrawSource(Key(bytes([seed]) * 32), pixels, 0.5, Arithmetic.GRID)


def _labels(models: ModuleType, piece: Slice) -> list[int]:
    rows = np.empty((piece.count, 192), np.float32)
    _source(piece.job).write(piece.draws, piece.first, rows)
    return [int(label) for label in models.linear().logits(rows.reshape(-1, 3, 8, 8)).argmax(axis=1)]


def _submit(executor: Executor, *pieces: Slice) -> Future[Labels]:
    return executor.submit(lambda: [(_source(piece.job), piece) for piece in pieces])


def _hold_up(subject: Subject, piece: Slice) -> Future[Labels]:
    """Submit a slice, and return when the model is held up in it."""
    subject.hold_one()
    future = _submit(subject.executor, piece)
    end = time.monotonic() + TIMEOUT
    while not subject.held() and time.monotonic() < end:
        time.sleep(0.005)
    return future


def _run(executor: Executor, *pieces: Slice) -> list[list[int]]:
    return [found.tolist() for found in _submit(executor, *pieces).result(TIMEOUT)]


PIECES = (
    Slice(1, DrawSet.SELECTION, 0, 5),
    Slice(2, DrawSet.ESTIMATION, 30, 9),
    Slice(1, DrawSet.ESTIMATION, 0, 4),
    Slice(3, DrawSet.ESTIMATION, 999, 1),
)


def test_gives_a_label_for_each_draw_in_order(subject: Subject, models: ModuleType) -> None:
    assert _run(subject.executor, *PIECES) == [_labels(models, piece) for piece in PIECES]


def test_labels_do_not_depend_on_what_shares_the_batch(subject: Subject, models: ModuleType) -> None:
    for piece in PIECES:
        assert _run(subject.executor, piece) == [_labels(models, piece)]
    assert _run(subject.executor, *PIECES[::-1]) == [_labels(models, piece) for piece in PIECES[::-1]]


def test_it_names_its_sampler_s_batches(subject: Subject) -> None:
    assert (subject.executor.largest_batch, subject.executor.half_batch) == (32, 32)


def test_more_draws_than_its_largest_batch_still_run(subject: Subject, models: ModuleType) -> None:
    piece = Slice(1, DrawSet.ESTIMATION, 0, 3 * subject.executor.largest_batch + 1)
    assert _run(subject.executor, piece) == [_labels(models, piece)]


def test_an_empty_batch_has_no_labels(subject: Subject, models: ModuleType) -> None:
    assert subject.executor.submit(lambda: ()).result(TIMEOUT) == []
    assert _run(subject.executor, PIECES[0]) == [_labels(models, PIECES[0])]


def test_a_batch_is_asked_for_once(subject: Subject) -> None:
    asked: list[Slice] = []

    def take() -> Work:
        asked.append(PIECES[0])
        return [(_source(1), PIECES[0])]

    assert len(subject.executor.submit(take).result(TIMEOUT)) == 1
    assert len(asked) == 1


def test_a_slice_may_run_again(subject: Subject) -> None:
    assert _run(subject.executor, PIECES[0]) == _run(subject.executor, PIECES[0])


def test_labels_lie_within_the_classes(subject: Subject) -> None:
    (found,) = _submit(subject.executor, Slice(1, DrawSet.ESTIMATION, 0, 200)).result(TIMEOUT)
    assert found.dtype == np.uint16
    assert set(found.tolist()) <= set(range(subject.executor.num_classes))


def test_slices_submitted_before_their_job_is_forgotten_still_run(subject: Subject, models: ModuleType) -> None:
    subject.hold()
    futures = [_submit(subject.executor, piece) for piece in PIECES]
    for seed in (1, 2, 3):
        subject.executor.forget(seed)
    subject.release()
    found = [future.result(TIMEOUT)[0].tolist() for future in futures]
    assert found == [_labels(models, piece) for piece in PIECES]


def test_forgetting_a_job_nobody_knows_or_twice_is_allowed(subject: Subject, models: ModuleType) -> None:
    for job in (7, 2, 2):
        subject.executor.forget(job)
    assert _run(subject.executor, PIECES[0]) == [_labels(models, PIECES[0])]


def test_a_failure_is_in_the_future_and_ends_nothing_else(subject: Subject, models: ModuleType) -> None:
    subject.fail_once()
    with pytest.raises(BackendFailed, match="told to"):
        _submit(subject.executor, *PIECES).result(TIMEOUT)
    assert _run(subject.executor, *PIECES) == [_labels(models, piece) for piece in PIECES]


def test_many_batches_at_once_have_their_own_labels(subject: Subject, models: ModuleType) -> None:
    """However many are with it, and whichever come back first."""
    pieces = [Slice(1 + k % 3, DrawSet.ESTIMATION, 7 * k, 20 + k % 13) for k in range(30)]
    futures = [_submit(subject.executor, piece) for piece in pieces]
    assert [future.result(TIMEOUT)[0].tolist() for future in futures] == [_labels(models, piece) for piece in pieces]


def test_a_batch_may_overtake_another_that_runs_beside_it(pair: Subject, models: ModuleType) -> None:
    """Two run at once, and the slow one holds up no answer but its own."""
    assert pair.executor.parallel == 2
    slow = _hold_up(pair, PIECES[0])
    for piece in PIECES[1:]:
        assert _run(pair.executor, piece) == [_labels(models, piece)]
    assert not slow.done()
    pair.go()
    assert slow.result(TIMEOUT)[0].tolist() == _labels(models, PIECES[0])


def test_a_failure_beside_another_batch_is_in_its_own_future(pair: Subject, models: ModuleType) -> None:
    slow = _hold_up(pair, PIECES[0])
    pair.fail_once()
    with pytest.raises(BackendFailed, match="told to"):
        _submit(pair.executor, PIECES[1]).result(TIMEOUT)
    pair.go()
    assert slow.result(TIMEOUT)[0].tolist() == _labels(models, PIECES[0])


def test_executors_of_two_models_may_share_a_device(models: ModuleType) -> None:
    with ThreadPoolExecutor(1) as device:
        executors = [ThreadExecutor(Sampler(models.linear(), shapes), device) for shapes in [(1, 8), (32,)]]
        futures = [_submit(executor, PIECES[0]) for executor in executors]
        assert [future.result(TIMEOUT)[0].tolist() for future in futures] == [_labels(models, PIECES[0])] * 2


def test_a_slice_travels_to_other_processes() -> None:
    for piece in PIECES:
        assert pickle.loads(pickle.dumps(piece)) == piece


def test_other_questions_are_answered_in_their_turn(subject: Subject) -> None:
    """While a batch runs they wait where one runs at a time; an error in one is its own."""
    pixels = np.full((2, 3, 8, 8), 0.5, np.float32)
    subject.hold()
    batches = [_submit(subject.executor, Slice(1, DrawSet.ESTIMATION, 0, 8)) for _ in range(subject.executor.parallel)]
    asked = subject.executor.ask(pixels)
    time.sleep(0.05)
    assert not asked.done()
    subject.release()
    assert all(len(batch.result(TIMEOUT)[0]) == 8 for batch in batches)
    assert asked.result(TIMEOUT).shape == (2, 4)
    subject.fail_once()
    with pytest.raises(BackendFailed, match="told to"):
        subject.executor.ask(pixels).result(TIMEOUT)
    assert subject.executor.ask(pixels).result(TIMEOUT).shape == (2, 4)


def test_a_batch_runs_beside_another_question(pair: Subject) -> None:
    """Where two run at a time, one that takes long holds up neither."""
    pair.hold_one()
    asked = pair.executor.ask(np.full((2, 3, 8, 8), 0.5, np.float32))
    end = time.monotonic() + TIMEOUT
    while not pair.held() and time.monotonic() < end:
        time.sleep(0.005)
    (labels,) = _submit(pair.executor, Slice(1, DrawSet.ESTIMATION, 0, 8)).result(TIMEOUT)
    assert len(labels) == 8
    assert not asked.done()
    pair.go()
    assert asked.result(TIMEOUT).shape == (2, 4)
