"""What runs next, and which draws have been counted: bookkeeping without clock, thread, device or mathematics.

A job is a known set of draws: `n0` of selection, and estimation up to the last of its looks. Slices of many jobs share
a batch. Small jobs go ahead of large ones up to half of the draws, and within each lane jobs take turns, so nobody
starves; what small jobs left of their half they may take later, up to a few batches. Labels may come back out of order;
only the *prefix* of a job's draws is ever counted, and a look sees the votes of exactly that many draws.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from certserve.sampling.slices import DrawSet, Slice
from certserve.smoothing.outcomes import Votes

__all__ = ["SMALL_JOB", "Scheduler"]

SMALL_JOB = 2_000
"""Jobs of at most this many draws go ahead."""

_SMALL_TURN = 32  # draws: a newcomer shares the next batch
_LARGE_TURN = 128  # most batches of a CPU hold one job; those of a GPU are shared, since a job may end soon
_LARGEST_CREDIT = 256.0  # rows: enough for a Predict at once


@dataclass(slots=True)
class _Prefix:
    """One set of a job's draws: what was handed out, what came back, and the votes of the prefix."""

    total: int
    tally: npt.NDArray[np.int64]
    handed_out: int = 0
    counted: int = 0
    early: dict[int, npt.NDArray[np.uint16]] = field(default_factory=dict)

    def arrive(self, first: int, labels: npt.NDArray[np.uint16], stops: Sequence[int]) -> list[Votes]:
        """Count what the labels add to the prefix; the votes at each of `stops` that it passes."""
        if first >= self.counted:
            self.early.setdefault(first, labels)
        passed: list[Votes] = []
        while (labels := self.early.pop(self.counted, _NOTHING)).size:
            while labels.size:
                look = bisect_right(stops, self.counted)
                stop = stops[look] if look < len(stops) else self.total
                head, labels = labels[: stop - self.counted], labels[stop - self.counted :]
                self.tally += np.bincount(head, minlength=self.tally.size)
                self.counted += head.size
                if self.counted == stop and look < len(stops):
                    passed.append(Votes.of(self.tally))
        return passed


@dataclass(slots=True)
class _Job:
    selection: _Prefix
    estimation: _Prefix
    looks: Sequence[int]
    seen: list[Votes] = field(default_factory=list)  # looks that nobody has been told of

    @property
    def small(self) -> bool:
        return self.selection.total + self.estimation.total <= SMALL_JOB

    def unscheduled(self) -> int:
        return sum(p.total - p.handed_out for p in (self.selection, self.estimation))


