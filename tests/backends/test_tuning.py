"""Tuning: the smallest batch that is as good as the best, kept for the user, and never a reason to fail."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from certserve import backends, bundle
from certserve.backends.checks import LADDER
from certserve.backends.tuning import candidates_for, check_ladder, check_shapes, kept_ladder, measure, remember
from certserve.errors import BackendFailed, OutOfMemory

IDENTITY = {"runtime": "openvino", "device": "cpu", "threads": "1"}
DIGEST = "d" * 64


class Timed:
    """A backend whose batches take the seconds that it is told, by a clock of its own."""

    shape = (1, 2, 2)
    parallel = 1
    identity: Mapping[str, str] = IDENTITY

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self._seconds = seconds
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self.now += self._seconds[len(pixels)]
        return np.zeros((len(pixels), 2), np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({16: 1.0, 64: 1.0, 256: 1.0}, (1, 8, 32, 64, 256)),  # time does not depend on the rows: the more the better
        ({16: 1.0, 64: 4.0, 256: 16.0}, (1, 8, 16)),  # nothing is gained by more rows
        ({16: 1.0, 64: 2.0, 256: 7.9}, (1, 8, 32, 64)),  # 256 rows are ahead by 1 % only
        ({16: 1.0, 64: 2.0, 256: 7.0}, (1, 8, 32, 64, 256)),
    ],
)
def test_the_smallest_that_is_as_good_as_the_best_is_chosen(
    seconds: dict[int, float], expected: tuple[int, ...]
) -> None:
    backend = Timed(seconds)
    paces, ladder = measure(backend, 0.25, candidates=tuple(seconds), seconds=20.0, clock=backend.clock)
    assert ladder == expected
    assert [pace.rows for pace in paces] == list(seconds)
    assert [pace.draws_per_second for pace in paces] == pytest.approx([rows / each for rows, each in seconds.items()])


def test_all_threads_of_the_backend_run_at_once() -> None:
    class Meeting(Timed):
        parallel = 3
        barrier = threading.Barrier(3, timeout=30.0)

        def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            self.barrier.wait()
            return np.zeros((len(pixels), 2), np.float32)

    measure(Meeting({}), 0.25, candidates=(4,), seconds=0.0, turns=1)


def test_a_failure_is_told() -> None:
    class Failing(Timed):
        def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            raise BackendFailed("no")

    with pytest.raises(BackendFailed):
        measure(Failing({}), 0.25, candidates=(4,), seconds=0.0)


def test_the_others_do_not_wait_for_a_thread_that_failed() -> None:
    class FailingOnce(Timed):
        parallel = 3
        turns = itertools.count()

        def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            if next(self.turns) == 1:
                raise BackendFailed("no")
            return np.zeros((len(pixels), 2), np.float32)

    with pytest.raises(BackendFailed):
        measure(FailingOnce({}), 0.25, candidates=(4,), seconds=0.0)


def test_what_is_kept_is_found_again_for_the_same_file_and_machine_only() -> None:
    remember(DIGEST, IDENTITY, (1, 16))
    assert kept_ladder(DIGEST, dict(reversed(IDENTITY.items()))) == (1, 16)
    assert kept_ladder("e" * 64, IDENTITY) is None
    assert kept_ladder(DIGEST, IDENTITY | {"threads": "2"}) is None


class Rounding:
    """A backend whose logits are others, by one bit, in batches of `odd` rows, and which has no memory for `large`.

    By its clock a row takes so many seconds, whatever else is in the batch.
    """

    shape = (1, 2, 2)
    parallel = 1

    def __init__(self, device: str = "cpu", odd: int = 0, large: int = 1 << 20, seconds: float = 1.0) -> None:
        self.identity = IDENTITY | {"device": device}
        self._odd, self._large, self._seconds = odd, large, seconds
        self._now = 0.0

    def clock(self) -> float:
        return self._now

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self._now += self._seconds * len(pixels)
        if len(pixels) >= self._large:
            raise OutOfMemory("no")
        logits = pixels.reshape(len(pixels), 4)[:, :2]
        return np.nextafter(logits, np.float32(9)) if len(pixels) == self._odd else logits.copy()


def _shapes(backend: Rounding) -> tuple[int, ...]:
    return check_shapes(backend, 0.25, DIGEST, backend.clock).shapes


def _candidates(backend: Rounding) -> tuple[int, ...]:
    return candidates_for(backend, 0.25, backend.clock)


def test_a_cuda_device_has_larger_batches() -> None:
    assert _shapes(Rounding("NVIDIA"))[-1] == 1024
    assert _candidates(Rounding()) == (16, 32, 64, 128, 256, 512)
    assert max(_candidates(Rounding("NVIDIA"))) == 16384
    bfloat16 = Rounding("NVIDIA")
    bfloat16.identity |= {"precision": "bfloat16"}
    assert _shapes(bfloat16)[-1] == 8192


def test_what_would_make_it_another_classifier_is_not_tried() -> None:
    assert _candidates(Rounding(odd=128)) == (16, 32, 64, 256, 512)
    assert _candidates(Rounding(large=128)) == (16, 32, 64)
    assert _candidates(Rounding(odd=64)) == (64,)  # the usual largest decides what the classifier is


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [(16.1, LADDER), (15.9, (*LADDER, 128)), (0.1, (*LADDER, 128))],
)
def test_a_quick_network_has_larger_batches(milliseconds: float, expected: tuple[int, ...]) -> None:
    backend = Rounding(seconds=milliseconds / 64e3)
    assert _shapes(backend) == expected
    assert min(_candidates(backend)) == (expected[-1] if expected != LADDER else 16)
    assert _shapes(Rounding("NVIDIA", seconds=0.0))[-1] == 1024


def test_one_slow_batch_makes_no_network_slow() -> None:
    class Starting(Rounding):
        def __init__(self, seconds: float, delay: float = 0.04) -> None:
            super().__init__(seconds=seconds)
            self._turns, self._delay = itertools.count(), delay

        def clock(self) -> float:
            self._now += self._delay if next(self._turns) == 1 else 0.0
            return self._now

    assert _shapes(Starting(seconds=1e-6)) == (*LADDER, 128)
    assert _shapes(Starting(seconds=1e-6, delay=3.1 * 0.016)) == LADDER  # of which a second run would take too long


def test_the_clock_does_not_decide_what_the_logits_are() -> None:
    slow, quick = Rounding(odd=128), Rounding(odd=128, seconds=0.0)
    assert _shapes(quick) == LADDER
    one, other = (check_shapes(backend, 0.25, DIGEST, backend.clock).logits for backend in (slow, quick))
    np.testing.assert_array_equal(one, other)
    assert _shapes(Rounding(odd=64, seconds=0.0)) == (64,)
    assert _shapes(Rounding(large=256, seconds=0.0)) == (*LADDER, 128)
    assert _shapes(Rounding(large=64, seconds=0.0)) == (1, 8, 32)


def test_a_user_without_a_home_has_the_usual_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    assert kept_ladder(DIGEST, IDENTITY) is None


@pytest.mark.parametrize(
    "contents",
    ["", "{}", "[]", '{"shapes": []}', '{"shapes": [8, 1]}', '{"shapes": [0, 8]}', '{"shapes": [1, 1e9]}', "\udcff"],
)
def test_a_damaged_cache_costs_a_warning(contents: str, caplog: pytest.LogCaptureFixture) -> None:
    path = remember(DIGEST, IDENTITY, (1, 16))
    path.write_bytes(contents.encode("utf-8", "surrogateescape"))
    assert kept_ladder(DIGEST, IDENTITY) is None
    assert "certserve tune" in caplog.text


def test_a_tuned_execution_has_another_ladder_and_the_same_fingerprint(models: ModuleType, tmp_path: Path) -> None:
    found = bundle.write_linear(
        tmp_path / "linear",
        name="linear",
        weights=models.waves(3, 12).astype(np.float64),
        bias=np.zeros(3),
        shape=(3, 2, 2),
        labels=("a", "b", "c"),
        sigmas=[0.25],
    )
    before = backends.load(found)
    remember(found.digests[found.executions[0].file], before.facts.identity, (1, 24))
    after = backends.load(found)
    assert (before.shapes[: len(LADDER)], after.shapes) == (LADDER, (1, 24))
    assert before.fingerprint == after.fingerprint


def test_a_backend_that_draws_is_timed_where_its_noise_is() -> None:
    """Copies that come from the host's memory, as they never do when it serves, would be timed too."""

    class Drawing(Timed):
        stream = "another/1"

        def batch(self, rows: int) -> Drawing:
            return self

        def logits(self, start: Any, stop: int | None = None) -> npt.NDArray[np.float32]:
            assert stop is not None, "asked for the logits of the host's pixels"
            return super().logits(np.zeros((stop - start, 1), np.float32))

    backend = Drawing({4: 1.0, 16: 2.0})
    paces, _ = measure(backend, 0.25, candidates=(4, 16), seconds=5.0, clock=backend.clock)
    assert [pace.draws_per_second for pace in paces] == pytest.approx([4.0, 8.0])


