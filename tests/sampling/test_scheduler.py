"""What runs next, and what is counted: each rule of the scheduler on its own."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from certserve.sampling.scheduler import SMALL_JOB, Scheduler
from certserve.sampling.slices import DrawSet, Slice

if TYPE_CHECKING:
    from certserve.smoothing.outcomes import Votes
    from tests.sampling.conftest import Bench

SELECTION, ESTIMATION = DrawSet.SELECTION, DrawSet.ESTIMATION
ROWS = 128
LARGE = SMALL_JOB + 1
CREDIT = 256
"""Rows that small jobs may take beyond their half, having left them before."""


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler(num_classes=3)


def _shares(batch: tuple[Slice, ...]) -> Counter[int]:
    shares: Counter[int] = Counter()
    for piece in batch:
        shares[piece.job] += piece.count
    return shares


def _record(scheduler: Scheduler, bench: Bench, piece: Slice) -> list[tuple[Votes, Votes]]:
    return scheduler.record(piece, bench.labels(piece.job, piece.draws, piece.first, piece.count))


class TestWhatRunsNext:
    def test_nothing_waits_in_the_beginning(self, scheduler: Scheduler) -> None:
        assert scheduler.next_batch(ROWS) == ()
        assert scheduler.waiting == 0

    def test_selection_comes_before_estimation_and_both_share_a_batch(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=10, looks=[20])
        assert scheduler.next_batch(ROWS) == (Slice(1, SELECTION, 0, 10), Slice(1, ESTIMATION, 0, 20))
        assert scheduler.next_batch(ROWS) == ()

    def test_without_selection_draws_estimation_begins(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=0, looks=[20])
        assert scheduler.next_batch(ROWS) == (Slice(1, ESTIMATION, 0, 20),)

    def test_a_long_job_is_cut_into_consecutive_slices(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=0, looks=[300])
        batches = [scheduler.next_batch(ROWS) for _ in range(4)]
        assert batches == [
            (Slice(1, ESTIMATION, 0, 128),),
            (Slice(1, ESTIMATION, 128, 128),),
            (Slice(1, ESTIMATION, 256, 44),),
            (),
        ]

    def test_a_small_job_gets_half_of_a_batch_while_a_large_one_waits(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=0, looks=[LARGE])
        scheduler.add(2, n0=100, looks=[SMALL_JOB - 100])
        assert _shares(scheduler.next_batch(ROWS)) == {1: 64, 2: 64}

    def test_small_jobs_get_all_of_it_otherwise(self, scheduler: Scheduler) -> None:
        scheduler.add(2, n0=0, looks=[SMALL_JOB])
        assert _shares(scheduler.next_batch(ROWS)) == {2: ROWS}

    def test_a_large_job_gets_all_of_it_while_no_small_one_waits(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=0, looks=[LARGE])
        assert _shares(scheduler.next_batch(ROWS)) == {1: ROWS}

    def test_large_jobs_take_turns_of_128(self, scheduler: Scheduler) -> None:
        """A small batch is not cut in pieces, and a large one does not run far ahead of what a job may need."""
        for job in range(4):
            scheduler.add(job, n0=0, looks=[LARGE])
        assert [_shares(scheduler.next_batch(64)) for _ in range(5)] == [{0: 64}, {1: 64}, {2: 64}, {3: 64}, {0: 64}]
        assert [_shares(scheduler.next_batch(128)) for _ in range(3)] == [{1: 128}, {2: 128}, {3: 128}]
        assert _shares(scheduler.next_batch(512)) == dict.fromkeys(range(4), 128)

    def test_small_jobs_share_a_batch_of_64(self, scheduler: Scheduler) -> None:
        for job in range(2):
            scheduler.add(job, n0=0, looks=[SMALL_JOB])
        assert _shares(scheduler.next_batch(64)) == {0: 32, 1: 32}

    @pytest.mark.parametrize(("small", "large", "expected"), [(10, 9_000, 118), (1_000, 9_000, 64)])
    def test_what_small_jobs_leave_goes_to_large_ones(
        self, scheduler: Scheduler, small: int, large: int, expected: int
    ) -> None:
        scheduler.add(1, n0=0, looks=[small])
        scheduler.add(2, n0=0, looks=[large])
        assert _shares(scheduler.next_batch(ROWS)) == {1: ROWS - expected, 2: expected}

    def test_what_large_jobs_leave_goes_to_small_ones(self, scheduler: Scheduler) -> None:
        scheduler.add(0, n0=0, looks=[40 * ROWS // 2 + 20])
        scheduler.add(1, n0=0, looks=[SMALL_JOB])
        scheduler.add(2, n0=0, looks=[SMALL_JOB])
        for _ in range(40):
            assert _shares(scheduler.next_batch(ROWS))[0] == ROWS // 2
        shares = _shares(scheduler.next_batch(ROWS))
        assert (shares[0], shares[1] + shares[2]) == (20, ROWS - 20)

    def test_what_small_jobs_left_of_their_half_they_may_take_later(self, scheduler: Scheduler) -> None:
        """A small job that comes alone has whole batches to itself: fails if it waits for half of each."""
        scheduler.add(1, n0=0, looks=[20 * LARGE])
        for _ in range(2):
            assert _shares(scheduler.next_batch(ROWS)) == {1: ROWS}
        scheduler.add(2, n0=0, looks=[SMALL_JOB])
        batches = [_shares(scheduler.next_batch(ROWS)) for _ in range(5)]
        assert batches == [{2: 128}, {2: 128}, *[{1: 64, 2: 64}] * 3]

    def test_what_they_may_take_later_is_limited(self, scheduler: Scheduler) -> None:
        """However long they were away: 256 rows beyond their half, and no more."""
        scheduler.add(1, n0=0, looks=[20 * LARGE])
        for _ in range(100):
            scheduler.next_batch(ROWS)
        scheduler.add(2, n0=0, looks=[SMALL_JOB])
        got = sum((_shares(scheduler.next_batch(ROWS)) for _ in range(10)), Counter[int]())
        assert got == {1: 5 * ROWS - CREDIT, 2: 5 * ROWS + CREDIT}

    def test_nothing_is_left_to_take_while_no_large_job_waits(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=0, looks=[10])
        for _ in range(100):
            scheduler.next_batch(ROWS)
        scheduler.add(2, n0=0, looks=[LARGE])
        scheduler.add(3, n0=0, looks=[SMALL_JOB])
        assert _shares(scheduler.next_batch(ROWS)) == {2: 64, 3: 64}

    def test_the_size_that_counts_is_that_of_the_whole_job(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=100, looks=[SMALL_JOB - 99])
        scheduler.add(2, n0=0, looks=[SMALL_JOB])
        assert _shares(scheduler.next_batch(ROWS)) == {1: 64, 2: 64}

    @pytest.mark.parametrize("rows", [1, 2, 3, 7, 32, 128])
    @pytest.mark.parametrize("lanes", [[5_000, 100], [100, 100], [5_000, 5_000], [5_000], [100]])
    def test_a_batch_holds_its_rows_or_all_that_waits(self, scheduler: Scheduler, rows: int, lanes: list[int]) -> None:
        for job, draws in enumerate(lanes):
            scheduler.add(job, n0=3, looks=[draws])
        for _ in range(5):
            waiting = scheduler.waiting
            assert _shares(scheduler.next_batch(rows)).total() == min(rows, waiting)
            assert scheduler.waiting == max(waiting - rows, 0)


class TestTurns:
    @pytest.mark.parametrize("rows", [1, 2, 5, 32, 128])
    @pytest.mark.parametrize("draws", [SMALL_JOB, LARGE])
    def test_jobs_of_a_lane_advance_together(self, scheduler: Scheduler, rows: int, draws: int) -> None:
        for job in range(5):
            scheduler.add(job, n0=0, looks=[draws])
        got = {job: 0 for job in range(5)}
        for _ in range(960 // rows):
            for job, share in _shares(scheduler.next_batch(rows)).items():
                got[job] += share
        assert max(got.values()) - min(got.values()) <= 32 + rows

    @pytest.mark.parametrize("rows", [1, 2, 3, 8, 128])
    def test_no_stream_of_small_jobs_starves_a_large_one(self, scheduler: Scheduler, rows: int) -> None:
        scheduler.add(0, n0=0, looks=[10 * LARGE])
        got: Counter[int] = Counter()
        for batch in range(100):
            scheduler.add(batch + 1, n0=0, looks=[SMALL_JOB])
            got += _shares(scheduler.next_batch(rows))
        assert got.total() == 100 * rows
        assert got[0] == 50 * rows

    @pytest.mark.parametrize("rows", [1, 3, 8, 64, 128])
    @pytest.mark.parametrize("pause", [0, 1, 2, 7, 40])
    def test_small_jobs_never_have_more_than_half_and_what_they_left(
        self, scheduler: Scheduler, rows: int, pause: int
    ) -> None:
        """From any batch on, however they come and go: half of the rows, and the credit at most."""
        scheduler.add(0, n0=0, looks=[200 * LARGE])
        beyond = 0.0
        for batch in range(200):
            if batch % (pause + 1) == 0:
                scheduler.add(batch + 1, n0=0, looks=[4 * rows])
            shares = _shares(scheduler.next_batch(rows))
            assert shares.total() == rows
            beyond = max(beyond + (rows - shares[0]) - rows / 2, 0.0)
            assert beyond <= CREDIT + 0.5

    @pytest.mark.parametrize("rows", [1, 2, 3, 8, 128])
    def test_no_large_job_holds_back_a_small_one(self, scheduler: Scheduler, rows: int) -> None:
        for job in range(1, 10):
            scheduler.add(job, n0=0, looks=[10 * LARGE])
        scheduler.next_batch(rows)
        scheduler.add(0, n0=0, looks=[rows])
        got: Counter[int] = Counter()
        for _ in range(3):
            got += _shares(scheduler.next_batch(rows))
        assert got[0] == rows


class TestPuttingBack:
    def test_a_returned_slice_runs_next_and_alone(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=5, looks=[1_000])
        scheduler.add(2, n0=0, looks=[1_000])
        first = scheduler.next_batch(ROWS)
        for piece in first:
            scheduler.put_back(piece)
        assert [scheduler.next_batch(ROWS) for _ in first] == [(piece,) for piece in first]
        assert _shares(scheduler.next_batch(ROWS)).total() == ROWS

    def test_it_is_told_that_one_runs_next(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=0, looks=[200])
        (piece,) = scheduler.next_batch(ROWS)
        assert not scheduler.has_returned
        scheduler.put_back(piece)
        assert scheduler.has_returned
        scheduler.next_batch(ROWS)
        assert not scheduler.has_returned
        scheduler.put_back(piece)
        scheduler.cancel(1)
        assert not scheduler.has_returned

    def test_it_waits_again(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=0, looks=[200])
        (piece,) = scheduler.next_batch(ROWS)
        assert scheduler.waiting == 72
        scheduler.put_back(piece)
        assert scheduler.waiting == 200

    def test_it_is_dropped_when_its_job_is_gone(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=0, looks=[200])
        (piece,) = scheduler.next_batch(ROWS)
        scheduler.cancel(1)
        scheduler.put_back(piece)
        assert scheduler.next_batch(ROWS) == ()


class TestCancelling:
    def test_a_job_that_has_not_begun(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=0, looks=[200])
        scheduler.add(2, n0=0, looks=[LARGE])
        scheduler.cancel(1)
        assert _shares(scheduler.next_batch(ROWS)) == {2: ROWS}

    def test_a_job_that_is_half_handed_out(self, scheduler: Scheduler, bench: Bench) -> None:
        scheduler.add(1, n0=0, looks=[200])
        (piece,) = scheduler.next_batch(ROWS)
        scheduler.cancel(1)
        assert scheduler.waiting == 0
        assert scheduler.next_batch(ROWS) == ()
        assert _record(scheduler, bench, piece) == []
        assert scheduler.counted(1) == 0

    def test_a_job_with_a_returned_slice(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=0, looks=[200])
        scheduler.add(2, n0=0, looks=[200])
        for piece in scheduler.next_batch(ROWS):
            scheduler.put_back(piece)
        scheduler.cancel(1)
        assert scheduler.waiting == 200
        assert _shares(scheduler.next_batch(ROWS)).keys() == {2}

    def test_a_job_that_is_done(self, scheduler: Scheduler, bench: Bench) -> None:
        scheduler.add(1, n0=0, looks=[20])
        (piece,) = scheduler.next_batch(ROWS)
        assert _record(scheduler, bench, piece) == bench.news(1, 0, [20])
        scheduler.cancel(1)
        assert scheduler.counted(1) == 0

    def test_a_job_nobody_knows_or_twice(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=0, looks=[20])
        scheduler.cancel(7)
        scheduler.cancel(1)
        scheduler.cancel(1)
        assert scheduler.next_batch(ROWS) == ()

    def test_the_number_is_free_again(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=0, looks=[20])
        with pytest.raises(ValueError, match="already known"):
            scheduler.add(1, n0=0, looks=[20])
        scheduler.cancel(1)
        scheduler.add(1, n0=0, looks=[30])
        assert scheduler.next_batch(ROWS) == (Slice(1, ESTIMATION, 0, 30),)


class TestCounting:
    LOOKS = (1, 31, 32, 33, 64, 100)

    def _slices(self, scheduler: Scheduler, rows: int = 10) -> list[Slice]:
        scheduler.add(1, n0=15, looks=self.LOOKS)
        slices: list[Slice] = []
        while batch := scheduler.next_batch(rows):
            slices += batch
        return slices

    @pytest.mark.parametrize("rows", [1, 7, 32, 64, 200])
    def test_every_look_is_reported_at_exactly_its_draw(self, scheduler: Scheduler, bench: Bench, rows: int) -> None:
        found: list[tuple[Votes, Votes]] = []
        for piece in self._slices(scheduler, rows):
            found += _record(scheduler, bench, piece)
        assert found == bench.news(1, 15, self.LOOKS[:6])
        assert scheduler.counted(1) == 115

    @pytest.mark.parametrize("stride", [1, 3, 5, 7])
    def test_labels_may_come_back_in_any_order(self, scheduler: Scheduler, bench: Bench, stride: int) -> None:
        slices = self._slices(scheduler)
        assert len(slices) % stride or stride == 1
        found: list[tuple[Votes, Votes]] = []
        for i in range(len(slices)):
            found += _record(scheduler, bench, slices[-1 - i * stride % len(slices)])
        assert found == bench.news(1, 15, self.LOOKS[:6])

    def test_only_the_prefix_is_counted(self, scheduler: Scheduler, bench: Bench) -> None:
        scheduler.add(1, n0=0, looks=[300])
        first, second, third = (scheduler.next_batch(100)[0] for _ in range(3))
        assert _record(scheduler, bench, third) == []
        assert scheduler.counted(1) == 0
        assert _record(scheduler, bench, first) == []
        assert scheduler.counted(1) == 100
        assert _record(scheduler, bench, second) == bench.news(1, 0, [300])
        assert scheduler.counted(1) == 300

    def test_selection_that_is_not_complete_holds_evidence_back(self, scheduler: Scheduler, bench: Bench) -> None:
        slices = self._slices(scheduler)
        *selection, last = [piece for piece in slices if piece.draws is SELECTION]
        estimation = [piece for piece in slices if piece.draws is ESTIMATION]
        for piece in [*estimation, *selection]:
            assert _record(scheduler, bench, piece) == []
        assert _record(scheduler, bench, last) == bench.news(1, 15, self.LOOKS[:6])

    def test_labels_that_come_twice_count_once(self, scheduler: Scheduler, bench: Bench) -> None:
        found: list[tuple[Votes, Votes]] = []
        for piece in reversed(self._slices(scheduler)):
            found += _record(scheduler, bench, piece)
            found += _record(scheduler, bench, piece)
        assert found == bench.news(1, 15, self.LOOKS[:6])
        assert scheduler.counted(1) == 115
        assert not scheduler._jobs[1].estimation.early

    def test_a_wrong_number_of_labels_is_an_error(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=0, looks=[20])
        (piece,) = scheduler.next_batch(ROWS)
        with pytest.raises(ValueError, match="expected 20 labels"):
            scheduler.record(piece, np.zeros(19, np.uint16))
        assert scheduler.counted(1) == 0

    def test_draws_without_finite_logits_are_in_the_total_and_of_no_class(self, scheduler: Scheduler) -> None:
        scheduler.add(1, n0=0, looks=[20])
        (piece,) = scheduler.next_batch(ROWS)
        (found,) = scheduler.record(piece, np.array([3] * 5 + [2] * 15, np.uint16))
        _, votes = found
        assert (votes.counts, votes.non_finite, votes.total) == ((0, 0, 15), 5, 20)
