"""Noisy rows by compiled code are those that numpy makes, to the last bit; what does not fit together is refused."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from certserve.noise import grid
from certserve.noise.grid import GridNoise, rounded_gaussian
from certserve.noise.keystream import Key, stream_bytes

_rows = pytest.importorskip("certserve.noise._rows", reason="it could not be compiled, or this processor cannot run it")
pytestmark = pytest.mark.usefixtures("wide")

KEY = Key(b"a key that compiled code is given")
SENTINEL = -32768


@pytest.fixture(params=[False, True])
def wide(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the instructions are those of 512 bits; all tests run with and without."""
    if request.param and not _rows.WIDE:
        pytest.skip("this processor has no fast instructions of 512 bits")
    monkeypatch.setattr(_rows, "WIDE", request.param)
    return bool(request.param)


def _pixels(dimension: int) -> npt.NDArray[np.uint8]:
    return (np.arange(dimension) * 91 % 256).astype(np.uint8)


def _by_numpy(noise: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    return (noise + _pixels(noise.shape[1]).astype(np.int16)).astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("sigma", [1e-5, 0.12, 0.25, 1.0, grid.LARGEST_SIGMA])
@pytest.mark.parametrize(("dimension", "count"), [(1, 999), (5, 300), (7, 300), (784, 20), (3072, 9), (150_528, 2)])
@pytest.mark.parametrize("first", [0, 3, 2**40])
def test_rows_are_those_of_numpy(sigma: float, dimension: int, count: int, first: int) -> None:
    """A value that differs in its last bit fails, and one that is written beyond the last row."""
    noise = GridNoise(KEY, sigma, dimension)
    rows = np.full((count + 1, dimension), np.nan, np.float32)
    assert noise._write_compiled("estimation", first, _pixels(dimension), rows[:-1])
    np.testing.assert_array_equal(rows[:-1], _by_numpy(noise.draws("estimation", first, count)))
    assert np.isnan(rows[-1]).all()


@pytest.mark.parametrize("slots", [2, 4, 6])
def test_a_draw_with_more_undecided_pixels_than_slots(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code that goes on into another draw's bits, or does not say that it gave up, fails."""
    noise = GridNoise(KEY, 0.25, 784)
    monkeypatch.setattr(noise, "_slots", slots)
    rows = np.full((40, 784), np.nan, np.float32)
    assert not noise._write_compiled("estimation", 0, _pixels(784), rows)
    noise.write("estimation", 0, _pixels(784), rows)
    np.testing.assert_array_equal(rows, _by_numpy(noise.draws("estimation", 0, 40)))


def test_as_many_undecided_pixels_as_slots_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw whose last undecided pixel has the last slot, and gets other bits or is given up, fails; or none."""
    noise, table = GridNoise(KEY, 0.25, 3072), rounded_gaussian(0.25).table
    counts = [int((table[_cells(3072, draw)] == SENTINEL).sum()) for draw in range(50)]
    assert max(counts) > 16  # words of further bits that are made at once
    for draw, count in enumerate(counts):
        rows = np.full((1, 3072), np.nan, np.float32)
        monkeypatch.setattr(noise, "_slots", count // 2 * 2)
        assert noise._write_compiled("estimation", draw, _pixels(3072), rows) is (count % 2 == 0)
        if count % 2 == 0:
            np.testing.assert_array_equal(rows, _by_numpy(noise.draws("estimation", draw, 1)))


@pytest.mark.parametrize("lowest", [-800, 0])
@pytest.mark.parametrize("spread", [0, 1, 2**20, 2**47, 2**50])
@pytest.mark.parametrize("count", [80, 4104])  # the second are more than are written in one pass
def test_settling_is_exact_beside_thresholds(count: int, spread: int, lowest: int) -> None:
    """A uniform just below, at or above a threshold, or in a cell of several, that is settled wrongly fails."""
    uniforms = [int(cell) << 48 | int(low) for cell, low in zip(_cells(count, 0), _further(count), strict=True)]
    beside = [b + step for b in uniforms for step in (-spread - 1, -spread, -1, 0, 1, spread, spread + 1)]
    starts = [(b >> 48 << 48) + step for b in uniforms[:40] for step in (-1, 0)]
    thresholds = sorted({t for t in beside[::2] + starts if 0 < t < 2**64})
    table = grid._table(np.array(thresholds, np.uint64), lowest)
    assert all(table[b >> 48] == SENTINEL for b in uniforms), "a pixel that is decided needs no slot"
    law = {"table": table, "thresholds": np.array(thresholds, np.uint64), "lowest": lowest}
    arguments = {**_arguments(count), "slots": count, **law}
    assert _write(arguments)
    values = [lowest + bisect_right(thresholds, b) for b in uniforms]
    np.testing.assert_array_equal(arguments["rows"], (np.array(values) / 255).astype(np.float32))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cells", bytes(15)),
        ("further", bytes(17)),
        ("first", -1),
        ("first", 2**63 - 1),
        ("first", 2**63 - 2),
        ("slots", -2),
        ("slots", 3),
        ("slots", 2**63 - 2),
        ("table", np.zeros(65_535, np.int16)),
        ("pixels", np.zeros((3, 2), np.uint8)[:, 0]),
    ],
)
def test_arguments_that_do_not_belong_together_are_refused(name: str, value: object) -> None:
    """Compiled code that reads or writes beyond an array, or uses other blocks than numpy, fails."""
    with pytest.raises(ValueError, match=r"belong together|contiguous"):
        _write({**_arguments(16), "first": 2, name: value})


@pytest.mark.parametrize("rows", [np.zeros((2, 6), np.float32)[:, ::2], np.broadcast_to(np.float32(0), 3)])
def test_rows_that_cannot_be_written_to_as_they_lie_are_refused(rows: npt.NDArray[np.float32]) -> None:
    with pytest.raises(TypeError, match="read-write"):
        _write({**_arguments(3), "rows": rows})


@pytest.mark.skipif(_rows.WIDE, reason="this processor has instructions of 512 bits")
def test_instructions_that_the_processor_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="belong together"):
        _write({**_arguments(3), "wide": True})


def test_no_pixels_and_no_rows_are_nothing_to_write() -> None:
    arguments = _arguments(3)
    assert _write({**arguments, "pixels": np.zeros(0, np.uint8)})
    assert _write({**arguments, "rows": np.zeros((0, 3), np.float32)})


def _cells(dimension: int, draw: int) -> npt.NDArray[np.uint16]:
    """The high 16 bits of each pixel of a draw, of as many as fill whole blocks."""
    return stream_bytes(KEY.domain("estimation/cells"), 2 * dimension * draw, 2 * dimension).view("<u2")


def _further(count: int) -> npt.NDArray[np.uint64]:
    """48 further bits for each undecided pixel of the first draw."""
    return stream_bytes(KEY.domain("estimation/settle"), 0, 8 * count).view("<u8") & np.uint64(2**48 - 1)


def _arguments(dimension: int) -> dict[str, Any]:
    """For the first draw of a black image."""
    law = rounded_gaussian(0.25)
    return {
        "rows": np.full(dimension, np.nan, np.float32),
        "pixels": np.zeros(dimension, np.uint8),
        "cells": KEY.domain("estimation/cells"),
        "further": KEY.domain("estimation/settle"),
        "first": 0,
        "slots": 8,
        "table": law.table,
        "thresholds": law.thresholds,
        "lowest": law.lowest,
        "wide": _rows.WIDE,
    }


def _write(arguments: dict[str, Any]) -> bool:
    return bool(_rows.write(*arguments.values()))
