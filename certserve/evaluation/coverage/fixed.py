"""CERTIFY and PREDICT with a fixed number of draws: how often they err, exactly, by the binomial law."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from certserve.evaluation.coverage.rates import Coverage, Rate, first_count, not_below
from certserve.smoothing.bounds import clopper_pearson_lower
from certserve.smoothing.decision import certified_probability, p_value, runner_up_probability
from certserve.smoothing.enclosures import binomial_tail
from certserve.smoothing.outcomes import Bound, Votes
from certserve.smoothing.plans import Fixed, FixedPredict

__all__ = [
    "ErrorRate",
    "check_runner_up",
    "fixed_coverage",
    "fixed_error_rate",
    "fixed_predict_coverage",
    "two_class_claim",
]


Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """How often a certificate overstates, at one true probability of the selected class.

    Attributes:
        p: the true probability, in (0, 1).
        rate: the probability that p_lower exceeds p, rounded up.
        worst_p, worst_rate: the largest p below the bound that overstates at p, where the rate is at its local
            maximum; it is what comes nearest to alpha.
    """

    p: float
    rate: float
    worst_p: float
    worst_rate: float


def fixed_error_rate(plan: Fixed, p: float) -> ErrorRate:
    """The exact probability that CERTIFY with a fixed number of draws claims p_lower above the true p.

    The votes for the selected class are Binomial(n, p), whatever the selection was, and the bound grows with the
    count, so the claim is false exactly for the counts from some k on. Without the deduction of d * eps, which
    only lowers it.

    Raises:
        ValueError: p outside (0, 1).
    """
    if not 0.0 < p < 1.0:
        raise ValueError(f"p must lie strictly between 0 and 1, not {p!r}")
    first = first_count(lambda k: clopper_pearson_lower(k, plan.n, plan.alpha) > p, plan.n)
    if first > plan.n:
        return ErrorRate(p, 0.0, p, 0.0)
    worst_p = math.nextafter(clopper_pearson_lower(first, plan.n, plan.alpha), 0.0)
    return ErrorRate(p, _tail(first, plan.n, p), worst_p, _tail(first, plan.n, max(p, worst_p)))


def fixed_coverage(plan: Fixed, shares: Sequence[float], runner_up: float | None = None) -> Coverage:
    """What `Fixed` does where the class selected has each of these true probabilities.

    Args:
        runner_up: with TWO_CLASS, the true probability of the runner-up; None: half of what the class leaves.

    Raises:
        ValueError: a probability outside its range.
    """
    if plan.bound is Bound.BINARY:
        rates = tuple(_binary(plan, p) for p in shares)
        meaning = "that p_lower exceeds the true p of the class selected, whatever the selection was: exact"
        claim = "that this class is certified with a positive radius: exact"
    else:
        rates = tuple(_two_class(plan, p, (1.0 - p) / 2.0 if runner_up is None else runner_up) for p in shares)
        meaning = (
            "that p_lower exceeds the true p of the class selected or p_upper falls below that of the runner-up, "
            "whatever the selection was: exact where all other classes are too rare to matter, an upper bound else"
        )
        claim = "that this class is certified with a positive radius, where all other classes are too rare to matter"
    return Coverage(plan.name, plan.n0, plan.n, plan.alpha, rates, meaning, claim, "always the same")


def fixed_predict_coverage(plan: FixedPredict, shares: Sequence[float]) -> Coverage:
    """What `FixedPredict` does where there are two classes, and the top one has each of these true probabilities.

    Raises:
        ValueError: a probability outside [0.5, 1).
    """
    first = first_count(lambda k: k > plan.n - k and p_value(Votes((k, plan.n - k)), 0) <= plan.alpha, plan.n)
    rates = []
    for p in shares:
        if not 0.5 <= p < 1.0:
            raise ValueError(f"the top class's probability must lie in [0.5, 1), not {p!r}")
        low = math.nextafter(1.0 - p, math.inf) if p > 0.5 else 0.5
        wrong, right = (0.0, 0.0) if first > plan.n else (_tail(first, plan.n, q) for q in (low, p))
        false = min(1.0, 2.0 * wrong) if p == 0.5 else wrong
        rates.append(Rate(p, false, min(1.0, wrong + right), float(plan.n)))
    meaning = (
        "that a class other than the top one is named; at p = 0.5 neither is the top one. Exact for two classes with "
        "p and 1 - p; with more of them it is not computed, and at most alpha too"
    )
    return Coverage(
        plan.name, plan.n0, plan.n, plan.alpha, tuple(rates), meaning, "that a class is named: exact", "always the same"
    )


def two_class_claim(n: int, alphas: tuple[float, float], p: float, runner_up: float) -> float:
    """P(p_lower > p_upper) of one look at n draws, where no other class is as frequent as the runner-up.

    Args:
        alphas: what the bounds on the class and on the runner-up spend. runner_up: its true probability.
    """
    counts = _likely_counts(n, p)
    masses = binom.pmf(counts, n, p)
    allowed = np.full(len(counts), -1)
    most = -1
    for i, k in enumerate(counts.tolist()):
        p_lower = certified_probability(k, n, alphas[0], 0.0)
        if p_lower > 0.5:
            allowed[i:] = n
            break
        while most < n - k and runner_up_probability(most + 1, n, alphas[1], 0.0) < p_lower:
            most += 1
        allowed[i] = most
    left = n - counts
    return min(1.0, float(masses @ binom.cdf(np.minimum(allowed, left), left, min(1.0, runner_up / (1.0 - p)))))


def _binary(plan: Fixed, p: float) -> Rate:
    found = fixed_error_rate(plan, p)
    first = first_count(lambda k: clopper_pearson_lower(k, plan.n, plan.alpha) > 0.5, plan.n)
    claim = _tail(first, plan.n, p) if first <= plan.n else 0.0
    return Rate(p, found.rate, min(1.0, claim), float(plan.n0 + plan.n), found.worst_p, found.worst_rate)


def _two_class(plan: Fixed, p: float, runner_up: float) -> Rate:
    """Either bound is false: K >= a, or at most b votes for the runner-up; of n - K draws, its share is q / (1 - p)."""
    check_runner_up(p, runner_up)
    n, (alpha,), (alpha_runner_up,) = plan.n, plan.schedule.alphas, plan.schedule.runner_up_alphas
    first = first_count(lambda k: certified_probability(k, n, alpha, 0.0) > p, n)
    most = first_count(lambda k: runner_up_probability(k, n, alpha_runner_up, 0.0) >= runner_up, n) - 1
    counts = _likely_counts(n, p)
    below = counts[counts < first]
    rate = float(binom.sf(first - 1, n, p))
    rate += float(binom.pmf(below, n, p) @ binom.cdf(most, n - below, min(1.0, runner_up / (1.0 - p))))
    claim = two_class_claim(n, (alpha, alpha_runner_up), p, runner_up)
    return Rate(p, not_below(rate), claim, float(plan.n0 + n))


def check_runner_up(p: float, runner_up: float) -> None:
    """Raises ValueError: the two cannot be the probabilities of two classes."""
    if not (0.0 < p < 1.0 and runner_up > 0.0 and p + runner_up <= 1.0 + 1e-12):
        raise ValueError(f"p and the runner-up's must be positive, and at most 1 together, not {p!r} and {runner_up!r}")


def _likely_counts(n: int, p: float) -> Counts:
    """All counts but those beyond 20 standard deviations, which together have a probability below 1e-20."""
    reach = 20.0 * math.sqrt(n * p * (1.0 - p)) + 200.0
    return np.arange(max(0, math.floor(n * p - reach)), min(n, math.ceil(n * p + reach)) + 1)


def _tail(k: int, n: int, p: float) -> float:
    return math.nextafter(float(binomial_tail(k, n, p).high), math.inf)
