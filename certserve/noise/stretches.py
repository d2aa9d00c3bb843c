"""Rows a few at a time, so that the intermediate arrays of numpy's arithmetic stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["stretches"]

_VALUES_AT_ONCE = 1 << 18


def stretches(first: int, rows: npt.NDArray[np.float32]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Parts of `rows`, (count, dimension), in order, each after the draw of its first row; `first` is that of row 0."""
    at_once = max(1, _VALUES_AT_ONCE // rows.shape[1])
    for start in range(0, len(rows), at_once):
        yield first + start, rows[start : start + at_once]
