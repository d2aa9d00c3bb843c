"""The scheduler against a model of it: whatever happens in whatever order, every draw is counted exactly once.

Labels are a pure function of (job, set, index), so the evidence of a job is known beforehand; that it comes out
whatever else is added, cancelled, put back or late is what lets batch-mates not notice each other. Beside that,
neither small jobs nor large ones are held back by the others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from certserve.sampling.scheduler import SMALL_JOB, Scheduler
from certserve.sampling.slices import DrawSet, Slice
from certserve.smoothing.outcomes import Votes

CLASSES = 2
CREDIT = 256

_LOOKS = st.one_of(
    st.sets(st.integers(1, 150), min_size=1, max_size=4),
    st.sets(st.integers(1, 60), max_size=2).map(lambda looks: looks | {SMALL_JOB + 1}),
).map(lambda looks: tuple(sorted(looks)))


def label(job: int, draws: DrawSet, i: int) -> int:
    """0..CLASSES, CLASSES for a draw without finite logits."""
    return (i * i + 3 * job + i // 7 + (draws is DrawSet.SELECTION)) % (CLASSES + 1)


def labels(piece: Slice) -> npt.NDArray[np.uint16]:
    """What an executor gives for a slice."""
    drawn = range(piece.first, piece.first + piece.count)
    return np.array([label(piece.job, piece.draws, i) for i in drawn], np.uint16)


def votes(job: int, draws: DrawSet, total: int) -> Votes:
    """The votes of the first `total` draws, counted one by one."""
    counts = [0] * (CLASSES + 1)
    for i in range(total):
        counts[label(job, draws, i)] += 1
    return Votes(tuple(counts[:CLASSES]), counts[CLASSES])


class SchedulerMachine(RuleBasedStateMachine):
    """`out` is with the executor, `returned` waits to run alone, `arrived` has been recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(CLASSES)
        self.plans: dict[int, tuple[int, tuple[int, ...]]] = {}
        self.started = 0
        self.out: list[Slice] = []
        self.returned: list[Slice] = []
        self.arrived: list[Slice] = []
        self.handed: dict[tuple[int, DrawSet], int] = {}
        self.news: dict[int, list[tuple[Votes, Votes]]] = {}
        self.beyond = 0.0  # rows that small jobs had beyond half of the latest batches for which large ones waited

    @rule(n0=st.integers(0, 40), looks=_LOOKS)
    def add(self, n0: int, looks: tuple[int, ...]) -> None:
        job, self.started = self.started, self.started + 1
        self.scheduler.add(job, n0=n0, looks=looks)
        self.plans[job] = (n0, looks)
        self.news[job] = []

    @precondition(lambda self: self.plans)
    @rule(pick=st.integers(0))
    def cancel(self, pick: int) -> None:
        job = sorted(self.plans)[pick % len(self.plans)]
        self.scheduler.cancel(job)
        del self.plans[job], self.news[job]
        self.returned = [piece for piece in self.returned if piece.job != job]

    @rule(rows=st.sampled_from([1, 2, 3, 31, 32, 33, 100, 700]))
    def next_batch(self, rows: int) -> None:
        batch = self.scheduler.next_batch(rows)
        if self.returned:
            assert batch == (self.returned.pop(0),)
        else:
            assert sum(piece.count for piece in batch) == min(rows, self._unscheduled())
            small, large = self._unscheduled(small=True), self._unscheduled(small=False)
            for piece in batch:
                self._hand_out(piece)
            self._divided(rows, small, large)
        self.out += batch

    def _divided(self, rows: int, small: int, large: int) -> None:
        """Each lane had its half if it could use it; small jobs had what they left before, and not more."""
        for_small = small - self._unscheduled(small=True)
        assert for_small >= min(rows // 2, small)
        if not large:
            return
        self.beyond = max(self.beyond + for_small - rows / 2, 0.0)
        if not self._unscheduled(small=False):
            self.beyond = 0.0  # the large ones left some of theirs
        assert self.beyond <= CREDIT

    def _hand_out(self, piece: Slice) -> None:
        """A new slice begins where the last one of its set ended, and stays within the plan."""
        n0, looks = self.plans[piece.job]
        begin = self.handed.get((piece.job, piece.draws), 0)
        assert piece.first == begin
        assert 0 < piece.count <= (n0 if piece.draws is DrawSet.SELECTION else looks[-1]) - begin
        self.handed[piece.job, piece.draws] = begin + piece.count

    @precondition(lambda self: self.out)
    @rule(pick=st.integers(0), times=st.integers(1, 2))
    def record(self, pick: int, times: int) -> None:
        piece = self.out.pop(pick % len(self.out))
        self.arrived.append(piece)
        for _ in range(times):
            news = self.scheduler.record(piece, labels(piece))
            self.news.get(piece.job, []).extend(news)
            assert not news or piece.job in self.plans

    @precondition(lambda self: self.out)
    @rule(pick=st.integers(0))
    def put_back(self, pick: int) -> None:
        piece = self.out.pop(pick % len(self.out))
        self.scheduler.put_back(piece)
        if piece.job in self.plans:
            self.returned.append(piece)

    @invariant()
    def waiting_is_what_was_not_handed_out(self) -> None:
        assert self.scheduler.waiting == self._unscheduled() + sum(piece.count for piece in self.returned)

    @invariant()
    def the_prefix_is_counted_once_and_every_look_sees_exactly_its_draws(self) -> None:
        for job, (n0, looks) in self.plans.items():
            selection, estimation = self._prefix(job, DrawSet.SELECTION), self._prefix(job, DrawSet.ESTIMATION)
            assert self.scheduler.counted(job) == selection + estimation
            reached = [look for look in looks if look <= estimation] if selection == n0 else []
            seen = tuple(votes(job, DrawSet.ESTIMATION, look) for look in reached)
            chosen = votes(job, DrawSet.SELECTION, n0)
            assert self.news[job] == [(chosen, votes) for votes in seen]

    def teardown(self) -> None:
        """Whatever has happened, all jobs that were not cancelled end."""
        while self.scheduler.waiting:
            self.next_batch(64)
        while self.out:
            self.record(0, 1)
        self.the_prefix_is_counted_once_and_every_look_sees_exactly_its_draws()
        for job, (n0, looks) in self.plans.items():
            assert len(self.news[job]) == len(looks)
            assert self.scheduler.counted(job) == n0 + looks[-1]

    def _unscheduled(self, small: bool | None = None) -> int:
        """Draws not yet handed out; only those of small jobs, or only those of large ones."""
        sizes = {job: n0 + looks[-1] for job, (n0, looks) in self.plans.items()}
        of_kind = {job: size for job, size in sizes.items() if small in (None, size <= SMALL_JOB)}
        return sum(of_kind.values()) - sum(count for (job, _), count in self.handed.items() if job in of_kind)

    def _prefix(self, job: int, draws: DrawSet) -> int:
        """How many draws have arrived with all before them."""
        end = 0
        for first, count in sorted((s.first, s.count) for s in self.arrived if (s.job, s.draws) == (job, draws)):
            if first == end:
                end = first + count
        return end


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
