"""Looks at indices fixed beforehand, and shares of alpha that never add up to more."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest

from certserve.smoothing.schedules import EveryLook, doubling_looks, even_radii, look_alphas, split_alpha


@pytest.mark.parametrize("n", [1, 16, 100, 128, 129, 255, 256, 1000, 100_000])
@pytest.mark.parametrize("step", [1, 16, 128])
def test_a_look_at_every_multiple_and_at_the_end(step: int, n: int) -> None:
    """A sequence other than all multiples below n, and n, by index, slice, membership or iteration, fails."""
    expected = [*range(step, n, step), n]
    looks = EveryLook(step, n)
    assert list(looks) == expected
    assert len(looks) == len(expected)
    assert looks[-1] == n
    assert looks[:3] == tuple(expected[:3])
    assert {draws for draws in range(-1, n + 2) if draws in looks} == set(expected)


def test_looks_of_ten_million_draws_take_no_memory() -> None:
    """A materialised sequence fails: it would be 78,125 numbers for every job."""
    looks = EveryLook(128, 10_000_000)
    assert len(looks) == 78_125
    assert not hasattr(looks, "__dict__") or set(vars(looks)) == {"_step", "_n"}
    assert looks == EveryLook(128, 10_000_000) != EveryLook(128, 10_000_001)
    with pytest.raises(IndexError):
        looks[78_125]


@pytest.mark.parametrize(("step", "n"), [(0, 1), (1, 0), (-1, 5)])
def test_no_look_before_the_first_draw(step: int, n: int) -> None:
    """A step or an end below one draw, accepted, fails."""
    with pytest.raises(ValueError, match="at least 1"):
        EveryLook(step, n)


@pytest.mark.parametrize("n", [1, 199, 200, 300, 301, 1_000, 10_000, 100_000, 10_000_000])
def test_doubling_looks(n: int) -> None:
    """Looks that do not double, or one so near the end that it costs alpha for nothing, fail."""
    looks = doubling_looks(n)
    assert looks[-1] == n
    assert all(b == 2 * a for a, b in pairwise(looks[:-1]))
    assert all(look <= 2 * n / 3 for look in looks[:-1])
    assert looks[:-1] == () or (looks[0] == 200 and 2 * looks[-2] > 2 * n / 3)


ALPHAS = (0.5, 0.1, 0.05, 0.001, 1e-6, 1e-90, 0.3, 1 / 3, 0.7)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("count", [*range(1, 30), 1000])
def test_shares_never_add_up_to_more_than_alpha(alpha: float, count: int) -> None:
    """Shares whose exact sum exceeds alpha, or gives some of it away, fail; so does a last share other than 80 %."""
    shares = look_alphas(alpha, count)
    assert len(shares) == count
    assert sum(map(Fraction, shares)) <= Fraction(alpha)
    assert sum(map(Fraction, shares)) >= Fraction(alpha) * (1 - Fraction(1, 10**12))
    assert shares[-1] == pytest.approx(alpha if count == 1 else 0.8 * alpha, rel=1e-12)
    both = [share for part in shares for share in split_alpha(part)]
    assert sum(map(Fraction, both)) <= Fraction(alpha)
    assert min(both) > 0.0


def test_even_radii() -> None:
    """A grid with another first radius, step or length fails."""
    assert even_radii(0.25, 0.125, 4) == (0.25, 0.375, 0.5, 0.625)
