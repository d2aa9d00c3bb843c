"""Interval enclosures of the two functions a certificate rests on, for `verify` and the tests.

Everything is computed in mpmath's outward-rounded interval arithmetic with explicit remainder terms, so the true
value lies in the interval; no scipy, no `beta.ppf`, nothing shared with `certserve.smoothing.bounds`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import mpmath
from mpmath.ctx_iv import MPIntervalContext

__all__ = ["Interval", "binomial_tail", "normal_cdf"]

_BITS = 200
_iv = MPIntervalContext()  # a context of our own: the precision of mpmath's global ones is not touched
_iv.prec = _BITS


class Interval(NamedTuple):
    """The true value lies in [low, high]; both ends are mpmath numbers, to be compared exactly."""

    low: Any
    high: Any


def binomial_tail(k: int, n: int, p: float) -> Interval:
    """An interval that contains P(Binomial(n, p) >= k) for the exact double p in (0, 1), 1 <= k <= n.

    The terms are summed from k upwards with their exact ratio; the rest is bounded by a geometric series, or by
    the series below k where that is the shorter one (the tail is then 1 minus it).
    """
    if not (1 <= k <= n and 0.0 < p < 1.0):
        raise ValueError(f"expected 1 <= k <= n and 0 < p < 1, not k = {k!r}, n = {n!r}, p = {p!r}")
    if k > n * p:
        return _interval(_sum_upwards(k, n, _iv.mpf(p)))
    return _interval(1 - _sum_upwards(n - k + 1, n, 1 - _iv.mpf(p)))


def normal_cdf(x: float) -> Interval:
    """An interval that contains Phi(x) for the exact double x in [0, 12].

    Phi(x) = 1/2 + phi(x) (x + x^3/3 + x^5/(3 5) + ...): positive terms whose ratio x^2/(2 j + 1) falls.
    """
    if not 0.0 <= x <= 12.0:
        raise ValueError(f"x must lie in [0, 12], not {x!r}")
    square = _iv.mpf(x) * _iv.mpf(x)
    term, total, j = _iv.mpf(x), _iv.mpf(0), 0
    while j < 4 * x * x or _interval(term).high > mpmath.ldexp(1, -_BITS):
        total += term
        j += 1
        term = term * square / (2 * j + 1)
    # From here on each ratio is below 1/8, so all that is left is less than 8/7 of the next term.
    total += _iv.mpf([0, 1]) * term * 8 / 7
    return _interval(_iv.mpf(1) / 2 + _iv.exp(-square / 2) / _iv.sqrt(2 * _iv.pi) * total)


def _sum_upwards(k: int, n: int, p: Any) -> Any:
    """P(Binomial(n, p) >= k) for k > n p, where the ratio of successive terms is below 1 and falls."""
    odds = p / (1 - p)
    term = _iv.exp(
        _log_factorial(n) - _log_factorial(k) - _log_factorial(n - k) + k * _iv.log(p) + (n - k) * _iv.log(1 - p)
    )
    total, j = term, k
    negligible = _interval(term).high * mpmath.ldexp(1, -_BITS // 2)
    while j < n:
        term = term * (n - j) / (j + 1) * odds
        total += term
        j += 1
        if _interval(term).high < negligible and j < n:
            ratio = odds * (n - j) / (j + 1)
            return total + _iv.mpf([0, 1]) * term * ratio / (1 - ratio)
    return total


def _log_factorial(m: int) -> Any:
    """ln m!: exactly for small m, else Stirling's series, whose error is less than its first omitted term."""
    if m < 64:
        return _iv.log(_iv.mpf(math.factorial(m)))
    x = _iv.mpf(m)
    total = x * _iv.log(x) - x + _iv.log(2 * _iv.pi * x) / 2
    power = x
    bernoulli = [(1, 12), (-1, 360), (1, 1260), (-1, 1680), (1, 1188), (-691, 360360), (1, 156)]
    for numerator, denominator in bernoulli:
        total += _iv.mpf(numerator) / denominator / power
        power *= x * x
    return total + _iv.mpf([-1, 1]) * _iv.mpf(3617) / 122400 / power


def _interval(value: Any) -> Interval:
    low, high = value._mpi_
    return Interval(mpmath.mp.make_mpf(low), mpmath.mp.make_mpf(high))
