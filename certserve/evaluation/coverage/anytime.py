"""AnytimePredict between two classes: how often it names the wrong one, and after how many draws.

A candidate's test is a walk that ends where the candidate is shown, and gives up where, at a doubling, the other
class has come to lead: from there the other one is tested, on fresh draws, with the votes so far as its prior.
All that matters of the past is which class is tested, the votes before, and the how-manieth candidate it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from certserve.evaluation.coverage.rates import Coverage, Rate, Report, not_below, sequential_alpha
from certserve.smoothing.eprocess import EProcess, crossing_level, informed_priors
from certserve.smoothing.plans import AnytimePredict
from certserve.smoothing.schedules import EveryLook
from certserve.smoothing.stopping import GivingUp, smallest_counts, stopping_law

__all__ = ["anytime_coverage"]

Counts = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

_UNLIKELY = 1e-6
_FOLLOWED = 64  # candidates for one class from one doubling on: between equal classes there would be thousands


class _Candidate(NamedTuple):
    """Which class is tested, with how many votes before, and which candidate it is; the top class is number 1."""

    label: int
    votes: int
    stage: int


class _Boundaries:
    """Where one candidate is shown, or replaced; in its fresh votes.

    Args:
        known: votes of both before. start: estimation draws before. Equal votes go to class 0.
    """

    def __init__(self, plan: AnytimePredict, candidate: _Candidate, start: int) -> None:
        self._every = plan.schedule.every
        self._n = plan.n
        self._start = start
        self._label = candidate.label
        self._mine, self._others = candidate.votes, plan.n0 + start - candidate.votes
        self._level = crossing_level(plan.alpha / (candidate.stage * (candidate.stage + 1)))

    def upper(self, looks: Counts) -> Counts:
        """Against the other class, and against those that nobody votes for."""
        rival = EProcess(0.5, informed_priors(self._mine, self._others))
        nobody = EProcess(0.5, informed_priors(self._mine, 0))

        def shown(votes: Counts, look: Counts) -> npt.NDArray[np.bool_]:
            against = rival.log_value(votes, look - votes) >= self._level
            return against & (nobody.log_value(votes, np.zeros_like(votes)) >= self._level)

        return smallest_counts(shown, looks, looks // 2)

    def lower(self, looks: Counts) -> Counts:
        """At a doubling before the last look: the other class leads all votes."""
        behind = (self._others - self._mine + looks - (self._label == 0)) // 2
        steps, rest = np.divmod(self._start + looks, self._every)
        doubling = (rest == 0) & (steps & (steps - 1) == 0) & (self._start + looks < self._n)
        return np.where(doubling, np.clip(behind, -1, looks), -1)


class _Run:
    """All candidates of a plan, followed from doubling to doubling.

    Attributes:
        shown: P(class 0 is named) and P(class 1 is), of shape (2, shares). draws: estimation draws.
        left_out: what the least probable candidates, not followed, may add to the errors; they draw on to the end.
        candidates: how many were followed.
    """

    def __init__(self, plan: AnytimePredict, shares: Reals) -> None:
        self._plan = plan
        self._shares = shares
        self.shown = np.zeros((2, len(shares)))
        self.draws = np.zeros(len(shares))
        self.left_out = np.zeros(len(shares))
        self.candidates = 0
        self._waiting: dict[int, dict[_Candidate, Reals]] = defaultdict(dict)
        votes = binom.pmf(np.arange(plan.n0 + 1), plan.n0, shares[:, None])
        for k in range(plan.n0 + 1):
            label = int(2 * k > plan.n0)
            self._waiting[0][_Candidate(label, k if label else plan.n0 - k, 1)] = votes[:, k]

    def follow(self, report: Report) -> None:
        """Until nobody waits; the last candidates have the longest way."""
        starts = [0] + [16 << i for i in range(64) if 16 << i < self._plan.n]
        for done, start in enumerate(starts):
            report(done, len(starts))
            self._follow(start, self._waiting.pop(start, {}))

    def _follow(self, start: int, waiting: dict[_Candidate, Reals]) -> None:
        for label in (0, 1):
            mine = sorted((c for c in waiting if c.label == label), key=lambda c: -float(waiting[c].max()))
            kept = [c for c in mine if waiting[c].max() > _UNLIKELY][: _FOLLOWED if start else None]
            for candidate in mine[len(kept) :]:
                # All that it and those after it may spend: alpha / (j (j + 1)), summed from its stage on.
                self.left_out += waiting[candidate] * self._plan.alpha / candidate.stage
                self.draws += waiting[candidate] * (self._plan.n - start)
            if kept:
                self._test(start, kept, np.stack([waiting[c] for c in kept], axis=1))

    def _test(self, start: int, candidates: Sequence[_Candidate], weights: Reals) -> None:
        plan, label = self._plan, candidates[0].label

        def replace(event: GivingUp) -> None:
            old = candidates[event.procedure]
            now = start + event.draws
            for successes, weight in zip(event.successes.tolist(), event.probabilities.T, strict=True):
                new = _Candidate(1 - label, plan.n0 + now - old.votes - successes, old.stage + 1)
                self._waiting[now][new] = self._waiting[now].get(new, 0.0) + weight

        shares = self._shares if label == 1 else 1.0 - self._shares
        boundaries = [_Boundaries(plan, candidate, start) for candidate in candidates]
        looks = EveryLook(plan.schedule.every, plan.n - start)
        law = stopping_law(boundaries, looks, weights, shares, 0.5, replace)
        self.shown[label] += law.claimed
        self.draws += law.mean_draws
        self.candidates += len(candidates)


def anytime_coverage(plan: AnytimePredict, shares: Sequence[float], report: Report) -> Coverage:
    """What `AnytimePredict` does where there are two classes, and the top one has each of these true probabilities.

    Raises:
        ValueError: a probability outside [0.5, 1), or an alpha below 1e-6.
    """
    sequential_alpha(plan.alpha)
    truths = np.array(shares)
    if not ((truths >= 0.5) & (truths < 1.0)).all():
        raise ValueError(f"the top class's probability must lie in [0.5, 1), not {truths.tolist()!r}")
    run = _Run(plan, truths)
    run.follow(report)
    wrong = run.shown[0] + np.where(truths == 0.5, run.shown[1], 0.0)
    rates = tuple(
        Rate(
            p,
            not_below(float(wrong[i]), run.candidates, float(run.left_out[i])),
            min(1.0, float(run.shown[:, i].sum())),
            plan.n0 + float(run.draws[i]),
        )
        for i, p in enumerate(truths.tolist())
    )
    return Coverage(plan.name, plan.n0, plan.n, plan.alpha, rates, _WRONG, _NAMED, "likewise, an upper bound")


_WRONG = (
    "that a class other than the top one is named; at p = 0.5 neither is the top one. Exact for two classes with p and "
    "1 - p, selection and changes of candidate included (equal votes go to the wrong class), but for the least "
    "probable changes, which count with all that they may spend: an upper bound; with more classes it is not "
    "computed, and at most alpha too"
)
_NAMED = "that a class is named: likewise, a lower bound"
