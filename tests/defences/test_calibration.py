"""Thresholds and p-values by rank: their promises hold for every order of the scores, by enumeration."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from certserve.defences.calibration import Calibration, false_positive_interval, smallest_validation
from certserve.errors import BundleError

RATES = [0.5, 0.34, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.001]
DECIMAL = {rate: Fraction(str(rate)) for rate in RATES}
COUNTS = [1, 2, 3, 4, 5, 9, 19, 20, 99, 999, 1000]
ENOUGH = [(rate, count) for rate in RATES for count in COUNTS if (count + 1) * DECIMAL[rate] >= 1]


def of(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


@pytest.mark.parametrize(("rate", "count"), ENOUGH)
def test_an_exchangeable_image_is_flagged_at_the_rate_at_most(rate: float, count: int) -> None:
    """Without ties, the new score has each of count + 1 ranks with the same probability."""
    flagged, p_values = [], []
    for rank in range(count + 1):  # the new image's, among all; the others are the validation images'
        found = Calibration(np.delete(np.arange(count + 1, dtype=np.float32), rank), rate)
        flagged.append(bool(found.flagged(of(rank))[0]))
        p_values.append(Fraction(round(found.p_values(of(rank))[0] * (count + 1)), count + 1))
        assert flagged[-1] == (p_values[-1] <= DECIMAL[rate])
    share = Fraction(sum(flagged), count + 1)
    assert DECIMAL[rate] - Fraction(1, count + 1) < share <= DECIMAL[rate]
    assert sorted(p_values) == [Fraction(k, count + 1) for k in range(1, count + 2)]


@pytest.mark.parametrize("rate", [0.5, 0.34, 0.25, 0.2])
def test_ties_make_it_rarer_and_never_more_frequent(rate: float) -> None:
    """Every multiset of five scores of three values, each image of it being the new one in turn."""
    for scores in itertools.combinations_with_replacement((0.0, 1.0, 2.0), 5):
        p_values, flagged = [], 0
        for new in range(5):
            found = Calibration(of(*(scores[:new] + scores[new + 1 :])), rate)
            value = found.p_values(of(scores[new]))[0]
            p_values.append(value)
            flagged += int(found.flagged(of(scores[new]))[0])
            assert bool(found.flagged(of(scores[new]))[0]) == (value <= rate)
        assert Fraction(flagged, 5) <= DECIMAL[rate]
        for level in (1, 2, 3, 4, 5):
            assert sum(value <= level / 5 + 1e-12 for value in p_values) <= level


def test_the_ends_are_conservative() -> None:
    found = Calibration(np.arange(99, dtype=np.float32), 0.01)
    assert found.rank == 1
    assert found.threshold == 98.0
    assert found.p_values(of(-1, 0, 98, 99, np.inf, np.nan)).tolist() == [1.0, 1.0, 0.02, 0.01, 0.01, 0.01]
    assert found.flagged(of(-1, 0, 98, 99, np.inf, np.nan)).tolist() == [False, False, False, True, True, True]


@pytest.mark.parametrize("rate", RATES)
def test_too_few_images_are_refused_and_the_fewest_that_would_do_are_named(rate: float) -> None:
    least = smallest_validation(rate)
    assert least == math.ceil(1 / DECIMAL[rate]) - 1
    assert Calibration(np.zeros(least, np.float32), rate).rank == 1
    with pytest.raises(BundleError, match=rf"^a false-positive rate of {rate} needs {least} validation images at "):
        Calibration(np.zeros(least - 1, np.float32), rate)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (np.zeros(9), "float32 scores, not float64"),
        (np.zeros((9, 1), np.float32), r"float32 scores, not float32 \(9, 1\)"),
        (of(0, 1, np.nan, 3), "finite"),
        (of(0, 1, 2, np.inf), "finite"),
        (of(0, 2, 1, 3), "must be increasing"),
    ],
)
def test_scores_that_are_none_are_refused(scores: Any, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        Calibration(scores, 0.5)


def test_the_rate_is_what_is_written_and_not_the_nearest_binary_fraction() -> None:
    assert Calibration(np.arange(19, dtype=np.float32), 0.15).rank == 3
    assert Fraction(0.15) * 20 < 3


@pytest.mark.parametrize(("rate", "count"), [(0.01, 100), (0.001, 4500), (0.05, 59)])
def test_the_interval_is_that_of_ranks_in_one_shuffled_row(rate: float, count: int) -> None:
    """The k-th largest of N is exceeded by j of M new ones as often as C(k-1+j, j) C(N-k+M-j, M-j) / C(N+M, M)."""
    images, rank = 200, math.floor(DECIMAL.get(rate, Fraction(str(rate))) * (count + 1))
    low, high = false_positive_interval(rate, count, images)
    masses = [
        Fraction(math.comb(rank - 1 + j, j) * math.comb(count - rank + images - j, images - j))
        / math.comb(count + images, images)
        for j in range(images + 1)
    ]
    assert sum(masses) == 1
    assert sum(masses[low : high + 1]) >= Fraction(95, 100)
    assert sum(masses[:low]) <= Fraction(25, 1000) + Fraction(1, 10**9)
    assert sum(masses[high + 1 :]) <= Fraction(25, 1000) + Fraction(1, 10**9)
    if high > low:
        assert sum(masses[:high]) < Fraction(975, 1000)