class Scheduler:
    """Slices for the executor, evidence for the plans.

    Args:
        num_classes: labels are 0..num_classes - 1, and num_classes for a draw without finite logits.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._jobs: dict[int, _Job] = {}
        self._small: dict[int, None] = {}  # lanes: jobs in the order of their turns
        self._large: dict[int, None] = {}
        self._waiting = 0
        self._returned: deque[Slice] = deque()
        self._credit = 0.0  # rows that the small jobs have left of their half of the latest batches

    @property
    def waiting(self) -> int:
        """Draws not yet handed out."""
        return self._waiting

    def ahead_of(self, draws: int) -> int:
        """About how many waiting draws of other jobs run before a new job of `draws` is through.

        Jobs of a lane take turns, so each runs as many as the new one at most. A small job shares its batches with
        the large ones, half and half.
        """
        if draws <= SMALL_JOB:
            others = sum(min(draws, self._jobs[job].unscheduled()) for job in self._small)
            return others + (others + draws if self._large else 0)
        small = sum(self._jobs[job].unscheduled() for job in self._small)
        return small + sum(min(draws, self._jobs[job].unscheduled()) for job in self._large)

    def add(self, job: int, *, n0: int, looks: Sequence[int]) -> None:
        """Queue a job: `n0` selection draws (may be 0) and estimation draws up to the last of `looks`."""
        if job in self._jobs:
            raise ValueError(f"job {job} is already known")
        n = looks[-1]
        self._jobs[job] = _Job(self._prefix(n0), self._prefix(n), looks)
        self._waiting += n0 + n
        (self._small if self._jobs[job].small else self._large)[job] = None

    def cancel(self, job: int) -> None:
        """Forget a job, whatever its state; labels still to come for it are dropped. Unknown jobs are ignored."""
        known = self._jobs.pop(job, None)
        if known is None:
            return
        self._waiting -= known.unscheduled()
        self._small.pop(job, None)
        self._large.pop(job, None)
        if self._returned:
            self._waiting -= sum(piece.count for piece in self._returned if piece.job == job)
            self._returned = deque(piece for piece in self._returned if piece.job != job)

    @property
    def has_returned(self) -> bool:
        """Whether the next batch is a slice that was put back."""
        return bool(self._returned)

    def next_batch(self, rows: int) -> tuple[Slice, ...]:
        """At most `rows` draws to run now; empty if none wait. A slice that was put back is a batch of its own."""
        if self._returned:
            self._waiting -= self._returned[0].count
            return (self._returned.popleft(),)
        shares: dict[tuple[int, DrawSet], list[int]] = {}
        if not self._large:
            self._fill(self._small, rows, shares)
        else:
            half = rows / 2
            for_small = min(rows, int(half + self._credit))
            spent = for_small - self._fill(self._small, for_small, shares)
            self._credit = min(max(self._credit + half - spent, 0.0), _LARGEST_CREDIT)
            self._fill(self._small, self._fill(self._large, rows - spent, shares), shares)
        return tuple(Slice(job, draws, first, count) for (job, draws), (first, count) in shares.items())

    def put_back(self, piece: Slice) -> None:
        """Run a slice again, in a batch of its own. Ignored where its job is gone."""
        if piece.job in self._jobs:
            self._waiting += piece.count
            self._returned.append(piece)

    def record(self, piece: Slice, labels: npt.NDArray[np.uint16]) -> list[tuple[Votes, Votes]]:
        """Count a slice's labels; selection and estimation votes at every look newly reached, in order."""
        job = self._jobs.get(piece.job)
        if job is None:
            return []
        if labels.shape != (piece.count,):
            raise ValueError(f"expected {piece.count} labels for {piece}, got an array of shape {labels.shape}")
        if piece.draws is DrawSet.SELECTION:
            job.selection.arrive(piece.first, labels, ())
        else:
            job.seen += job.estimation.arrive(piece.first, labels, job.looks)
        if not job.seen or job.selection.counted < job.selection.total:
            return []
        selection = Votes.of(job.selection.tally)
        news, job.seen = job.seen, []
        return [(selection, votes) for votes in news]

    def counted(self, job: int) -> int:
        """How many of a job's draws have been counted."""
        known = self._jobs.get(job)
        return known.selection.counted + known.estimation.counted if known else 0

    def _prefix(self, total: int) -> _Prefix:
        return _Prefix(total, np.zeros(self._num_classes + 1, dtype=np.int64))

    def _fill(self, lane: dict[int, None], rows: int, shares: dict[tuple[int, DrawSet], list[int]]) -> int:
        """Hand out up to `rows` draws of the lane's jobs, in turns; how many rows are left."""
        while rows and lane:
            number = next(iter(lane))
            job = self._jobs[number]
            draws, prefix = (DrawSet.SELECTION, job.selection)
            if prefix.handed_out == prefix.total:
                draws, prefix = (DrawSet.ESTIMATION, job.estimation)
            turn = _SMALL_TURN if job.small else _LARGE_TURN
            count = min(rows, turn, prefix.total - prefix.handed_out)
            if count:
                shares.setdefault((number, draws), [prefix.handed_out, 0])[1] += count
                prefix.handed_out += count
                self._waiting -= count
                rows -= count
            del lane[number]
            if job.unscheduled():
                lane[number] = None
        return rows


_NOTHING = np.zeros(0, dtype=np.uint16)
