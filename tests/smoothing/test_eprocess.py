"""The e-process: a martingale at the null, its value by enclosure, and nothing made from underflow."""

from __future__ import annotations

import math

import numpy as np
import pytest

from certserve.smoothing.enclosures import log_e_value
from certserve.smoothing.eprocess import LEAST_PRIOR_MASS, SLACK, EProcess, Prior, crossing_level, informed_priors

NULLS = (0.3, 0.5, 0.69, 0.84, 0.977, 0.9987)


def value(process: EProcess, successes: int, failures: int) -> float:
    return math.exp(float(process.log_value(successes, failures)))


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize(("k0", "n0"), [(0, 10), (7, 10), (10, 10), (84, 100)])
def test_it_is_a_martingale_at_the_null(null: float, k0: int, n0: int) -> None:
    """A value whose mean after one more draw, at p = null, is another fails; so does one that does not start at 1."""
    process = EProcess(null, informed_priors(k0, n0 - k0))
    assert value(process, 0, 0) == pytest.approx(1.0, rel=1e-12)
    for draws in (0, 1, 2, 5, 17, 60):
        for s in range(draws + 1):
            f = draws - s
            after = null * value(process, s + 1, f) + (1.0 - null) * value(process, s, f + 1)
            assert after == pytest.approx(value(process, s, f), rel=1e-9, abs=1e-280)


@pytest.mark.parametrize("null", NULLS)
def test_it_falls_below_the_null(null: float) -> None:
    """A value whose mean grows at some p below the null fails."""
    process = EProcess(null, informed_priors(8, 2))
    for p in (null * 0.2, null * 0.9, null - 1e-3):
        for s in range(41):
            after = p * value(process, s + 1, 40 - s) + (1.0 - p) * value(process, s, 41 - s)
            assert after <= value(process, s, 40 - s) * (1.0 + 1e-12)


ENCLOSED = [
    (0.69, 10, 10, 5, 0),
    (0.84, 100, 84, 900, 100),
    (0.84, 100, 0, 900, 100),
    (0.9987, 10_000, 10_000, 5000, 0),
    (0.9987, 100, 99, 100_000, 80),
    (0.977, 10_000, 9_000, 3_000, 10),
    (0.84, 10, 3, 845_000, 155_000),
    (0.5, 20, 20, 16, 0),
    (0.977, 10_000, 5_000, 9_790_000, 210_000),
    (0.84, 100, 84, 8_410_000, 1_590_000),
]


@pytest.mark.parametrize(("null", "n0", "k0", "s", "f"), ENCLOSED)
def test_its_value_by_enclosure(null: float, n0: int, k0: int, s: int, f: int) -> None:
    """ln W further from the exact value than a tenth of the room that the level leaves fails, up to 10^7 draws."""
    priors = informed_priors(k0, n0 - k0)
    exact = log_e_value(null, priors, s, f)
    found = float(EProcess(null, priors).log_value(s, f))
    assert exact.low - SLACK / 10 <= found <= exact.high + SLACK / 10


def test_a_prior_without_mass_above_the_null_is_left_out() -> None:
    """A component below 1e-200 that is kept, or whose weight goes to the other, fails."""
    null = 0.977
    without = EProcess(null, informed_priors(9_000, 1_000))
    assert value(without, 0, 0) == pytest.approx(0.5, rel=1e-12)
    alone = EProcess(null, [Prior(0.5, 0.5)])
    for s, f in [(128, 0), (500, 5), (900, 100)]:
        expected = float(alone.log_value(s, f)) - math.log(2.0)
        assert float(without.log_value(s, f)) == pytest.approx(expected, rel=1e-12)
    kept = EProcess(null, [Prior(9_000.5, 1_000.5)])
    assert float(kept.log_value(128, 0)) == -math.inf


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("n0", [10, 100, 1_000, 10_000])
def test_nothing_comes_of_underflow(null: float, n0: int) -> None:
    """A value above that of the best likelihood ratio, or one that is not a number, for any selection, fails."""
    draws = np.array([1, 16, 128, 1_024, 20_000])
    for k0 in {0, 1, n0 // 4, n0 // 2, 3 * n0 // 4, n0 - 1, n0}:
        process = EProcess(null, informed_priors(k0, n0 - k0))
        for share in (0.0, 0.5 * null, 0.9 * null, null, 0.5 * (1.0 + null), 1.0):
            s = np.round(share * draws).astype(np.int64)
            found = process.log_value(s, draws - s)
            hit = s / draws
            with np.errstate(divide="ignore", invalid="ignore"):
                best = np.where(s > 0, s * np.log(hit / null), 0.0) + np.where(
                    s < draws, (draws - s) * np.log((1.0 - hit) / (1.0 - null)), 0.0
                )
            assert (found <= np.where(hit > null, best, 0.0) + 1e-9).all()
            assert not np.isnan(found).any()


@pytest.mark.parametrize("null", NULLS)
def test_the_short_cut_decides_as_the_value_does(null: float) -> None:
    """A count that `reaches` judges otherwise than ln W >= level does fails."""
    level = crossing_level(0.001)
    certain = round(10_000 * (0.5 + 0.5 * null))
    for priors in (informed_priors(6, 4), informed_priors(certain, 10_000 - certain)):
        process = EProcess(null, priors)
        for draws in (7, 16, 50, 100, 128, 1_000):
            for s in range(draws + 1):
                expected = bool(process.log_value(s, draws - s) >= level)
                assert process.reaches(level, s, draws - s) == expected


def test_half_of_the_prior_follows_the_earlier_draws() -> None:
    """A prior of other shapes than Beta(1/2 + successes, 1/2 + failures) and Beta(1/2, 1/2) fails."""
    assert informed_priors(7, 3) == (Prior(7.5, 3.5), Prior(0.5, 0.5))


def test_the_level_leaves_room() -> None:
    """A level below ln(1 / alpha) + 1e-6 fails."""
    assert crossing_level(0.001) == math.log(1000.0) + 1e-6
    assert LEAST_PRIOR_MASS == 1e-200


@pytest.mark.parametrize("null", [0.0, 1.0, -0.1, math.nan])
def test_no_null_outside_its_range(null: float) -> None:
    """A process against a null that is no probability fails."""
    with pytest.raises(ValueError, match="null"):
        EProcess(null, [Prior(0.5, 0.5)])


def test_what_is_not_finite_is_no_evidence() -> None:
    """A value of +infinity or NaN, wherever it may come from, that counts as evidence fails."""
    process = EProcess(0.84, informed_priors(8, 2))
    process._components.append((0.5, 0.5, -math.inf))  # as if a prior's mass had come to 0
    assert process.log_value(np.array([0, 128]), np.array([0, 0])).tolist() == [-math.inf, -math.inf]
    assert not process.reaches(crossing_level(0.001), 128, 0)