def test_batches_may_be_larger_on_a_cuda_device() -> None:
    """128 MiB: more than a processor's batches may take."""

    class Wide(Rounding):
        shape = (1, 2048, 2048)

        def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            return pixels[:, 0, 0, :2].copy()

    assert check_ladder(Wide(), 0.25, (1, 8)).shapes == (1,)
    assert check_ladder(Wide("NVIDIA"), 0.25, (1, 8)).shapes == (1, 8)


def test_what_only_a_threads_first_run_costs_is_not_timed() -> None:
    class Preparing(Timed):
        def __init__(self) -> None:
            super().__init__({4: 1.0})
            self._prepared = threading.local()

        def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            self.now += 0.0 if hasattr(self._prepared, "done") else 100.0
            self._prepared.done = True
            return super().logits(pixels)

    backend = Preparing()
    paces, _ = measure(backend, 0.25, candidates=(4,), seconds=5.0, clock=backend.clock)
    assert paces[0].draws_per_second == pytest.approx(4.0)


def test_the_noise_is_timed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch's noise costs the same second here whatever its size, so that larger batches are the faster ones."""

    def noisy_copies(shape: tuple[int, int, int], first: int, count: int, sigma: float) -> npt.NDArray[np.float32]:
        backend.now += 1.0
        drawn.extend(range(first, first + count))
        return np.zeros((count, *shape), np.float32)

    drawn: list[int] = []
    backend = Timed({16: 1.0, 64: 4.0})
    monkeypatch.setattr("certserve.backends.tuning.noisy_copies", noisy_copies)
    paces, ladder = measure(backend, 0.25, candidates=(16, 64), seconds=50.0, turns=1, clock=backend.clock)
    assert [pace.draws_per_second for pace in paces] == pytest.approx([16 / 2, 64 / 5])
    assert ladder[-1] == 64
    assert drawn[:32] == list(range(32)), "each batch has draws of its own"
