"""The two-class bound: by enumeration over all votes, and on published vote vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from certserve.smoothing.bounds import clopper_pearson_lower, clopper_pearson_upper
from certserve.smoothing.decision import certified_probability, runner_up_probability
from certserve.smoothing.distribution import Gaussian
from certserve.smoothing.enclosures import normal_quantile
from certserve.smoothing.outcomes import Abstention, Bound, Case, Certificate, Votes
from certserve.smoothing.plans import Fixed, Looks
from certserve.smoothing.verification import verify

Question = Callable[..., Case]
Shares = tuple[Fraction, ...]


def is_false(outcome: Certificate, p: Shares) -> bool:
    """Whether a bound of it is on the wrong side of the truth: more often than the radius is too large."""
    runner_up = max(share for c, share in enumerate(p) if c != outcome.label)
    return Fraction(outcome.p_lower) > p[outcome.label] or Fraction(outcome.p_upper) < runner_up


POPULATIONS = [(1, 1, 0, 0), (5, 4, 1, 0), (3, 3, 3, 1), (2, 1, 1, 1), (7, 2, 1, 0), (6, 0, 0, 4), (19, 1, 0, 0)]


@pytest.mark.parametrize("parts", POPULATIONS)
@pytest.mark.parametrize(("n", "alpha"), [(9, 0.3), (14, 0.1)])
def test_fixed_is_false_with_probability_at_most_alpha(
    n: int, alpha: float, parts: tuple[int, ...], question: Question, enumeration: ModuleType
) -> None:
    """More than alpha of all votes of 3 classes and of none, whatever was selected, giving a false bound, fails."""
    p = tuple(Fraction(part, sum(parts)) for part in parts)
    plan = Fixed(1, n, alpha, Bound.TWO_CLASS)
    for selected in range(3):
        selection = Votes(tuple(int(c == selected) for c in range(3)))
        wrong = Fraction(0)
        for *counts, none in enumeration.compositions(n, 4):
            outcome = plan.begin(question()).look(selection, Votes(tuple(counts), none))
            if isinstance(outcome, Certificate) and is_false(outcome, p):
                wrong += enumeration.multinomial((*counts, none), p)
        assert wrong <= Fraction(alpha)


@pytest.mark.parametrize("parts", [(1, 1, 0), (5, 4, 1), (7, 2, 1)])
def test_looks_are_false_with_probability_at_most_alpha(
    parts: tuple[int, ...], question: Question, enumeration: ModuleType
) -> None:
    """More than alpha of all courses of votes over two looks giving a false certificate at either fails."""
    p = tuple(Fraction(part, sum(parts)) for part in parts)
    plan = Looks(1, (6, 12), 0.3, Bound.TWO_CLASS)
    steps = list(enumeration.compositions(6, 3))
    wrong = certified = Fraction(0)
    for first, second in product(steps, steps):
        decider = plan.begin(question())
        decider.look(Votes((1, 0, 0)), Votes(first))
        early = decider.best
        last = decider.look(Votes((1, 0, 0)), Votes(tuple(a + b for a, b in zip(first, second, strict=True))))
        issued = [outcome for outcome in (early, last) if isinstance(outcome, Certificate)]
        weight = enumeration.multinomial(first, p) * enumeration.multinomial(second, p)
        certified += weight * bool(issued)
        wrong += weight * any(is_false(outcome, p) for outcome in issued)
    assert wrong <= Fraction(3, 10)
    assert certified > 0


@pytest.mark.parametrize("error", [0.0, 3e-14, 1e-3])
def test_its_parts(error: float, question: Question) -> None:
    """A bound at another level, from another count, or without d eps fails; so does one that is not lowered."""
    plan = Fixed(10, 1000, 0.001, Bound.TWO_CLASS)
    (alpha,), (other,) = plan.schedule.alphas, plan.schedule.runner_up_alphas
    votes = Votes((300, 450, 50), 200)
    outcome = plan.begin(question(error=error)).look(Votes((0, 10, 0)), votes)
    assert isinstance(outcome, Certificate)
    assert outcome.p_lower == certified_probability(450, 1000, alpha, error) < 0.5
    assert outcome.p_upper == runner_up_probability(300, 1000, other, error)
    assert outcome.radius == Gaussian(0.25).two_class_radius(outcome.p_lower, outcome.p_upper) > 0.0
    clear = plan.begin(question(error=error)).look(Votes((0, 10, 0)), Votes((10, 990, 0)))
    assert isinstance(clear, Certificate)
    assert Fraction(1) - Fraction(clear.p_lower) <= Fraction(clear.p_upper) <= 1 - clear.p_lower + 1e-15
    assert clear.radius == pytest.approx(Gaussian(0.25).radius(clear.p_lower), rel=1e-12)


def test_votes_for_no_class_can_be_the_runner_up(question: Question) -> None:
    """Draws without finite logits that are not eligible as the runner-up would certify here: fails."""
    plan = Fixed(10, 1000, 0.001, Bound.TWO_CLASS)
    outcome = plan.begin(question()).look(Votes((10, 0, 0)), Votes((450, 50, 50), 450))
    assert isinstance(outcome, Abstention)
    assert outcome.p_upper > 0.45


def test_it_abstains_exactly_where_the_radius_is_not_positive(question: Question) -> None:
    """An abstention with p_lower above p_upper, or a certificate without, for any votes of 60 draws, fails."""
    plan = Fixed(10, 60, 0.05, Bound.TWO_CLASS)
    for k in range(61):
        for other in range(61 - k):
            outcome = plan.begin(question()).look(Votes((10, 0, 0)), Votes((k, other, 60 - k - other)))
            runner_up = clopper_pearson_upper(max(other, 60 - k - other), 60, plan.schedule.runner_up_alphas[0])
            shown = clopper_pearson_lower(k, 60, plan.schedule.alphas[0]) > min(
                runner_up, 1 - clopper_pearson_lower(k, 60, plan.schedule.alphas[0])
            )
            assert isinstance(outcome, Certificate) == shown
            assert isinstance(outcome, Certificate) or "was not shown to be above" in outcome.statement


@pytest.mark.parametrize("k", range(0, 301, 10))
@pytest.mark.parametrize("error", [0.0, 3e-14, 1e-3])
def test_the_deduction_is_added(k: int, error: float) -> None:
    """An upper bound below the exact one plus d eps, by exact rationals, fails; so does one much above."""
    p_upper = runner_up_probability(k, 300, 0.001, error)
    exact = min(Fraction(1), Fraction(clopper_pearson_upper(k, 300, 0.001)) + Fraction(error))
    assert exact <= Fraction(p_upper) <= exact + Fraction(1, 10**15)


GRID = (1e-12, 1e-6, 0.01, 0.2, 0.4999, 0.5 - 1e-12, 0.5, 0.5 + 1e-12, 0.5001, 0.7, 0.9, 0.9999, 1 - 1e-9)


@pytest.mark.parametrize(("p_lower", "p_upper"), list(product(GRID, GRID)))
def test_the_radius_is_rounded_down(p_lower: float, p_upper: float) -> None:
    """A radius above the exact one, by enclosure, or far below it, fails."""
    radius = Gaussian(0.25).two_class_radius(p_lower, p_upper)
    if p_lower <= p_upper:
        assert radius == 0.0
        return
    lower, upper = normal_quantile(p_lower), normal_quantile(p_upper)
    exact = (Fraction(lower.low) - Fraction(upper.high)) / 8
    assert Fraction(radius) <= exact
    assert radius >= float(exact) - 1e-14 * (abs(lower.low) + abs(upper.low) + 1.0)


@pytest.mark.parametrize(("p_lower", "p_upper"), [(1.0, 0.5), (-0.1, 0.5), (0.5, 0.0), (0.5, 1.1), (math.nan, 0.5)])
def test_no_radius_outside_its_range(p_lower: float, p_upper: float) -> None:
    """A radius from something that is no probability fails."""
    with pytest.raises(ValueError, match="p_lower"):
        Gaussian(0.25).two_class_radius(p_lower, p_upper)


def test_it_rescues_published_abstentions(shared_data: Path, question: Question) -> None:
    """Fewer than 35 of the 39 published inputs on which the binary bound abstains, certified, fails."""
    rows = np.loadtxt(shared_data / "votes" / "topk_cifar10_sigma0.25_n100000.txt", dtype=int)[:, :10]
    rescued = abstained = 0
    for row in rows.tolist():
        selection = Votes(tuple(100 * (c == int(np.argmax(row))) for c in range(10)))
        binary = Fixed(100, 100_000, 0.001).begin(question(10)).look(selection, Votes(tuple(row)))
        if isinstance(binary, Abstention):
            two = Fixed(100, 100_000, 0.001, Bound.TWO_CLASS).begin(question(10)).look(selection, Votes(tuple(row)))
            abstained += 1
            rescued += isinstance(two, Certificate) and bool(verify(two))
    assert abstained == 39
    assert rescued >= 35
