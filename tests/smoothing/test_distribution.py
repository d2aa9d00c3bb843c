"""The radius against ball arithmetic: never above sigma * Phi^-1(p), and hardly below it."""

from __future__ import annotations

import math
from itertools import pairwise

import flint
import pytest

from certserve.smoothing.bounds import clopper_pearson_lower
from certserve.smoothing.distribution import Gaussian

SIGMAS = (1e-3, 0.12, 0.25, 0.5, 1.0, 10.0)


def probabilities() -> list[float]:
    """Probabilities in (1/2, 1): dense, close to both ends, and those that a certificate can have."""
    dense = [0.5 + i / 2000 for i in range(1, 1000)]
    ends = [0.5 + 2.0**-j for j in range(2, 54)] + [1.0 - 2.0**-j for j in range(2, 54)]
    bounds = [clopper_pearson_lower(k, 1000, 0.001) for k in range(560, 1001)]
    return sorted({*dense, *ends, *bounds, math.nextafter(0.5, 1.0), math.nextafter(1.0, 0.0)})


def true_radius(sigma: float, p: float) -> flint.arb:
    """sigma * Phi^-1(p) of the exact doubles, as a ball that contains it."""
    return flint.arb(sigma) * flint.arb(2).sqrt() * (2 * flint.arb(p) - 1).erfinv()


@pytest.mark.parametrize("sigma", SIGMAS)
def test_radius_never_exceeds_the_true_one_and_is_close(sigma: float) -> None:
    """A radius above sigma * Phi^-1(p), or further below it than 1e-13 of itself, fails."""
    distribution = Gaussian(sigma)
    with flint.ctx.workprec(300):
        for p in probabilities():
            radius, truth = distribution.radius(p), true_radius(sigma, p)
            assert flint.arb(radius) <= truth, p
            assert flint.arb(radius) >= truth * (1 - flint.arb("1e-13")), p


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_normal_law_at_the_radius_is_at_most_p(sigma: float) -> None:
    """A radius R with Phi(R / sigma) > p fails, by the complementary error function instead of its inverse."""
    distribution = Gaussian(sigma)
    with flint.ctx.workprec(300):
        for p in probabilities():
            x = flint.arb(distribution.radius(p)) / flint.arb(sigma)
            assert (-x / flint.arb(2).sqrt()).erfc() / 2 <= p, p


@pytest.mark.parametrize("sigma", SIGMAS)
def test_radius_grows_with_p(sigma: float) -> None:
    """A larger probability that carries a smaller radius fails."""
    radii = [Gaussian(sigma).radius(p) for p in probabilities()]
    assert all(a <= b for a, b in pairwise(radii))
    assert all(a < b for a, b in pairwise(radii[::2]))
    assert radii[0] > 0.0


def test_radius_grows_with_every_vote() -> None:
    """One more vote that carries no larger radius fails."""
    radii = [Gaussian(0.25).radius(clopper_pearson_lower(k, 1000, 0.001)) for k in range(550, 1001)]
    assert all(a < b for a, b in pairwise(radii))


@pytest.mark.parametrize("p", [0.0, 5e-324, 0.25, math.nextafter(0.5, 0.0), 0.5])
def test_no_radius_at_or_below_one_half(p: float) -> None:
    """A radius other than 0 where the class need not lead fails."""
    assert Gaussian(0.25).radius(p) == 0.0


@pytest.mark.parametrize("p", [1.0, 1.5, -0.1, -5e-324, math.nan, math.inf])
def test_probability_outside_its_range(p: float) -> None:
    """A radius from a number that is no probability below 1 fails."""
    with pytest.raises(ValueError, match="p_lower"):
        Gaussian(0.25).radius(p)


@pytest.mark.parametrize("sigma", [0.0, -0.25, math.inf, -math.inf, math.nan])
def test_sigma_outside_its_range(sigma: float) -> None:
    """A distribution without a positive finite standard deviation fails."""
    with pytest.raises(ValueError, match="sigma"):
        Gaussian(sigma)


def test_the_norm_is_l2() -> None:
    """A Gaussian radius labelled with another norm fails."""
    assert Gaussian(0.5).norm == "L2"
