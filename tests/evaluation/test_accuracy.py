"""Certified accuracy is a plain count; its intervals cover, by enumerating every outcome."""

from __future__ import annotations

import math
from functools import cache

import pytest

from certserve.evaluation.accuracy import Comparison, Share, certified_accuracy, compare
from certserve.evaluation.tables import ABSTAINED, Row, TableError
from certserve.smoothing.bounds import clopper_pearson_lower, clopper_pearson_upper

RIGHT, WRONG, ABSTAINS = (1, 1.0), (2, 1.0), (ABSTAINED, 0.0)
CHANCES = (0.0, 0.001, 0.02, 0.1, 0.31, 0.5, 0.77, 0.95, 0.999, 1.0)
ROUNDING = 1e-9


def rows(*answers: tuple[int, float]) -> list[Row]:
    """A row an answer (class, radius); the true class is 1."""
    return [Row(idx, 1, predict, radius) for idx, (predict, radius) in enumerate(answers)]


def binomial(k: int, n: int, p: float) -> float:
    """The probability of k successes in n."""
    return math.comb(n, k) * p**k * (1.0 - p) ** (n - k)


@cache
def share(k: int, n: int, alpha: float) -> Share:
    """The share of a table with k of n images certified."""
    return certified_accuracy(rows(*[RIGHT] * k, *[WRONG] * (n - k)), 0.5, alpha=alpha)


@cache
def paired(only_ours: int, only_theirs: int, n: int, level: float) -> Comparison:
    """The comparison of tables with these discordant images among n; the others alternate."""
    both = [(RIGHT, RIGHT) if i % 2 else (WRONG, ABSTAINS) for i in range(n - only_ours - only_theirs)]
    answers = [(RIGHT, ABSTAINS)] * only_ours + [(WRONG, RIGHT)] * only_theirs + both
    return compare(rows(*(a for a, _ in answers)), rows(*(b for _, b in answers)), 0.5, level=level)


def test_the_count_is_what_counting_gives() -> None:
    answers = [(i % 3, (i * 37 % 100) / 100.0) for i in range(120)]
    answers += [ABSTAINS] * 9
    for radius in (0.0, 0.01, 0.25, 0.36, 0.5, 0.99, 1.0, 2.0):
        expected = 0
        for predict, certified in answers:
            if predict == 1 and certified >= radius:
                expected += 1
        found = certified_accuracy(rows(*answers), radius, alpha=0.001)
        assert (found.radius, found.count, found.total) == (radius, expected, 129)
        assert found.value == expected / 129
        assert found.low <= found.value <= found.high


def test_a_radius_met_exactly_counts() -> None:
    table = rows((1, 0.5))
    assert certified_accuracy(table, 0.5, alpha=0.001).count == 1
    assert certified_accuracy(table, math.nextafter(0.5, 1.0), alpha=0.001).count == 0


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (59, 60)])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_only_the_lower_end_is_corrected(k: int, n: int, alpha: float) -> None:
    low = clopper_pearson_lower(k, n, 0.025)
    assert share(k, n, alpha).low == max(0.0, (low - alpha) / (1.0 - alpha))
    assert share(k, n, alpha).high == clopper_pearson_upper(k, n, 0.025)


def test_the_level_is_the_one_asked_for() -> None:
    table = rows(*[RIGHT] * 7, *[WRONG] * 3)
    found = certified_accuracy(table, 0.5, alpha=0.0, level=0.4)
    assert (found.low, found.high) == (clopper_pearson_lower(7, 10, 0.2), clopper_pearson_upper(7, 10, 0.2))


def test_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        certified_accuracy([], 0.5, alpha=0.001)


@pytest.mark.parametrize("n", [1, 8, 25, 60])
@pytest.mark.parametrize("p", CHANCES)
@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_the_interval_covers_the_share_certified(n: int, p: float, alpha: float) -> None:
    found = [share(k, n, alpha) for k in range(n + 1)]
    too_high = sum(binomial(k, n, p) for k in range(n + 1) if found[k].low > p)
    too_low = sum(binomial(k, n, p) for k in range(n + 1) if found[k].high < p)
    assert too_high <= 0.025 + ROUNDING
    assert too_low <= 0.025 + ROUNDING


@pytest.mark.parametrize("n", [8, 25, 60])
@pytest.mark.parametrize("true", CHANCES)
def test_the_lower_end_holds_where_certificates_are_as_false_as_they_may_be(n: int, true: float) -> None:
    alpha = 0.05
    certified = true + (1.0 - true) * alpha
    wrong = sum(binomial(k, n, certified) for k in range(n + 1) if share(k, n, alpha).low > true)
    assert wrong <= 0.025 + ROUNDING


@pytest.mark.parametrize("n", [1, 10, 25])
@pytest.mark.parametrize("level", [0.05, 0.2])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(0.0, 0.0), (0.1, 0.0), (0.0, 0.3), (0.1, 0.1), (0.3, 0.1), (0.5, 0.5), (0.05, 0.9), (0.7, 0.2), (1.0, 0.0)],
)
def test_the_interval_covers_the_difference(n: int, level: float, ours: float, theirs: float) -> None:
    covered = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            ways = math.comb(n, b) * math.comb(n - b, c)
            chance = ways * ours**b * theirs**c * max(0.0, 1.0 - ours - theirs) ** (n - b - c)
            found = paired(b, c, n, level)
            covered += chance * (found.low <= ours - theirs <= found.high)
    assert covered >= 1.0 - level - ROUNDING


def test_the_interval_of_the_difference_can_be_told_from_nothing() -> None:
    assert paired(20, 0, 25, 0.05).low > 0.4
    assert paired(0, 20, 25, 0.05).high < -0.4
    assert paired(2, 2, 25, 0.05).low < 0.0 < paired(2, 2, 25, 0.05).high


def test_the_pairs_are_counted_by_image() -> None:
    ours = [Row(3, 1, 1, 0.6), Row(1, 1, 1, 0.6), Row(2, 1, 1, 0.4), Row(9, 1, 1, 0.9), Row(4, 1, 1, 0.7)]
    theirs = [Row(1, 1, 1, 0.4), Row(2, 1, 1, 0.6), Row(3, 1, 2, 0.6), Row(8, 1, 1, 0.9), Row(4, 1, 1, 0.5)]
    found = compare(ours, theirs, 0.5)
    assert (found.total, found.only_ours, found.only_theirs) == (4, 2, 1)
    assert found.difference == 0.25
    mirrored = compare(theirs, ours, 0.5)
    assert mirrored.difference == -0.25
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


def test_another_true_label_is_refused() -> None:
    ours = [Row(1, 1, 1, 0.5), Row(2, 0, 0, 0.5)]
    with pytest.raises(TableError, match=r"\[2\].*not the same data set"):
        compare(ours, [Row(1, 1, 1, 0.5), Row(2, 3, 3, 0.5)], 0.5)


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(TableError, match="no image in common"):
        compare([Row(1, 1, 1, 0.5)], [Row(2, 1, 1, 0.5)], 0.5)
