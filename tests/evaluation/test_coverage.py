"""The exact error rate of a fixed plan, against exact rational enumeration."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from certserve.evaluation.coverage import fixed_error_rate
from certserve.smoothing.bounds import clopper_pearson_lower
from certserve.smoothing.plans import Fixed


def enumerated(plan: Fixed, p: float) -> Fraction:
    """The sum of the binomial masses of every count whose bound exceeds p."""
    exact = Fraction(p)
    return sum(
        (
            comb(plan.n, k) * exact**k * (1 - exact) ** (plan.n - k)
            for k in range(plan.n + 1)
            if clopper_pearson_lower(k, plan.n, plan.alpha) > p
        ),
        Fraction(0),
    )


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.69, 0.84, 0.977, 0.9987])
@pytest.mark.parametrize("n", [1, 7, 60])
@pytest.mark.parametrize("alpha", [0.3, 0.05, 0.001])
def test_the_rate_is_the_sum_of_the_masses(n: int, alpha: float, p: float) -> None:
    """Fails if a count is left out or counted twice, or the rate is rounded down."""
    plan = Fixed(1, n, alpha)
    found, exact = fixed_error_rate(plan, p), enumerated(plan, p)
    assert exact <= Fraction(found.rate) <= exact * (1 + Fraction(1, 10**12))
    assert Fraction(found.rate) <= Fraction(found.worst_rate) <= Fraction(alpha)
    assert Fraction(found.worst_rate) >= enumerated(plan, found.worst_p)
    assert found.worst_p >= p


def test_near_a_bound_the_rate_comes_close_to_alpha() -> None:
    """Fails if the worst case is looked for in the wrong place: there the bound is tight."""
    found = fixed_error_rate(Fixed(100, 10_000, 0.001), 0.84)
    assert 0.001 * (1 - 1e-6) <= found.worst_rate <= 0.001


@pytest.mark.parametrize("p", [0.0, 1.0, -1.0, float("nan")])
def test_probabilities_outside_the_open_interval_are_refused(p: float) -> None:
    """Fails if a meaningless question gets a number."""
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        fixed_error_rate(Fixed(1, 10, 0.5), p)
