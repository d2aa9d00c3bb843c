"""How many draws the next batch may hold."""

from __future__ import annotations

from typing import Protocol

__all__ = ["BatchSizes"]


class _Executor(Protocol):
    @property
    def largest_batch(self) -> int: ...

    @property
    def half_batch(self) -> int: ...

    @property
    def parallel(self) -> int: ...


class BatchSizes:
    """Whole batches of an executor, or halves: for a lone job, for what little waits, and so that threads do not meet.

    Everywhere, `begun` is how many batches run, `waiting` how many draws are in none, and `alone` whether there is but
    one job, which may end before its last draw.
    """

    def __init__(self, executor: _Executor) -> None:
        self._executor = executor
        self._halved = 0  # of the whole batches since nothing ran

    def most(self, alone: bool) -> int:
        """What a batch may hold when much waits: what is drawn in vain, the next request waits for."""
        return self._executor.half_batch if alone else self._executor.largest_batch

    def usual(self, begun: int, waiting: int, alone: bool) -> int:
        """What the next one may: half, where the threads that run nothing take all that waits so, and sooner."""
        half = self._executor.half_batch
        return half if waiting <= (self._executor.parallel - begun) * half else self.most(alone)

    def take(self, begun: int, waiting: int, alone: bool) -> int:
        """What the one that begins now may: as usual, but of those that begin together every other one is halved.

        The threads would come back together again and again, and wait for each other.
        """
        if not begun:
            self._halved = 0
        rows, whole, parallel = self.usual(begun, waiting, alone), self._executor.largest_batch, self._executor.parallel
        if rows < whole or waiting <= (parallel - begun) * whole or self._halved == parallel // 2:
            return rows
        self._halved += 1
        return self._executor.half_batch
