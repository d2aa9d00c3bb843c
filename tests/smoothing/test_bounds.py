"""The Clopper-Pearson bounds against exact integers (n <= 300) and ball arithmetic (n <= 10^7)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise

import flint
import pytest

from certserve.smoothing.bounds import (
    LARGEST_N,
    SMALLEST_ALPHA,
    clopper_pearson_lower,
    clopper_pearson_upper,
    smallest_certifying_n,
    smallest_predicting_n,
)

ALPHAS = (0.5, 0.1, 0.05, 0.01, 0.001, 1e-6, 1e-12)
Bound = Callable[[int, int, float], float]


def tail_is_at_most(level: float, k: int, n: int, p: Fraction) -> bool:
    """Whether P(Binomial(n, p) >= k) <= level, decided in integers."""
    hit, whole = p.numerator, p.denominator
    miss = whole - hit
    total, power, choose = 0, 1, math.comb(n, k)
    for j in range(k, n + 1):  # Horner from the top: total = sum over j' <= j of C(n, j') hit^(j' - k) miss^(j - j')
        total = total * miss + choose * power
        power *= hit
        choose = choose * (n - j) // (j + 1)
    numerator, denominator = level.as_integer_ratio()
    return bool(total * hit**k * denominator <= numerator * whole**n)


def room(p: float) -> Fraction:
    """What a bound may give away: a millionth of its distance from the nearer end of [0, 1], and 8 units of p."""
    return Fraction(min(p, 1.0 - p)) / 10**6 + 8 * Fraction(math.ulp(p))


def assert_sound_and_tight(k: int, n: int, alpha: float) -> None:
    """Both bounds for k of n: on the safe side of the exact bound, and within a millionth of it."""
    lower, upper = clopper_pearson_lower(k, n, alpha), clopper_pearson_upper(k, n, alpha)
    where = f"k = {k}, n = {n}, alpha = {alpha}"
    if k == 0:
        assert lower == 0.0, where
    else:
        assert tail_is_at_most(alpha, k, n, Fraction(lower)), f"the lower bound is too high at {where}"
        assert not tail_is_at_most(alpha, k, n, Fraction(lower) + room(lower)), f"the lower bound is loose at {where}"
    if k == n:
        assert upper == 1.0, where
    else:
        assert tail_is_at_most(alpha, n - k, n, 1 - Fraction(upper)), f"the upper bound is too low at {where}"
        assert not tail_is_at_most(alpha, n - k, n, 1 - Fraction(upper) + room(upper)), (
            f"the upper bound is loose at {where}"
        )


def spread(n: int, pieces: int) -> list[int]:
    """About `pieces` counts spread over 0..n, the ends and their neighbours included."""
    inner = {round(n * i / pieces) for i in range(pieces + 1)}
    return sorted(inner | {0, 1, 2, n - 2, n - 1, n} & set(range(n + 1)))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_every_count_up_to_n_36(alpha: float) -> None:
    """A bound on the wrong side of the exact one for any count of any small n fails."""
    for n in range(1, 37):
        for k in range(n + 1):
            assert_sound_and_tight(k, n, alpha)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_every_count_up_to_n_60(alpha: float) -> None:
    """The same for the levels that are asked for, up to n = 60."""
    for n in range(37, 61):
        for k in range(n + 1):
            assert_sound_and_tight(k, n, alpha)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("n", [61, 80, 100, 127, 150, 200, 250, 300])
def test_a_dense_set_of_counts_up_to_n_300(n: int, alpha: float) -> None:
    """A bound on the wrong side at an end, next to one, or in between fails at any level."""
    for k in spread(n, 25):
        assert_sound_and_tight(k, n, alpha)


def test_every_count_at_n_300() -> None:
    """A bound on the wrong side for any of the 301 counts at the default level fails."""
    for k in range(301):
        assert_sound_and_tight(k, 300, 0.001)


def tail_ball(k: int, n: int, p: Fraction) -> flint.arb:
    """P(Binomial(n, p) >= k) as a ball that contains it."""
    return flint.arb(flint.fmpq(p.numerator, p.denominator)).beta_lower(k, n - k + 1, True)


def enclosed_counts(n: int) -> list[int]:
    shares = {round(share * n) for share in (0.01, 0.5, 0.6, 0.75, 0.9, 0.99, 0.999)}
    return sorted(shares | {1, 2, 10, n - 10, n - 2, n - 1, n})


@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-6, 1e-12, SMALLEST_ALPHA])
@pytest.mark.parametrize("n", [1000, 10_000, 100_000, 1_000_000, LARGEST_N])
def test_large_n_by_enclosure(n: int, alpha: float) -> None:
    """A bound on the wrong side of a ball around the exact tail fails, and so does one that gives much away."""
    with flint.ctx.workprec(256):
        for k in enclosed_counts(n):
            lower, upper = clopper_pearson_lower(k, n, alpha), clopper_pearson_upper(n - k, n, alpha)
            assert tail_ball(k, n, Fraction(lower)) <= alpha, (k, lower)
            assert tail_ball(k, n, Fraction(lower) + room(lower)) > alpha, (k, lower)
            assert tail_ball(k, n, 1 - Fraction(upper)) <= alpha, (k, upper)
            assert tail_ball(k, n, 1 - Fraction(upper) + room(upper)) > alpha, (k, upper)


HARD = [
    # `betaincinv` lies above the exact bound by more than it was aimed below.
    (213449, 1708183, 8.127629525784249e-42),
    (392091, 8745668, 3.4270333210704025e-80),
    (1207516, 6650026, 1.506223942394566e-07),
    (803200, 4943916, 1.6637297667510374e-17),
    (108309, 585178, 9.139588957208316e-17),
    (189163, 968483, 4.168438626301966e-85),
    # `betainc` errs by more than 1e-10.
    (17, 9855320, 0.5442397239819108),
    (15, 5688656, 0.7129883232050651),
]


@pytest.mark.parametrize(("k", "n", "alpha"), HARD)
def test_where_scipy_errs_most(k: int, n: int, alpha: float) -> None:
    """A bound that trusts scipy's inverse, or its tail, where they are known to be worst fails."""
    with flint.ctx.workprec(256):
        lower = Fraction(clopper_pearson_lower(k, n, alpha))
        assert tail_ball(k, n, lower) <= alpha * (1 - flint.arb("1e-11"))
        assert tail_ball(k, n, lower) >= alpha * (1 - flint.arb("1e-7"))


