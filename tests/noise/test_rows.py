"""Noisy rows by compiled code are those that numpy makes, to the last bit; what does not fit together is refused."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from certserve.noise import grid
from certserve.noise.grid import GridNoise, rounded_gaussian
from certserve.noise.keystream import Key

_rows = pytest.importorskip("certserve.noise._rows", reason="the package was installed without a C compiler")

KEY = Key(b"a key that compiled code is given")


def _pixels(dimension: int) -> npt.NDArray[np.uint8]:
    return (np.arange(dimension) * 91 % 256).astype(np.uint8)


def _by_numpy(noise: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    return (noise + _pixels(noise.shape[1]).astype(np.int16)).astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("sigma", [1e-5, 0.12, 0.25, 1.0, grid.LARGEST_SIGMA])
@pytest.mark.parametrize(("dimension", "count"), [(1, 999), (5, 300), (7, 300), (784, 20), (3072, 9), (150_528, 2)])
@pytest.mark.parametrize("first", [0, 3, 2**40])
def test_rows_are_those_of_numpy(sigma: float, dimension: int, count: int, first: int) -> None:
    """A value that differs in its last bit fails."""
    noise = GridNoise(KEY, sigma, dimension)
    rows = np.full((count, dimension), np.nan, np.float32)
    assert noise._write_compiled("estimation", first, _pixels(dimension), rows)
    np.testing.assert_array_equal(rows, _by_numpy(noise.draws("estimation", first, count)))


@pytest.mark.parametrize("slots", [2, 4, 6])
def test_a_draw_with_more_undecided_pixels_than_slots(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code that goes on into another draw's bits, or does not say that it gave up, fails."""
    noise = GridNoise(KEY, 0.25, 784)
    monkeypatch.setattr(noise, "_slots", slots)
    rows = np.full((40, 784), np.nan, np.float32)
    assert not noise._write_compiled("estimation", 0, _pixels(784), rows)
    noise.write("estimation", 0, _pixels(784), rows)
    np.testing.assert_array_equal(rows, _by_numpy(noise.draws("estimation", 0, 40)))


def test_as_many_undecided_pixels_as_slots_are_enough() -> None:
    """A draw whose last undecided pixel has the last slot, and gets other bits or is given up, fails."""
    law = rounded_gaussian(0.25)
    cell = int(np.flatnonzero(law.table == np.iinfo(np.int16).min)[7])
    arguments = _arguments(0.25, [cell << 48, (cell << 48) + 2**48 - 1])
    assert _write(arguments)
    assert _write({**arguments, "slots": 1}) is False


@pytest.mark.parametrize("sigma", [0.12, 0.25, 1.0, grid.LARGEST_SIGMA])
def test_settling_is_exact_beside_every_threshold(sigma: float) -> None:
    """A uniform just below, at or above a threshold that is settled on the wrong side fails."""
    law = rounded_gaussian(sigma)
    thresholds = law.thresholds.tolist()
    bits = [t + step for t in thresholds for step in (-1, 0, 1) if law.table[t + step >> 48] == -32768]
    assert len(bits) > len(thresholds)
    arguments = _arguments(sigma, bits)
    assert _write(arguments)
    expected = [np.float32(law.lowest + bisect_right(thresholds, b)) / np.float32(255) for b in bits]
    assert arguments["rows"].tolist() == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cells", np.zeros(1, np.uint16)),
        ("stride", 2),
        ("stride", -1),
        ("stride", 2**62),
        ("low", np.zeros(2, np.uint64)),
        ("slots", -1),
        ("slots", 2**62),
        ("table", np.zeros(65_535, np.int16)),
        ("passed", np.zeros(65_537, np.uint16)),
        ("pixels", np.zeros((3, 2), np.uint8)[:, 0]),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(name: str, value: object) -> None:
    """Compiled code that reads or writes beyond an array fails."""
    with pytest.raises(ValueError, match=r"belong together|contiguous"):
        _write({**_arguments(0.25, [0, 1, 2]), name: value})


@pytest.mark.parametrize("rows", [np.zeros((2, 6), np.float32)[:, ::2], np.broadcast_to(np.float32(0), 3)])
def test_rows_that_cannot_be_written_to_as_they_lie_are_refused(rows: npt.NDArray[np.float32]) -> None:
    with pytest.raises(TypeError, match="read-write"):
        _write({**_arguments(0.25, [0, 1, 2]), "rows": rows})


def test_no_pixels_and_no_rows_are_nothing_to_write() -> None:
    arguments = _arguments(0.25, [0, 1, 2])
    assert _write({**arguments, "pixels": np.zeros(0, np.uint8)})
    assert _write({**arguments, "rows": np.zeros((0, 3), np.float32)})


def _arguments(sigma: float, bits: list[int]) -> dict[str, Any]:
    """For one draw of a black image whose pixels get these uniforms, undecided or not, and a slot for each."""
    law, uniforms = rounded_gaussian(sigma), np.array(bits, np.uint64)
    return {
        "rows": np.full(len(bits), np.nan, np.float32),
        "pixels": np.zeros(len(bits), np.uint8),
        "cells": (uniforms >> np.uint64(48)).astype(np.uint16),
        "stride": len(bits),
        "low": uniforms,  # of which the high 16 bits do not count
        "slots": len(bits),
        "table": law.table,
        "passed": law.passed,
        "thresholds": law.thresholds,
        "lowest": law.lowest,
    }


def _write(arguments: dict[str, Any]) -> bool:
    return bool(_rows.write(*arguments.values()))
