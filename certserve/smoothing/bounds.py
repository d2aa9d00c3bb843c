"""Confidence bounds on a binomial proportion, rounded so that they never claim too much.

`scipy.special.betaincinv` lies above the exact Clopper-Pearson bound about half of the time, by up to 110 units
in the last place, and `betainc` itself errs by up to 5e-11 (relative) for n <= 10^6 and 5e-10 for n <= 10^7. Each
bound here is therefore aimed a little below its level, stepped until the computed tail is below the level by more
than `betainc` can err, and moved two units further. The tests compare with exact rationals (n <= 300) and interval
enclosures (n <= 10^7).
"""

from __future__ import annotations

import math

from scipy.special import betainc, betaincinv

__all__ = [
    "LARGEST_N",
    "SMALLEST_ALPHA",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "smallest_certifying_n",
    "smallest_predicting_n",
    "smallest_target_n",
]

LARGEST_N = 10_000_000
"""The largest number of draws for which the rounding recipe is vouched for."""

SMALLEST_ALPHA = 1e-100
"""The smallest level for which it is: from about 1e-280 down `betainc` can be wrong by any factor."""


def clopper_pearson_lower(k: int, n: int, alpha: float) -> float:
    """The one-sided Clopper-Pearson lower bound on p for k successes in n trials, rounded down.

    For every p in [0, 1], P(bound(K) > p) <= alpha when K ~ Binomial(n, p) and n was fixed beforehand.

    Args:
        k: successes, 0 <= k <= n.
        n: trials, 1 <= n <= 10^7.
        alpha: failure probability, in [1e-100, 1).

    Raises:
        ValueError: an argument outside its range.

    References:
        Clopper and Pearson (1934); Cohen, Rosenfeld and Kolter (2019), LOWERCONFBOUND in section 3.2.2.
    """
    _check(k, n, alpha)
    if k == 0:
        return 0.0
    if k == n:
        # alpha^(1/n) where 1/n, the power and the product are each rounded.
        root = alpha ** (1.0 / n) * (1.0 - 2.3e-16 * (1.0 - math.log(alpha) / n))
        return _down(root, 2)
    slack = 1e-10 * max(1.0, n / 1e6)  # twice what `betainc` was seen to err
    p = float(betaincinv(k, n - k + 1, alpha * (1.0 - 10.0 * slack)))
    stride = 1
    while p > 0.0 and betainc(k, n - k + 1, p) > alpha * (1.0 - slack):
        p = _down(p, stride)
        stride *= 2
    return _down(p, 2)


def clopper_pearson_upper(k: int, n: int, alpha: float) -> float:
    """The one-sided Clopper-Pearson upper bound on p, rounded up: 1 - lower bound for n - k successes.

    Arguments, guarantee (mirrored) and errors as for `clopper_pearson_lower`.
    """
    return min(1.0, math.nextafter(1.0 - clopper_pearson_lower(n - k, n, alpha), math.inf))


def smallest_certifying_n(alpha: float, deduction: float = 0.0) -> int:
    """The smallest n at which n agreeing votes give a lower bound above 1/2 after `deduction`.

    With fewer draws every answer is an abstention (alpha^(1/n) <= 1/2).

    Args:
        alpha: failure probability, in [1e-100, 1).
        deduction: what the arithmetic takes off the bound (d * eps), in [0, 1/2).

    Raises:
        ValueError: an argument outside its range, or no n up to 10^7 is enough.
    """
    _check(1, 1, alpha)
    if not 0.0 <= deduction < 0.5:
        raise ValueError(f"deduction must lie in [0, 1/2), not {deduction!r}")
    n = max(1, math.floor(math.log(alpha) / math.log1p(deduction - 0.5)) - 1)
    while n <= LARGEST_N:
        if clopper_pearson_lower(n, n, alpha) - deduction > 0.5:
            return n
        n += 1
    raise ValueError(f"no n up to {LARGEST_N} certifies anything at alpha = {alpha!r}")


def smallest_predicting_n(alpha: float) -> int:
    """The smallest n at which n agreeing votes are significant: 2 (1/2)^n <= alpha (PREDICT's two-sided test).

    Raises:
        ValueError: alpha outside [1e-100, 1).
    """
    _check(1, 1, alpha)
    n = max(1, math.floor(1.0 - math.log2(alpha)) - 1)
    while 2.0 * 0.5**n * (1.0 + 1e-10) > alpha:  # the slack of `decision.p_value`
        n += 1
    return n


def smallest_target_n(null: float, alpha: float) -> int:
    """The smallest n with null^n <= alpha: with fewer draws nothing can show that a probability exceeds `null`.

    Args:
        null: the probability to be exceeded, in (0, 1). alpha: failure probability, in [1e-100, 1).

    Raises:
        ValueError: an argument outside its range, or no n up to 10^7 is enough.
    """
    _check(1, 1, alpha)
    if not 0.0 < null < 1.0:
        raise ValueError(f"the probability to be exceeded must lie in (0, 1), not {null!r}")
    n = max(1, math.ceil(math.log(alpha) / math.log(null)))
    if n > LARGEST_N:
        raise ValueError(f"no n up to {LARGEST_N} shows a probability above {null!r} at alpha = {alpha!r}")
    return n


def _check(k: int, n: int, alpha: float) -> None:
    if not 1 <= n <= LARGEST_N:
        raise ValueError(f"n must lie in 1..{LARGEST_N}, not {n!r}")
    if not 0 <= k <= n:
        raise ValueError(f"k must lie in 0..n = {n}, not {k!r}")
    if not SMALLEST_ALPHA <= alpha < 1.0:
        raise ValueError(f"alpha must lie in [{SMALLEST_ALPHA:g}, 1), not {alpha!r}")


def _down(value: float, ulps: int) -> float:
    return max(0.0, value - ulps * math.ulp(value))
