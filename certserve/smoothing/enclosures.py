"""Interval enclosures of the functions that a certificate rests on, for `verify` and the tests.

Everything is computed in mpmath's outward-rounded interval arithmetic with explicit remainder terms, so the true
value lies in the interval; no scipy, no `beta.ppf`, nothing shared with `certserve.smoothing.bounds`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import mpmath
from mpmath import MPContext
from mpmath.ctx_iv import MPIntervalContext

__all__ = ["Interval", "binomial_tail", "log_e_value", "log_reciprocal", "normal_cdf", "normal_quantile"]

_BITS = 200
_LEAST_PRIOR_MASS = 1e-200
_iv = MPIntervalContext()  # contexts of our own: the precision of mpmath's global ones is not touched
_iv.prec = _BITS
_mp = MPContext()
_mp.prec = _BITS


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


def normal_quantile(p: float) -> Interval:
    """An interval of doubles that contains Phi^-1(p) for the exact double p in (0, 1) with |Phi^-1(p)| < 12."""
    if not 0.0 < p < 1.0:
        raise ValueError(f"p must lie in (0, 1), not {p!r}")
    upper = _iv.mpf(max(p, 0.5)) if p >= 0.5 else 1 - _iv.mpf(p)
    guess = float(_mp.sqrt(2) * _mp.erfinv(abs(2 * _mp.mpf(p) - 1)))  # only a guess: what follows encloses
    width = 2.0 * math.ulp(guess)
    while guess < 12.0:
        low, high = max(0.0, guess - width), min(12.0, guess + width)
        if normal_cdf(low).high <= _interval(upper).low and _interval(upper).high <= normal_cdf(high).low:
            return Interval(low, high) if p >= 0.5 else Interval(-high, -low)
        width *= 4.0
    raise ValueError(f"Phi^-1({p!r}) lies beyond 12")


def log_reciprocal(x: float) -> Interval:
    """An interval that contains ln(1 / x) for the exact double x > 0."""
    return _interval(-_iv.log(_iv.mpf(x)))


def log_e_value(null: float, priors: Sequence[tuple[float, float]], successes: int, failures: int) -> Interval:
    """An interval that contains ln W, the e-value of the one-sided truncated-Beta process.

    Args:
        null: the exact double, in (0, 1).
        priors: (a, b) of each Beta law, multiples of 1/2; equal weights. As the process prescribes, a law with less
            than 1e-200 of its mass above the null is left out, without giving its weight to the others.

    Raises:
        ValueError: an argument outside its range, or no law is left.
    """
    if not (0.0 < null < 1.0 and successes >= 0 and failures >= 0):
        raise ValueError(f"expected 0 < null < 1 and counts >= 0, not {null!r}, {successes!r}, {failures!r}")
    p = _iv.mpf(null)
    total, none = _iv.mpf(0), True
    for a, b in priors:
        mass = _beta_tail(p, a, b)
        if _interval(mass).high < _LEAST_PRIOR_MASS:
            continue
        none = False
        more = _beta_tail(p, a + successes, b + failures)
        log_ratio = _log_beta(a + successes, b + failures) - _log_beta(a, b)
        total += _iv.exp(log_ratio - successes * _iv.log(p) - failures * _iv.log(1 - p)) * more / mass
    if none:
        raise ValueError("no prior has any mass above the null")
    return _interval(_iv.log(total / len(priors)))


def _beta_tail(p: Any, a: float, b: float) -> Any:
    """P(Beta(a, b) > p): directly, with a small relative error however small it is, or as 1 less the other tail."""
    middle = float(_interval(p).low)
    above, below = _terms(1.0 - middle, b, a), _terms(middle, a, b)
    if middle * (a + b) < a and below < above:
        return 1 - _beta_head(p, a, b)
    return _beta_head(1 - p, b, a)


def _terms(x: float, a: float, b: float) -> float:
    """About how many terms `_beta_head` sums."""
    needed = max(0.0, x * b - (1.0 - x) * a) + 12.0 * math.sqrt((a + b) * x * (1.0 - x)) + 60.0
    return needed if needed < b else b + 60.0 / (1.0 - x)


def _beta_head(x: Any, a: float, b: float) -> Any:
    """I_x(a, b) = P(Beta(a, b) < x), from positive terms only.

    I_x(a, b) = T + I_x(a + 1, b - 1) with T = x^a (1 - x)^(b - 1) / (a B(a, b)) is followed while b > 1 and terms
    matter; the rest is T times (1 - x) times the series 1 + x (a + b) / (a + 1) + ... (DLMF 8.17.8, 8.17.20).
    """
    term = _iv.exp(a * _iv.log(x) + (b - 1) * _iv.log(1 - x) - _log_beta(a, b)) / a
    odds, total = x / (1 - x), _iv.mpf(0)
    tiny = mpmath.ldexp(1, -_BITS // 2)
    while b > 1:
        ratio = _interval(x * max(1.0, (a + b) / (a + 1))).high  # of successive terms of the rest, at most
        if ratio < 1 and _interval(term).high < tiny * (1 - ratio) * _interval(total).low:
            return total + _iv.mpf([0, 1]) * term * (1 - x) / (1 - _iv.mpf(ratio))
        total += term
        term = term * odds * ((_iv.mpf(b) - 1) / (_iv.mpf(a) + 1))
        a, b = a + 1, b - 1
    term = term * (1 - x)
    tiny *= _interval(1 - x).low
    while _interval(term).high > tiny * _interval(total).low or not _interval(total).low > 0:
        total += term
        term = term * x * ((_iv.mpf(a) + b) / (_iv.mpf(a) + 1))
        a += 1
    return total + _iv.mpf([0, 1]) * term / (1 - x)  # b <= 1: no ratio exceeds x


def _sum_upwards(k: int, n: int, p: Any) -> Any:
    """P(Binomial(n, p) >= k) for k > n p, where the ratio of successive terms is below 1 and falls."""
    odds = p / (1 - p)
    term = _iv.exp(
        _log_gamma(n + 1) - _log_gamma(k + 1) - _log_gamma(n - k + 1) + k * _iv.log(p) + (n - k) * _iv.log(1 - p)
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


def _log_beta(a: float, b: float) -> Any:
    return _log_gamma(a) + _log_gamma(b) - _log_gamma(a + b)


def _log_gamma(x: float) -> Any:
    """ln Gamma(x) for a multiple of 1/2, x > 0: Stirling's series, whose error is less than its first omitted term.

    Below 64 it is taken at a larger argument, by ln Gamma(x) = ln Gamma(x + 1) - ln x.
    """
    divisor = _iv.mpf(1)
    while x < 64:
        divisor *= x
        x += 1
    exact = _iv.mpf(x)
    total = (exact - _iv.mpf(1) / 2) * _iv.log(exact) - exact + _iv.log(2 * _iv.pi) / 2 - _iv.log(divisor)
    power = exact
    bernoulli = [(1, 12), (-1, 360), (1, 1260), (-1, 1680), (1, 1188), (-691, 360360), (1, 156)]
    for numerator, denominator in bernoulli:
        total += _iv.mpf(numerator) / denominator / power
        power *= exact * exact
    return total + _iv.mpf([-1, 1]) * _iv.mpf(3617) / 122400 / power


def _interval(value: Any) -> Interval:
    low, high = value._mpi_
    return Interval(mpmath.mp.make_mpf(low), mpmath.mp.make_mpf(high))
