"""How often a plan errs, exactly: from the binomial law, not from simulation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from certserve.smoothing.bounds import clopper_pearson_lower
from certserve.smoothing.enclosures import binomial_tail
from certserve.smoothing.plans import Fixed

__all__ = ["ErrorRate", "fixed_error_rate"]


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
    first = _first_overstating(plan, p)
    if first > plan.n:
        return ErrorRate(p, 0.0, p, 0.0)
    worst_p = math.nextafter(clopper_pearson_lower(first, plan.n, plan.alpha), 0.0)
    return ErrorRate(p, _tail(first, plan.n, p), worst_p, _tail(first, plan.n, max(p, worst_p)))


def _first_overstating(plan: Fixed, p: float) -> int:
    """The smallest count whose bound exceeds p; n + 1 where there is none."""
    low, high = 0, plan.n + 1
    while high - low > 1:
        middle = (low + high) // 2
        if clopper_pearson_lower(middle, plan.n, plan.alpha) > p:
            high = middle
        else:
            low = middle
    return high


def _tail(k: int, n: int, p: float) -> float:
    return math.nextafter(float(binomial_tail(k, n, p).high), math.inf)
