"""Under the executor: slices of draws -> fixed-shape batches of noisy copies -> f -> one label a draw."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from certserve.sampling.slices import Slice
from certserve.sampling.source import DrawSource

__all__ = ["Sampler"]


class _Classifier(Protocol):
    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def num_classes(self) -> int: ...

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...


class Sampler:
    """Labels of draws under one execution.

    Args:
        backend: the base classifier.
        shapes: numbers of rows it may be run with, increasing, shown to give bit-equal logits.
    """

    def __init__(self, backend: _Classifier, shapes: Sequence[int]) -> None:
        self._backend = backend
        self._shapes = tuple(shapes)
        self._dimension = math.prod(backend.shape)
        self._batches = {rows: np.zeros((rows, self._dimension), dtype=np.float32) for rows in self._shapes}
        self._lock = threading.Lock()  # over the batches, which are written anew each time

    @property
    def largest_batch(self) -> int:
        """The largest number of rows that one run of the model takes."""
        return self._shapes[-1]

    @property
    def num_classes(self) -> int:
        """How many classes there are; also the label of a draw whose logits are not all finite."""
        return self._backend.num_classes

    def labels(self, work: Sequence[tuple[DrawSource, Slice]]) -> list[npt.NDArray[np.uint16]]:
        """One label a draw for each slice, in order; the draws of all slices share batches.

        Raises:
            BackendFailed: the runtime failed.
        """
        total = sum(piece.count for _, piece in work)
        labels = np.empty(total, dtype=np.uint16)
        done = 0
        pieces = [(source, piece, 0) for source, piece in work]
        while done < total:
            rows = min(total - done, self.largest_batch)
            shape = next(s for s in self._shapes if s >= rows)
            with self._lock:
                batch = self._batches[shape]
                pieces = _write(pieces, batch[:rows])
                batch[rows:] = 0.0
                labels[done : done + rows] = self._argmax(batch)[:rows]
            done += rows
        return np.split(labels, np.cumsum([piece.count for _, piece in work])[:-1])

    def _argmax(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
        logits = self._backend.logits(batch.reshape(len(batch), *self._backend.shape))
        finite = np.isfinite(logits).all(axis=1)
        return np.where(finite, logits.argmax(axis=1), self.num_classes).astype(np.uint16)


def _write(
    pieces: list[tuple[DrawSource, Slice, int]], rows: npt.NDArray[np.float32]
) -> list[tuple[DrawSource, Slice, int]]:
    """Fill `rows` with the next draws of `pieces` (source, slice, draws already written); what is left of them."""
    filled = 0
    for index, (source, piece, written) in enumerate(pieces):
        count = min(piece.count - written, len(rows) - filled)
        source.write(piece.draws, piece.first + written, rows[filled : filled + count])
        filled += count
        if filled == len(rows):
            return [(source, piece, written + count), *pieces[index + 1 :]]
    return []
