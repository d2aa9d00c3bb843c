"""AnytimePredict: the smoothed classifier's label, after a few dozen draws where the image is easy.

The candidate leads the votes so far; fresh draws then test it against every other class, and against the draws
without finite logits: of the draws that voted for one of the two, does it get more than half? It is wrong only if
the test against the true top class errs, so the number of classes costs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from certserve.smoothing.eprocess import SLACK, EProcess, crossing_level, informed_priors
from certserve.smoothing.outcomes import Abstention, Bound, Case, Prediction, Schedule, Undecided, Votes
from certserve.smoothing.plans.plan import check_alpha, check_draws, stated
from certserve.smoothing.schedules import EveryLook

__all__ = ["AnytimePredict", "AnytimePredictDecider"]

_EVERY = 16


@dataclass(frozen=True, slots=True)
class AnytimePredict:
    """Predict as soon as the votes allow it.

    The votes are looked at every 16 estimation draws, and at n. At 16, 32, 64, ... draws a class that has come to
    lead all votes so far becomes the candidate in place of the last; the j-th candidate is tested on the draws
    after that, at level alpha / (j (j + 1)).

    Args:
        n0: selection draws, 1..10^7. n: the most estimation draws, 1..10^7.
        alpha: failure probability, in [1e-100, 1).

    Raises:
        ValueError: an argument outside its range.
    """

    name: ClassVar[str] = "anytime-predict"
    bound: ClassVar[Bound] = Bound.BINARY
    schedule: ClassVar[Schedule] = Schedule(every=_EVERY)
    n0: int
    n: int
    alpha: float

    def __post_init__(self) -> None:
        check_draws("n0", self.n0)
        check_draws("n", self.n)
        check_alpha(self.alpha)

    @property
    def looks(self) -> EveryLook:
        return EveryLook(_EVERY, self.n)

    def begin(self, case: Case) -> AnytimePredictDecider:
        """See `Plan`."""
        return AnytimePredictDecider(stated(self, case))


class AnytimePredictDecider:
    """One job of `AnytimePredict`. It may be shown the votes after any draws; the plan says after which."""

    best: ClassVar[None] = None

    def __init__(self, case: Case) -> None:
        self._case = case
        self._candidate: _Candidate | None = None
        self._reselections: list[Votes] = []

    def look(self, selection: Votes, votes: Votes) -> Prediction | Abstention | None:
        """See `Decider`."""
        setting = self._case.setting
        draws = votes.total
        if not 0 < draws <= setting.n:
            raise ValueError(f"{draws} estimation votes were not planned")
        if self._candidate is None:
            if selection.total != setting.n0:
                raise ValueError(f"{selection.total} selection votes, but {setting.n0} draws were planned")
            self._candidate = _Candidate(selection, setting.alpha, 1)
        fresh = votes.since(self._reselections[-1]) if self._reselections else votes
        if self._candidate.is_shown(fresh):
            return self._prediction(self._candidate, fresh, selection, votes)
        if draws == setting.n:
            return self._abstention(self._candidate, fresh, selection, votes)
        if _is_doubling(draws):
            known = selection.with_more(votes)
            if known.top != self._candidate.label:
                self._reselections.append(votes)
                self._candidate = _Candidate(known, setting.alpha, len(self._reselections) + 1)
        return None

    def end(self, reason: str) -> Undecided:
        """See `Decider`."""
        return Undecided(reason, self._case.setting, self._case.origin)

    def _prediction(self, candidate: _Candidate, fresh: Votes, selection: Votes, votes: Votes) -> Prediction:
        case = self._case
        return Prediction(
            label=candidate.label,
            label_name=case.labels[candidate.label],
            p_value=candidate.p_value(fresh),
            votes=votes,
            setting=case.setting,
            origin=case.origin,
            selection=selection,
            reselections=tuple(self._reselections),
        )

    def _abstention(self, candidate: _Candidate, fresh: Votes, selection: Votes, votes: Votes) -> Abstention:
        case = self._case
        return Abstention(
            candidate=candidate.label,
            candidate_name=case.labels[candidate.label],
            selection=selection,
            estimation=(votes,),
            setting=case.setting,
            origin=case.origin,
            p_value=candidate.p_value(fresh),
        )


class _Candidate:
    """The class that leads `known`, tested on draws after those, as the `stage`-th candidate."""

    def __init__(self, known: Votes, alpha: float, stage: int) -> None:
        self.label = known.top
        self._known = known
        self._factor = stage * (stage + 1)
        self._level = crossing_level(alpha / self._factor)
        self._processes: dict[int, EProcess] = {}

    def is_shown(self, fresh: Votes) -> bool:
        """Whether every other class is beaten at the level of this candidate."""
        votes = fresh.counts[self.label]
        if votes * math.log(2.0) < self._level:  # not even if nobody else had a vote
            return False
        hardest = fresh.runner_up(self.label)
        rival = (
            self._known.non_finite if fresh.non_finite == hardest else self._known.counts[self._index(fresh, hardest)]
        )
        if not self._process(rival).reaches(self._level, votes, hardest):  # mostly settles it, before all are asked
            return False
        rivals = self._rivals(fresh).items()
        return all(self._process(known).reaches(self._level, votes, other) for known, other in rivals)

    def p_value(self, fresh: Votes) -> float:
        """The reciprocal of the smallest e-value, times what this candidate's level is divided by; rounded up."""
        votes = fresh.counts[self.label]
        least = min(float(self._process(known).log_value(votes, other)) for known, other in self._rivals(fresh).items())
        return min(1.0, self._factor * math.exp(min(700.0, SLACK - least)))

    def _rivals(self, fresh: Votes) -> dict[int, int]:
        """For each number of votes that an other class had before: the most fresh ones that such a class has.

        The more fresh votes, the harder; the votes before make the prior.
        """
        rivals = {self._known.non_finite: fresh.non_finite}
        for c, (known, count) in enumerate(zip(self._known.counts, fresh.counts, strict=True)):
            if c != self.label:
                rivals[known] = max(count, rivals.get(known, 0))
        return rivals

    def _index(self, fresh: Votes, count: int) -> int:
        """A class other than the candidate with so many fresh votes."""
        first = fresh.counts.index(count)
        return first if first != self.label else fresh.counts.index(count, first + 1)

    def _process(self, known: int) -> EProcess:
        if known not in self._processes:
            self._processes[known] = EProcess(0.5, informed_priors(self._known.counts[self.label], known))
        return self._processes[known]


def _is_doubling(draws: int) -> bool:
    return draws % _EVERY == 0 and (draws // _EVERY).bit_count() == 1
