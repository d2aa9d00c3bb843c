"""Rows of noisy copies, on their way to the classifier."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from certserve.backends import Batch, DrawingBackend, Source

__all__ = ["HostBatch", "batch_of"]


class _Classifier(Protocol):
    @property
    def shape(self) -> tuple[int, int, int]: ...

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...


class HostBatch:
    """Rows in this process's memory, whose noise the processor makes; see `certserve.backends.Batch`."""

    def __init__(self, backend: _Classifier, rows: int) -> None:
        self._backend = backend
        self._rows = np.zeros((rows, math.prod(backend.shape)), dtype=np.float32)
        self._parts: dict[tuple[int, int], npt.NDArray[np.float32]] = {}  # a runtime may know one from the last time

    def write(self, start: int, count: int, source: Source, draws: str, first: int) -> None:
        source.write(draws, first, self._rows[start : start + count])

    def clear(self, start: int, stop: int) -> None:
        self._rows[start:stop] = 0.0

    def move_up(self, start: int, stop: int) -> None:
        self._rows[: stop - start] = self._rows[start:stop]

    def logits(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        part = self._parts.get((start, stop))
        if part is None:
            part = self._parts[start, stop] = self._rows[start:stop].reshape(-1, *self._backend.shape)
        return self._backend.logits(part)


def batch_of(backend: _Classifier, rows: int) -> Batch:
    """A batch of so many rows: the backend's own, where it makes noisy copies itself."""
    return backend.batch(rows) if isinstance(backend, DrawingBackend) else HostBatch(backend, rows)
