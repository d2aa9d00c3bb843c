"""The enclosures that `verify` computes with, against ball arithmetic and exact sums."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import flint
import pytest

from certserve.smoothing.enclosures import (
    Interval,
    binomial_tail,
    log_e_value,
    log_reciprocal,
    normal_cdf,
    normal_quantile,
)


def exactly(x: Any) -> Fraction:
    """The exact value of an mpmath number."""
    sign, mantissa, exponent, _ = x._mpf_
    return Fraction(int(mantissa)) * Fraction(2) ** int(exponent) * (-1 if sign else 1)


def ball(value: Fraction) -> flint.arb:
    return flint.arb(flint.fmpq(value.numerator, value.denominator))


def assert_encloses(interval: Interval, truth: flint.arb, width: float | flint.arb = 1e-25) -> None:
    """The narrower ball `truth` lies in the interval, which is narrow too."""
    low, high = ball(exactly(interval.low)), ball(exactly(interval.high))
    assert low <= truth
    assert truth <= high
    assert high - low <= width


def log_e_value_ball(null: float, priors: list[tuple[float, float]], s: int, f: int) -> flint.arb:
    """ln W by another library: its own incomplete beta function, of which the tail above the null is taken."""
    p, total = flint.arb(null), flint.arb(0)
    for a, b in priors:
        before = (1 - p).beta_lower(b, a, False)  # not regularised: B(a, b) times the mass above
        after = (1 - p).beta_lower(b + f, a + s, False)
        total += after / before
    return (total / len(priors)).log() - s * p.log() - f * (1 - p).log()


CASES = [
    (0.3, (0, 3), 0, 0),
    (0.5, (16, 0), 16, 0),
    (0.5, (9, 7), 40, 20),
    (0.5, (0, 0), 0, 100),
    (0.69, (10, 0), 5, 0),
    (0.69, (69, 31), 700, 300),
    (0.84, (84, 16), 900, 100),
    (0.84, (0, 100), 900, 100),
    (0.84, (84, 16), 100, 900),
    (0.977, (97, 3), 128, 0),
    (0.977, (970, 30), 5_000, 60),
    (0.9987, (100, 0), 128, 0),
    (0.9987, (10_000, 0), 5_000, 0),
    (0.9987, (99, 1), 20_000, 10),
]


@pytest.mark.parametrize(("null", "selection", "s", "f"), CASES)
def test_the_e_value_encloses_flint(null: float, selection: tuple[int, int], s: int, f: int) -> None:
    """An interval without the ball of another library's incomplete beta function, or a wide one, fails."""
    priors = [(selection[0] + 0.5, selection[1] + 0.5), (0.5, 0.5)]
    with flint.ctx.workprec(600):
        assert_encloses(log_e_value(null, priors, s, f), log_e_value_ball(null, priors, s, f))


@pytest.mark.parametrize(("s", "f"), [(0, 0), (3, 1), (1, 5), (12, 0), (20, 20)])
@pytest.mark.parametrize("null", [0.25, 0.5, 0.875])
def test_the_e_value_of_a_uniform_prior(null: float, s: int, f: int) -> None:
    """An interval without the exact value, for which the integral over (p0, 1) is a sum of fractions, fails."""
    p = Fraction(null)
    integral = sum(  # of q^s (1 - q)^f
        (math.comb(f, j) * Fraction(-1) ** j * (1 - p ** (s + j + 1)) / (s + j + 1) for j in range(f + 1)), Fraction(0)
    )
    exact = integral / (1 - p) / (p**s * (1 - p) ** f)
    with flint.ctx.workprec(600):
        assert_encloses(log_e_value(null, [(1.0, 1.0)], s, f), ball(exact).log())


def test_a_prior_without_mass_counts_for_nothing() -> None:
    """A component below 1e-200 that is kept, or whose weight the others inherit, fails."""
    with flint.ctx.workprec(600):
        truth = log_e_value_ball(0.977, [(0.5, 0.5)], 500, 5) - flint.arb(2).log()
        assert_encloses(log_e_value(0.977, [(9_000.5, 1_000.5), (0.5, 0.5)], 500, 5), truth)
    with pytest.raises(ValueError, match="no prior has any mass"):
        log_e_value(0.977, [(9_000.5, 1_000.5)], 500, 5)


@pytest.mark.parametrize(("null", "s", "f"), [(0.0, 1, 1), (1.0, 1, 1), (0.5, -1, 1), (0.5, 1, -1), (math.nan, 1, 1)])
def test_no_e_value_outside_its_range(null: float, s: int, f: int) -> None:
    """An interval for what is no e-value fails."""
    with pytest.raises(ValueError, match="expected 0 < null < 1"):
        log_e_value(null, [(0.5, 0.5)], s, f)


