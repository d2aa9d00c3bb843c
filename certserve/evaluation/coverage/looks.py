"""Looks: how often any of its certificates is false, by the exact law of the votes at all looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from certserve.evaluation.coverage.fixed import check_runner_up, two_class_claim
from certserve.evaluation.coverage.rates import Coverage, Rate, Report, first_count, not_below, sequential_alpha
from certserve.smoothing.decision import certified_probability, runner_up_probability
from certserve.smoothing.distribution import Gaussian
from certserve.smoothing.outcomes import Bound
from certserve.smoothing.plans import Looks
from certserve.smoothing.plans.looks import plausible_count
from certserve.smoothing.stopping import StoppingLaw, stopping_law

__all__ = ["looks_coverage"]

Counts = npt.NDArray[np.int64]


def looks_coverage(
    plan: Looks, shares: Sequence[float], sigma: float, report: Report, runner_up: float | None = None
) -> Coverage:
    """What `Looks` does where the class selected has each of these true probabilities.

    Args:
        sigma: noise level; it matters to `precision` only. runner_up: as for `fixed_coverage`.

    Raises:
        ValueError: a probability outside its range, or an alpha below 1e-6.
    """
    sequential_alpha(plan.alpha)
    rates = []
    for done, p in enumerate(shares):
        report(done, len(shares))
        if plan.bound is Bound.BINARY:
            rates.append(_binary(plan, p, Gaussian(sigma)))
        else:
            rates.append(_two_class(plan, p, (1.0 - p) / 2.0 if runner_up is None else runner_up))
    return Coverage(plan.name, plan.n0, plan.n, plan.alpha, tuple(rates), *_meanings(plan))


def _meanings(plan: Looks) -> tuple[str, str, str]:
    early = plan.precision > 0.0
    if plan.bound is Bound.TWO_CLASS:
        return (
            "that at any look p_lower exceeds the true p of the class selected or p_upper falls below that of the "
            "runner-up: an upper bound, the sum of the exact probabilities of either",
            "not computed with a precision"
            if early
            else "that this class is certified, where all other classes are too rare to matter: a lower bound, exact "
            "for the last look alone",
            "not computed with a precision" if early else "always the same",
        )
    meaning = "that p_lower exceeds the true p of the class selected at any look, whatever the selection was: "
    return (
        meaning + ("an upper bound, exact where nothing stops early" if early else "exact"),
        "that this class is certified with a positive radius at some look: exact",
        "an upper bound: bounds of earlier looks may end it sooner" if early else "always the same",
    )


@dataclass(frozen=True)
class _Table:
    """Boundaries that are listed, one of each a look."""

    looks: Counts
    claims: Counts
    gives_up: Counts

    def upper(self, looks: Counts) -> Counts:
        return self.claims[np.searchsorted(self.looks, looks)]

    def lower(self, looks: Counts) -> Counts:
        return self.gives_up[np.searchsorted(self.looks, looks)]


def _law(plan: Looks, p: float, claims: Sequence[int], gives_up: Sequence[int] = ()) -> StoppingLaw:
    never = [-1] * len(plan.looks)
    table = _Table(np.array(plan.looks), np.array(claims), np.array(gives_up or never))
    return stopping_law([table], plan.looks, np.ones((1, 1)), np.array([p]), p)


def _uppers(plan: Looks, alphas: Sequence[float], reached: Callable[[int, int, float], bool]) -> list[int]:
    """At each look, the smallest count that reaches."""
    pairs = zip(plan.looks, alphas, strict=True)
    return [first_count(lambda k, n=n, alpha=alpha: reached(k, n, alpha), n) for n, alpha in pairs]  # type: ignore[misc]


def _binary(plan: Looks, p: float, distribution: Gaussian) -> Rate:
    if not 0.0 < p < 1.0:
        raise ValueError(f"p must lie strictly between 0 and 1, not {p!r}")
    alphas = plan.schedule.alphas
    above = _uppers(plan, alphas, lambda k, n, alpha: certified_probability(k, n, alpha, 0.0) > p)
    false = not_below(float(_law(plan, p, above).claimed[0]), 1)
    positive = _uppers(plan, alphas, lambda k, n, alpha: certified_probability(k, n, alpha, 0.0) > 0.5)
    if plan.precision == 0.0:
        return Rate(p, false, float(_law(plan, p, positive).claimed[0]), float(plan.n0 + plan.n))

    def hopes(k: int, n: int, _: float) -> bool:
        return _hope(plan, k, n, distribution) > plan.precision

    hopeless = [k - 1 for k in _uppers(plan, alphas, hopes)]
    hopeless[-1] = -1
    claim = float(_law(plan, p, positive, hopeless).claimed[0])
    never = [n + 1 for n in plan.looks]
    drawn = _law(plan, p, never, _precise(plan, p, distribution)).mean_draws[0]
    return Rate(p, false, claim, plan.n0 + float(drawn))


def _hope(plan: Looks, k: int, n: int, distribution: Gaussian) -> float:
    """The radius that the last look may plausibly give, after k votes of n."""
    last = plausible_count(k, n, plan.n)
    return distribution.radius(certified_probability(last, plan.n, plan.schedule.alphas[-1], 0.0))


def _precise(plan: Looks, p: float, distribution: Gaussian) -> list[int]:
    """At each look, the largest count below which the look's own bound is precise enough, among the likely counts.

    Those beyond 9 standard deviations are not likely. The plan goes by its best bound so far, and stops no later.
    """
    found = []
    for n, alpha in zip(plan.looks, plan.schedule.alphas, strict=True):
        reach = 9.0 * math.sqrt(n * p * (1.0 - p)) + 40.0
        k, most = max(0, math.floor(n * p - reach)), min(n, math.ceil(n * p + reach))
        while k <= most:
            radius = distribution.radius(certified_probability(k, n, alpha, 0.0))
            if _hope(plan, k, n, distribution) - radius > plan.precision:
                break
            k += 1
        found.append(k - 1)
    return found


def _two_class(plan: Looks, p: float, runner_up: float) -> Rate:
    check_runner_up(p, runner_up)
    alphas, others = plan.schedule.alphas, plan.schedule.runner_up_alphas
    above = _uppers(plan, alphas, lambda k, n, alpha: certified_probability(k, n, alpha, 0.0) > p)
    # The draws that were not the runner-up's walk upwards with 1 - q.
    below = _uppers(plan, others, lambda k, n, alpha: runner_up_probability(n - k, n, alpha, 0.0) < runner_up)
    rate = float(_law(plan, p, above).claimed[0]) + float(_law(plan, 1.0 - runner_up, below).claimed[0])
    false = not_below(rate, 2)
    if plan.precision > 0.0:
        return Rate(p, false, None, None)
    claim = two_class_claim(plan.n, (alphas[-1], others[-1]), p, runner_up)
    return Rate(p, false, claim, float(plan.n0 + plan.n))