def is_covered(bounds: Sequence[Fraction], p: Fraction, alpha: float) -> bool:
    """Whether P(bounds[K] > p) <= alpha under K ~ Binomial(n, p), decided in integers."""
    n, hit, whole = len(bounds) - 1, p.numerator, p.denominator
    miss = whole - hit
    mass = sum(math.comb(n, k) * hit**k * miss ** (n - k) for k in range(n + 1) if bounds[k] > p)
    numerator, denominator = alpha.as_integer_ratio()
    return bool(mass * denominator <= numerator * whole**n)


def beside(p: float) -> tuple[Fraction, Fraction, Fraction]:
    """p and the doubles beside it: a bound's error is largest just before p passes one of its values."""
    return Fraction(math.nextafter(p, 0.0)), Fraction(p), Fraction(math.nextafter(p, 1.0))


@pytest.mark.parametrize("alpha", [0.1, 0.01, 0.001, 1e-6])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 20, 40, 70, 100])
def test_lower_bound_covers_by_enumeration(n: int, alpha: float) -> None:
    """A lower bound above p with probability more than alpha, at the p beside any of its values, fails."""
    bounds = [clopper_pearson_lower(k, n, alpha) for k in range(n + 1)]
    exact = [Fraction(bound) for bound in bounds]
    assert all(is_covered(exact, p, alpha) for bound in bounds for p in beside(bound))


@pytest.mark.parametrize("alpha", [0.1, 0.001])
@pytest.mark.parametrize("n", [1, 2, 5, 20, 60])
def test_upper_bound_covers_by_enumeration(n: int, alpha: float) -> None:
    """An upper bound below p with probability more than alpha, at the p beside any of its values, fails."""
    bounds = [clopper_pearson_upper(k, n, alpha) for k in range(n + 1)]
    failures = [1 - Fraction(bound) for bound in reversed(bounds)]  # a lower bound on 1 - p, by failures
    assert all(is_covered(failures, 1 - p, alpha) for bound in bounds for p in beside(bound))