@pytest.mark.parametrize("p", [1e-30, 1e-12, 0.01, 0.3, 0.5 - 1e-12, 0.5, 0.5 + 1e-15, 0.51, 0.9, 0.9999, 1 - 1e-16])
def test_the_normal_quantile_encloses(p: float) -> None:
    """An interval whose ends are not on either side of p under Phi, by enclosure, or a wide one, fails."""
    low, high = normal_quantile(p)
    assert high - low <= 4.5 * math.ulp(max(abs(low), abs(high)))
    upper = Fraction(p) if p >= 0.5 else 1 - Fraction(p)
    inner, outer = (low, high) if p >= 0.5 else (-high, -low)
    assert exactly(normal_cdf(inner).high) <= upper + Fraction(1, 2**190)
    assert exactly(normal_cdf(outer).low) >= upper - Fraction(1, 2**190)


@pytest.mark.parametrize("p", [0.0, 1.0, -0.5, math.nan, 1e-40])
def test_no_quantile_outside_its_range(p: float) -> None:
    """An interval for what is no probability, or beyond 12, fails."""
    with pytest.raises(ValueError, match=r"must lie in|beyond 12"):
        normal_quantile(p)


@pytest.mark.parametrize("alpha", [0.5, 0.001, 1e-6, 1e-100])
def test_the_logarithm_encloses_flint(alpha: float) -> None:
    """An interval without ln(1 / alpha), or a wide one, fails."""
    with flint.ctx.workprec(600):
        assert_encloses(log_reciprocal(alpha), -flint.arb(alpha).log())


@pytest.mark.parametrize("p", [5e-324, 1e-12, 0.1, 0.37, 0.5, 0.75, 0.999, math.nextafter(1.0, 0.0)])
def test_the_binomial_tail_encloses_exact_rationals(p: float) -> None:
    """An interval without the exact tail for any n up to 70 fails (the factorials change method at 64)."""
    exact = Fraction(p)
    for n in (1, 2, 5, 19, 23, 40, 63, 64, 70):
        hit, miss = exact.numerator, exact.denominator - exact.numerator
        masses = [math.comb(n, j) * hit**j * miss ** (n - j) for j in range(n + 1)]
        for k in range(1, n + 1):
            interval = binomial_tail(k, n, p)
            scaled = exactly(interval.low) * exact.denominator**n, exactly(interval.high) * exact.denominator**n
            assert scaled[0] <= sum(masses[k:]) <= scaled[1], (k, n)


@pytest.mark.parametrize("n", [63, 64, 65, 128, 1000, 100_000, 10_000_000])
def test_the_binomial_tail_encloses_flint(n: int) -> None:
    """An interval without the ball of another library's incomplete beta function, or a wide one, fails."""
    with flint.ctx.workprec(600):
        for k, p in [(n, 0.99), (n - 1, 0.999), (n // 2, 0.5), (n // 2 + 1, 0.49), (9 * n // 10, 0.89), (1, 1.0 / n)]:
            truth = flint.arb(p).beta_lower(k, n - k + 1, True)
            assert_encloses(binomial_tail(k, n, p), truth, truth / 10**25)


def test_the_normal_law_encloses_flint() -> None:
    """An interval without the ball of another library's error function, or a wide one, fails."""
    with flint.ctx.workprec(1200):
        for x in [5e-324, 1e-17, 1e-8, *(i / 16 for i in range(1, 193)), math.nextafter(12.0, 0.0), math.pi]:
            truth = (-flint.arb(x) / flint.arb(2).sqrt()).erfc() / 2
            assert_encloses(normal_cdf(x), truth, truth / 10**25)
    assert exactly(normal_cdf(0.0).low) == exactly(normal_cdf(0.0).high) == Fraction(1, 2)


@pytest.mark.parametrize(("k", "n", "p"), [(0, 5, 0.5), (6, 5, 0.5), (3, 5, 0.0), (3, 5, 1.0), (3, 5, math.nan)])
def test_no_tail_outside_its_range(k: int, n: int, p: float) -> None:
    """An interval for something that is no tail of a binomial law fails."""
    with pytest.raises(ValueError, match="expected 1 <= k <= n"):
        binomial_tail(k, n, p)


@pytest.mark.parametrize("x", [-1e-9, 12.1, math.inf, math.nan])
def test_no_normal_law_outside_its_range(x: float) -> None:
    """An interval where the remainder term is not proved fails."""
    with pytest.raises(ValueError, match="x must lie"):
        normal_cdf(x)
