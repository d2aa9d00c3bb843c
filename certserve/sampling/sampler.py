"""Under the executor: slices of draws -> fixed-shape batches of noisy copies -> f -> one label a draw."""

from __future__ import annotations

import itertools
import logging
import queue
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from certserve.backends import Batch
from certserve.errors import BackendFailed, OutOfMemory
from certserve.sampling.batches import batch_of
from certserve.sampling.slices import Slice
from certserve.sampling.source import DrawSource

__all__ = ["Sampler"]

_log = logging.getLogger(__name__)
_WORTH_PADDING = 0.7  # of a batch's rows
_MOST_RUNS = 3  # of a smaller shape, in place of one padded run


class _Classifier(Protocol):
    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def num_classes(self) -> int: ...

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...


class Sampler:
    """Labels of draws under one execution. Several threads may ask at once.

    Where memory is short, it goes on with fewer rows at a time, for good: the labels are the same.

    Args:
        backend: the base classifier.
        shapes: numbers of rows it may be run with, increasing, shown to give bit-equal logits.
        parallel: how many threads may run it at once; more wait for their turn.
    """

    def __init__(self, backend: _Classifier, shapes: Sequence[int], parallel: int = 1) -> None:
        self._backend = backend
        self._shapes = tuple(shapes)
        self._parallel = parallel
        self._rows = self._shapes[-1]  # of each batch, though fewer may be run at once
        self._batches: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        for _ in range(parallel):
            self._batches.put(batch_of(backend, self._rows))

    @property
    def largest_batch(self) -> int:
        """The largest number of rows that one run of the model takes."""
        return self._shapes[-1]

    @property
    def half_batch(self) -> int:
        """One of its numbers of rows that is about half of the largest, a third to a half; else the largest."""
        largest = self._shapes[-1]
        return max((shape for shape in self._shapes if 2 * shape <= largest <= 3 * shape), default=largest)

    @property
    def parallel(self) -> int:
        """How many batches run at once."""
        return self._parallel

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
        pieces = [(source, piece, 0) for source, piece in work]
        batch = self._batches.get()
        try:
            done = 0
            while done < total:
                rows = min(total - done, self._rows)
                pieces = _write(pieces, batch, rows)
                self._classify(batch, labels[done : done + rows])
                done += rows
        finally:
            self._batches.put(batch)
        ends = itertools.accumulate(piece.count for _, piece in work)
        return [labels[end - piece.count : end] for (_, piece), end in zip(work, ends, strict=True)]

    def _classify(self, batch: Batch, labels: npt.NDArray[np.uint16]) -> None:
        """The labels of the first len(labels) rows of the batch, some of whose others are overwritten."""
        done = 0
        while done < len(labels):
            rows = _rows_for(len(labels) - done, self._shapes)
            count = min(rows, len(labels) - done)
            if done + rows > self._rows:  # the padding would not fit
                batch.move_up(done, len(labels))
                labels, done = labels[done:], 0
            if count < rows:
                batch.clear(done + count, done + rows)
            try:
                labels[done : done + count] = self._argmax(batch.logits(done, done + rows))[:count]
            except (OutOfMemory, MemoryError) as error:
                self._go_on_with_less(rows, error)
                continue
            done += count

    def _argmax(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
        labels: npt.NDArray[np.uint16] = logits.argmax(axis=1).astype(np.uint16)
        finite = np.isfinite(logits)
        if not finite.all():
            labels[~finite.all(axis=1)] = self.num_classes
        return labels

    def _go_on_with_less(self, rows: int, error: Exception) -> None:
        smaller = tuple(shape for shape in self._shapes if shape < rows)
        if not smaller:
            raise BackendFailed(
                f"no memory for a batch of {rows} rows, and no smaller one is known to be equal"
            ) from error
        _log.warning("no memory for a batch of %d rows: at most %d from now on (%s)", rows, smaller[-1], error)
        self._shapes = smaller


def _rows_for(left: int, shapes: tuple[int, ...]) -> int:
    """The shape to run next: the largest that is filled, or a larger one where that wastes less."""
    if left >= shapes[-1]:
        return shapes[-1]
    padded = next(shape for shape in shapes if shape >= left)
    filled = max((shape for shape in shapes if shape <= left), default=0)
    mostly_filled = left >= _WORTH_PADDING * padded
    return padded if mostly_filled or left > _MOST_RUNS * filled else filled


def _write(pieces: list[tuple[DrawSource, Slice, int]], batch: Batch, rows: int) -> list[tuple[DrawSource, Slice, int]]:
    """Fill `rows` rows with the next draws of `pieces` (source, slice, draws already written); what is left of them."""
    filled = 0
    for index, (source, piece, written) in enumerate(pieces):
        count = min(piece.count - written, rows - filled)
        batch.write(filled, count, source, piece.draws, piece.first + written)
        filled += count
        if filled == rows:
            return [(source, piece, written + count), *pieces[index + 1 :]]
    return []
