"""The noisy copies: pixels plus the noise of exactly the draws asked for, wherever and however often."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from certserve.noise import grid
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.grid import GridNoise
from certserve.noise.keystream import Key
from certserve.noise.real import RealNoise
from certserve.sampling.slices import DrawSet
from certserve.sampling.source import DrawSource

SHAPE = (3, 5, 7)
DIMENSION = 105
KEY = Key(b"a public key of the tests, 32 b.")

GRID_PIXELS = (np.arange(DIMENSION) * 91 % 256).astype(np.uint8).reshape(SHAPE)
FLOAT_PIXELS = np.linspace(0.0, 1.0, DIMENSION, dtype=np.float32).reshape(SHAPE)

SOURCES = [
    DrawSource(KEY, GRID_PIXELS, 0.25, Arithmetic.GRID),
    DrawSource(KEY, np.zeros(SHAPE, np.uint8), 0.25, Arithmetic.GRID),
    DrawSource(KEY, np.full(SHAPE, 255, np.uint8), 0.25, Arithmetic.GRID),
    DrawSource(KEY, np.full(SHAPE, 255, np.uint8), 1.0, Arithmetic.GRID),
    DrawSource(KEY, FLOAT_PIXELS, 0.25, Arithmetic.FLOAT),
]
IDS = ["grid", "black", "white", "white, loud", "float"]


@pytest.fixture(autouse=True, params=["compiled", "numpy"])
def _code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What writes rows on the grid."""
    if request.param == "numpy":
        monkeypatch.setattr(grid, "_rows", None)
    elif not grid.COMPILED:
        pytest.skip("it could not be compiled, or this processor cannot run it")


def _rows(source: DrawSource, first: int, count: int, draws: DrawSet = DrawSet.ESTIMATION) -> npt.NDArray[np.float32]:
    rows = np.full((count, DIMENSION), np.nan, np.float32)
    source.write(draws, first, rows)
    return rows


@pytest.mark.parametrize("source", SOURCES[:4], ids=IDS[:4])
@pytest.mark.parametrize("draws", DrawSet)
def test_on_the_grid_a_copy_is_pixels_plus_noise_over_255(source: DrawSource, draws: DrawSet) -> None:
    noise = GridNoise(KEY, source.sigma, DIMENSION).draws(draws.value, 40, 9).astype(np.int64)
    expected = ((source.pixels.reshape(-1).astype(np.int64) + noise) / 255.0).astype(np.float32)
    np.testing.assert_array_equal(_rows(source, 40, 9, draws), expected)


def test_off_the_grid_a_copy_is_the_sum_in_float64_rounded_to_a_4096th() -> None:
    noise = RealNoise(KEY, 0.25, DIMENSION).draws("estimation", 40, 9)
    exact = FLOAT_PIXELS.reshape(-1).astype(np.float64) + noise
    found = _rows(SOURCES[4], 40, 9).astype(np.float64)
    np.testing.assert_array_equal(found * 4096, np.rint(exact * 4096))


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_a_draw_is_the_same_alone_and_in_any_range(source: DrawSource) -> None:
    together = _rows(source, 0, 40)
    for first, count in [(0, 1), (39, 1), (3, 5), (16, 16), (31, 9)]:
        np.testing.assert_array_equal(_rows(source, first, count), together[first : first + count])


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_a_draw_far_away_is_the_same_alone(source: DrawSource) -> None:
    far = 10_000_000 - 2
    np.testing.assert_array_equal(_rows(source, far, 2)[1], _rows(source, far + 1, 1)[0])


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_no_draws_leave_nothing_written(source: DrawSource) -> None:
    assert _rows(source, 17, 0).shape == (0, DIMENSION)


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_selection_and_estimation_share_no_draw(source: DrawSource) -> None:
    selection = {row.tobytes() for row in _rows(source, 0, 64, DrawSet.SELECTION)}
    estimation = {row.tobytes() for row in _rows(source, 0, 64, DrawSet.ESTIMATION)}
    assert len(selection) == len(estimation) == 64
    assert not selection & estimation


def test_another_key_gives_other_noise() -> None:
    other = DrawSource(Key(b"another key of the tests, 32 b.."), GRID_PIXELS, 0.25, Arithmetic.GRID)
    assert (_rows(other, 0, 8) != _rows(SOURCES[0], 0, 8)).mean() > 0.9


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_the_pixels_are_left_alone(source: DrawSource) -> None:
    before = source.pixels.copy()
    _rows(source, 0, 8)
    np.testing.assert_array_equal(source.pixels, before)


def test_black_and_white_are_not_clipped() -> None:
    """Clipping the noise would change its law; only f may clip the sum."""
    assert _rows(SOURCES[1], 0, 8).min() < 0.0
    assert _rows(SOURCES[2], 0, 8).max() > 1.0
