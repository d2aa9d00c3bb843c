"""Slices to labels: the same label for a draw whatever batch it is in, and no label for padding."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest

from certserve.errors import BackendFailed
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.keystream import Key
from certserve.sampling.sampler import Sampler
from certserve.sampling.slices import DrawSet, Slice
from certserve.sampling.source import DrawSource

SHAPE = (3, 8, 8)
LADDER = (1, 8, 32, 128)

Work = list[tuple[DrawSource, Slice]]


class Watched:
    """A backend that keeps what it is given, and spoils the logits of the rows that `spoil` picks."""

    def __init__(self, models: ModuleType, fill: float | None = None) -> None:
        self._backend = models.linear()
        self._fill = fill
        self.shape: tuple[int, int, int] = self._backend.shape
        self.num_classes: int = self._backend.num_classes
        self.batches: list[npt.NDArray[np.float32]] = []

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self.batches.append(pixels.copy())
        logits: npt.NDArray[np.float32] = self._backend.logits(pixels)
        if self._fill is not None:
            logits[pixels.reshape(len(pixels), -1)[:, 0] > 0.5, 1] = self._fill
        return logits


def _source(seed: int, arithmetic: Arithmetic = Arithmetic.GRID) -> DrawSource:
    pixels = (np.arange(192) * (seed + 3) % 256).astype(np.uint8).reshape(SHAPE)
    key = Key(bytes([seed]) * 32)
    if arithmetic is Arithmetic.GRID:
        return DrawSource(key, pixels, 0.5, arithmetic)
    return DrawSource(key, (pixels / np.float32(256)).astype(np.float32), 0.5, arithmetic)


def _work(*runs: tuple[int, DrawSet, int, int]) -> Work:
    return [(_source(seed), Slice(seed, draws, first, count)) for seed, draws, first, count in runs]


def _one_at_a_time(sampler: Sampler, work: Work) -> list[list[int]]:
    return [
        [int(sampler.labels([(source, Slice(piece.job, piece.draws, i, 1))])[0][0]) for i in _range(piece)]
        for source, piece in work
    ]


def _range(piece: Slice) -> range:
    return range(piece.first, piece.first + piece.count)


def _rows(backend: Watched) -> npt.NDArray[np.float32]:
    """All rows that the backend was given, in order."""
    return np.concatenate([batch.reshape(len(batch), -1) for batch in backend.batches])


WORK = _work(
    (1, DrawSet.SELECTION, 0, 20),
    (1, DrawSet.ESTIMATION, 64, 50),
    (2, DrawSet.ESTIMATION, 0, 1),
    (3, DrawSet.ESTIMATION, 7, 31),
    (4, DrawSet.ESTIMATION, 1000, 26),
)  # 128 draws


@pytest.mark.parametrize("shapes", [(1,), (8,), (1, 8), (32,), (1, 8, 32), LADDER])
def test_slices_split_over_batches_have_the_labels_of_single_draws(models: ModuleType, shapes: Sequence[int]) -> None:
    expected = _one_at_a_time(Sampler(models.linear(), (1,)), WORK)
    found = Sampler(models.linear(), shapes).labels(WORK)
    assert [labels.tolist() for labels in found] == expected
    assert len({label for labels in expected for label in labels}) > 1, "the model must tell draws apart"


def test_labels_are_the_argmax_of_the_noisy_copies(models: ModuleType) -> None:
    source, piece = WORK[1]
    rows = np.empty((piece.count, 192), np.float32)
    source.write(piece.draws, piece.first, rows)
    expected = models.linear().logits(rows.reshape(-1, *SHAPE)).argmax(axis=1)
    (found,) = Sampler(models.linear(), LADDER).labels([(source, piece)])
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint16


def test_batch_mates_do_not_matter(models: ModuleType) -> None:
    sampler = Sampler(models.linear(), LADDER)
    together = sampler.labels(WORK)
    backwards = sampler.labels(WORK[::-1])[::-1]
    for work, one, other in zip(WORK, together, backwards, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, sampler.labels([work])[0])


def test_arithmetics_may_share_a_batch(models: ModuleType) -> None:
    work = [
        (_source(5, arithmetic), Slice(job, DrawSet.ESTIMATION, 3, 11)) for job, arithmetic in enumerate(Arithmetic)
    ]
    sampler = Sampler(models.linear(), LADDER)
    for alone, shared in zip(work, sampler.labels(work), strict=True):
        np.testing.assert_array_equal(shared, sampler.labels([alone])[0])


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (1, [1]),
        (2, [1, 1]),
        (4, [8]),
        (8, [8]),
        (9, [8, 1]),
        (22, [8, 8, 8]),
        (23, [32]),
        (33, [32, 1]),
        (89, [32, 32, 32]),
        (90, [128]),
        (128, [128]),
        (129, [128, 1]),
        (300, [128, 128, 32, 8, 8]),
    ],
)
def test_the_model_sees_shapes_of_the_ladder_only(models: ModuleType, total: int, expected: list[int]) -> None:
    backend = Watched(models)
    Sampler(backend, LADDER).labels(_work((1, DrawSet.ESTIMATION, 0, total)))
    assert [len(batch) for batch in backend.batches] == expected


@pytest.mark.parametrize("total", [4, 7, 23, 90, 132])
def test_padding_is_never_counted(models: ModuleType, total: int) -> None:
    backend = Watched(models)
    labels = Sampler(backend, LADDER).labels(_work((1, DrawSet.ESTIMATION, 0, total - 1), (2, DrawSet.SELECTION, 0, 1)))
    assert [found.size for found in labels] == [total - 1, 1]
    rows = _rows(backend)
    assert len(rows) > total
    assert rows[:total].any(axis=1).all()
    assert not rows[total:].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_draw_without_finite_logits_is_of_no_class(models: ModuleType, value: float) -> None:
    backend = Watched(models, fill=value)
    (found,) = Sampler(backend, LADDER).labels([WORK[1]])
    spoilt = _rows(backend)[:50, 0] > 0.5
    assert 0 < spoilt.sum() < 50
    assert (found[spoilt] == backend.num_classes).all()
    clean = Sampler(models.linear(), LADDER).labels([WORK[1]])[0]
    np.testing.assert_array_equal(found[~spoilt], clean[~spoilt])


@pytest.mark.parametrize(
    ("shapes", "half"),
    [((1, 8, 32, 64), 32), (LADDER, 128), ((1, 8, 64), 64), ((64,), 64), ((5, 30), 30), ((16, 33), 16), ((1,), 1)],
)
def test_half_a_batch_is_one_of_its_shapes(models: ModuleType, shapes: Sequence[int], half: int) -> None:
    """A number of rows that is padded, or run as many small ones, fails."""
    assert Sampler(models.linear(), shapes).half_batch == half


def test_it_names_its_largest_batch_and_its_classes(models: ModuleType) -> None:
    sampler = Sampler(models.linear(), (1, 8, 32))
    assert (sampler.largest_batch, sampler.num_classes) == (32, models.CLASSES)


def test_a_failure_of_the_runtime_passes_through(models: ModuleType) -> None:
    class Broken(Watched):
        def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            raise BackendFailed("no memory left")

    with pytest.raises(BackendFailed, match="no memory"):
        Sampler(Broken(models), LADDER).labels(WORK)
