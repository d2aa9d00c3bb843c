"""Looks: a radius as large as possible, with a valid certificate after each of a few planned looks.

Each look has its own share of alpha and a Clopper-Pearson bound at it. All bounds hold together, so the best of
them may be taken, whoever decides when to stop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from certserve.smoothing.bounds import LARGEST_N, clopper_pearson_lower, clopper_pearson_upper
from certserve.smoothing.decision import certified_probability, conclude, runner_up_probability
from certserve.smoothing.distribution import Gaussian
from certserve.smoothing.outcomes import Abstention, Bound, Case, Certificate, Schedule, Undecided, Votes
from certserve.smoothing.plans.plan import check_alpha, check_draws, check_steps, stated
from certserve.smoothing.schedules import look_alphas, split_alpha

__all__ = ["Looks", "LooksDecider", "plausible_count"]

_PLAUSIBLE = 0.05


@dataclass(frozen=True, slots=True)
class Looks:
    """Certify the largest radius that the draws show, and say so after every look that improves it.

    80 % of alpha is spent at the last look, the rest in equal parts before (`certserve.smoothing.schedules`).

    Args:
        n0: selection draws, 1..10^7.
        looks: numbers of estimation draws at which to look, increasing, in 1..10^7, at most 100; see
            `doubling_looks`.
        alpha: failure probability of all certificates together, in (0, 1); the share of each look, and with
            TWO_CLASS an eighth of it, must be at least 1e-100.
        bound: BINARY or TWO_CLASS.
        precision: stop before the last look where even a plausible course of the remaining draws would add at
            most this to the radius, in input units; 0: go on to the last look. Costs radius, never soundness.

    Raises:
        ValueError: an argument outside its range.
    """

    name: ClassVar[str] = "looks"
    n0: int
    looks: tuple[int, ...]
    alpha: float
    bound: Bound = Bound.BINARY
    precision: float = 0.0

    def __post_init__(self) -> None:
        check_draws("n0", self.n0)
        check_alpha(self.alpha)
        check_steps("looks", self.looks)
        if not self.looks or not 1 <= self.looks[0] <= self.looks[-1] <= LARGEST_N:
            raise ValueError(f"the looks must lie in 1..{LARGEST_N}, and there must be one")
        if not 0.0 <= self.precision < math.inf:
            raise ValueError(f"precision must be finite and not negative, not {self.precision!r}")
        for share in (*self.schedule.alphas, *self.schedule.runner_up_alphas):
            check_alpha(share)

    @property
    def n(self) -> int:
        return self.looks[-1]

    @property
    def schedule(self) -> Schedule:
        alphas = look_alphas(self.alpha, len(self.looks))
        if self.bound is Bound.BINARY:
            return Schedule(alphas=alphas, precision=self.precision)
        label, runner_up = zip(*map(split_alpha, alphas), strict=True)
        return Schedule(alphas=label, runner_up_alphas=runner_up, precision=self.precision)

    def begin(self, case: Case) -> LooksDecider:
        """See `Plan`."""
        return LooksDecider(stated(self, case))


def plausible_count(count: int, draws: int, n: int) -> int:
    """The votes of `n` draws that a class with `count` of `draws` can plausibly come to: by its 95 % upper bound."""
    return min(n, math.ceil(clopper_pearson_upper(count, draws, _PLAUSIBLE) * n))


class LooksDecider:
    """One job of `Looks`."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._seen = 0
        self._lower: tuple[float, Votes] | None = None
        self._upper: tuple[float, Votes] | None = None
        self.best: Certificate | None = None

    def look(self, selection: Votes, votes: Votes) -> Certificate | Abstention | None:
        """See `Decider`."""
        outcome = self._conclude(selection, votes)
        if isinstance(outcome, Certificate) and (self.best is None or outcome.radius > self.best.radius):
            self.best = outcome
        if self._seen == len(self._case.setting.looks) or self._is_precise(selection, votes):
            return self.best or outcome
        return None

    def end(self, reason: str) -> Certificate | Undecided:
        """See `Decider`."""
        return self.best or Undecided(reason, self._case.setting, self._case.origin)

    def _conclude(self, selection: Votes, votes: Votes) -> Certificate | Abstention:
        """What the best bounds so far carry, this look's included."""
        setting, label, look = self._case.setting, selection.top, self._seen
        if selection.total != setting.n0 or votes.total != setting.looks[look]:
            raise ValueError(
                f"{selection.total} selection and {votes.total} estimation votes, "
                f"but {setting.n0} and {setting.looks[look]} draws were planned"
            )
        self._seen += 1
        n, error, schedule = votes.total, setting.arithmetic_error, setting.schedule
        p_lower = certified_probability(votes.counts[label], n, schedule.alphas[look], error)
        if self._lower is None or p_lower > self._lower[0]:
            self._lower = p_lower, votes
        if setting.bound is Bound.BINARY:
            return conclude(selection, (self._lower[1],), self._case, self._lower[0])
        p_upper = runner_up_probability(votes.runner_up(label), n, schedule.runner_up_alphas[look], error)
        if self._upper is None or p_upper < self._upper[0]:
            self._upper = p_upper, votes
        return conclude(selection, (self._lower[1], self._upper[1]), self._case, self._lower[0], self._upper[0])

    def _is_precise(self, selection: Votes, votes: Votes) -> bool:
        """Whether the last look would add at most `precision`, if the shares are as favourable as is plausible."""
        setting = self._case.setting
        schedule, n, label = setting.schedule, setting.n, selection.top
        if schedule.precision == 0.0:
            return False
        k = plausible_count(votes.counts[label], votes.total, n)
        p_lower = certified_probability(k, n, schedule.alphas[-1], setting.arithmetic_error)
        radius = Gaussian(setting.sigma).radius(p_lower)
        if setting.bound is Bound.TWO_CLASS:
            share = clopper_pearson_lower(votes.runner_up(label), votes.total, _PLAUSIBLE)
            other = min(n - k, math.floor(share * n))
            p_upper = runner_up_probability(other, n, schedule.runner_up_alphas[-1], setting.arithmetic_error)
            radius = max(radius, Gaussian(setting.sigma).two_class_radius(p_lower, p_upper))
        return radius - (self.best.radius if self.best else 0.0) <= schedule.precision