@pytest.mark.parametrize("bound", [clopper_pearson_lower, clopper_pearson_upper])
@pytest.mark.parametrize(("n", "alpha"), [(1, 0.5), (17, 0.001), (100, 0.01), (1000, 1e-6), (1000, 0.001)])
def test_bounds_grow_with_the_count(bound: Bound, n: int, alpha: float) -> None:
    """A bound that does not grow with every further success fails."""
    values = [bound(k, n, alpha) for k in range(n + 1)]
    assert all(a < b for a, b in pairwise(values))
    assert all(0.0 <= value <= 1.0 for value in values)


@pytest.mark.parametrize("bound", [clopper_pearson_lower, clopper_pearson_upper])
@pytest.mark.parametrize(
    ("k", "n", "alpha", "name"),
    [
        (0, 0, 0.05, "n"),
        (0, -1, 0.05, "n"),
        (1, LARGEST_N + 1, 0.05, "n"),
        (-1, 10, 0.05, "k"),
        (11, 10, 0.05, "k"),
        (5, 10, 0.0, "alpha"),
        (5, 10, 1.0, "alpha"),
        (5, 10, -0.1, "alpha"),
        (5, 10, 1e-101, "alpha"),
        (5, 10, math.nan, "alpha"),
    ],
)
def test_arguments_outside_their_range(bound: Bound, k: int, n: int, alpha: float, name: str) -> None:
    """A bound computed from an argument for which it is not vouched fails; the message names the argument."""
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        bound(k, n, alpha)


@pytest.mark.parametrize(("alpha", "least"), [(0.01, 7), (0.001, 10), (1e-4, 14), (1e-6, 20)])
def test_smallest_certifying_n_as_published(alpha: float, least: int) -> None:
    """An n other than ceil(ln alpha / ln 1/2) fails."""
    assert smallest_certifying_n(alpha) == least


@pytest.mark.parametrize("deduction", [0.0, 3e-14, 1e-8, 0.01, 0.1, 0.3])
@pytest.mark.parametrize("alpha", [0.75, 0.5, 0.25, 0.125, 0.05, 0.01, 0.001, 2.0**-20, 1e-12, SMALLEST_ALPHA])
def test_smallest_certifying_n_by_brute_force(alpha: float, deduction: float) -> None:
    """An n at which unanimous votes do not certify, or a smaller one at which they would, fails."""
    brute = next(n for n in range(1, 10**5) if clopper_pearson_lower(n, n, alpha) - deduction > 0.5)
    assert smallest_certifying_n(alpha, deduction) == brute


@pytest.mark.parametrize("deduction", [0.49999999, math.nextafter(0.5, 0.0)])
def test_no_n_is_enough_under_a_large_deduction(deduction: float) -> None:
    """An n named although 10^7 unanimous votes would not do, or another error than the documented one, fails."""
    with pytest.raises(ValueError, match="no n up to"):
        smallest_certifying_n(0.001, deduction)


@pytest.mark.parametrize("deduction", [0.5, 1.0, -1e-9, math.nan])
def test_deduction_outside_its_range(deduction: float) -> None:
    """A deduction that leaves nothing above 1/2 to show, accepted, fails."""
    with pytest.raises(ValueError, match="deduction"):
        smallest_certifying_n(0.001, deduction)


@pytest.mark.parametrize("alpha", [0.75, 0.5, 0.05, 0.01, 0.001, 2.0**-9, 2.0**-20, 1e-12, SMALLEST_ALPHA])
def test_smallest_predicting_n_by_exact_powers(alpha: float) -> None:
    """An n at which 2 (1/2)^n exceeds alpha, or an unnecessarily large one, fails (an exact tie may abstain)."""
    n = smallest_predicting_n(alpha)
    assert 2 * Fraction(1, 2**n) <= alpha
    assert n == 1 or 2 * Fraction(1, 2 ** (n - 1)) >= alpha
