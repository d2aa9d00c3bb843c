"""What every plan does, against all votes in exact fractions, through its own decider; and at most alpha everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import product

import pytest

from certserve.evaluation.coverage import AnyPlan, Rate, coverage
from certserve.smoothing.distribution import Gaussian
from certserve.smoothing.outcomes import Bound, Case, Certificate, Origin, Prediction, Setting, Space, Votes
from certserve.smoothing.plans import AnytimePredict, Fixed, FixedPredict, Looks, Target, target
from certserve.smoothing.schedules import doubling_looks, even_radii

SIGMA = 0.25
BOTH = (Bound.BINARY, Bound.TWO_CLASS)
NULLS = (0.69, 0.84, 0.977, 0.9987)


def case(classes: int = 2) -> Case:
    setting = Setting(SIGMA, 0, 0, 0.0, "", (), Bound.BINARY, "grid", "stream", 0.0)
    return Case(setting, Origin("m", "1", "cpu", "f", "c", Space("s", (1, 1, 2), "u", "d")), tuple("abc"[:classes]))


def mass(k: int, n: int, p: Fraction) -> Fraction:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def steps(looks: tuple[int, ...], p: Fraction) -> Iterator[tuple[tuple[int, ...], Fraction]]:
    """The successes at each look, and how probable they are."""
    sizes = [late - early for early, late in zip((0, *looks), looks, strict=False)]
    for course in product(*(range(size + 1) for size in sizes)):
        weight = math.prod((mass(k, size, p) for k, size in zip(course, sizes, strict=True)), start=Fraction(1))
        yield tuple(sum(course[: i + 1]) for i in range(len(course))), weight


def only(plan: AnyPlan, p: float, **options: float) -> Rate:
    (rate,) = coverage(plan, (p,), **options).rates  # type: ignore[arg-type]
    return rate


def bounds(found: float, exact: Fraction) -> bool:
    """Not below, and not above by more than 1e-8."""
    return exact <= Fraction(found) <= exact + Fraction(1, 10**8)


@pytest.mark.parametrize("p", [0.3, 0.55, 0.8])
@pytest.mark.parametrize("alpha", [0.3, 0.05])
def test_a_fixed_two_class_bound(alpha: float, p: float) -> None:
    """A rate other than that of all votes of 20 draws for three classes, the third without votes, fails."""
    plan, q = Fixed(1, 20, alpha, Bound.TWO_CLASS), (1.0 - p) / 2.0
    false = claim = Fraction(0)
    shares = Fraction(p), Fraction(q)
    for a, b in product(range(21), repeat=2):
        if a + b > 20:
            continue
        weight = mass(a, 20, shares[0]) * mass(b, 20 - a, shares[1] / (1 - shares[0]))
        rest = max(0, 20 - a - b)
        # The rest voted for many other classes, of which none leads the runner-up.
        others = tuple(min(1, max(0, rest - i)) for i in range(20))
        many = Case(case().setting, case().origin, tuple(map(str, range(22))))
        outcome = plan.begin(many).look(Votes((1, *(0,) * 21)), Votes((a, b, *others)))
        p_upper = 1.0 if outcome.p_upper is None else outcome.p_upper
        if b or not rest:
            false += weight * ((outcome.p_lower or 0.0) > p or p_upper < q)
        claim += weight * isinstance(outcome, Certificate)
    found = only(plan, p)
    # Without votes for the runner-up, the largest of the others stands in for it: the claim is rarer, by little.
    assert false <= Fraction(found.false_claim) <= Fraction(alpha)
    assert Fraction(found.false_claim) <= false + mass(0, 20, shares[1]) + Fraction(1, 10**8)
    assert claim <= Fraction(found.claim or 0.0) + Fraction(1, 10**9)
    assert Fraction(found.claim or 0.0) <= claim + mass(0, 20, shares[1]) + Fraction(1, 10**9)


@pytest.mark.parametrize("precision", [0.0, 0.1])
@pytest.mark.parametrize("p", [0.4, 0.6, 0.9])
def test_looks(p: float, precision: float) -> None:
    """A false claim, claim or mean other than that of all votes at looks after 6, 12 and 20 draws fails."""
    plan = Looks(1, (6, 12, 20), 0.3, precision=precision)
    false = claim = draws = Fraction(0)
    for course, weight in steps(plan.looks, Fraction(p)):
        decider, outcome, n = plan.begin(case()), None, 0
        claims = []
        for n, k in zip(plan.looks, course, strict=True):
            outcome = decider.look(Votes((1, 0)), Votes((k, n - k)))
            claims.append(decider._lower[0] if decider._lower else 0.0)
            if outcome is not None:
                break
        false += weight * (max(claims) > p)
        claim += weight * isinstance(outcome, Certificate)
        draws += weight * (n + 1)
    found = only(plan, p, sigma=SIGMA)
    assert found.claim == pytest.approx(float(claim), abs=1e-9)
    assert found.mean_draws is not None
    assert false <= Fraction(found.false_claim) <= Fraction(0.3)
    assert float(draws) <= found.mean_draws + 1e-9
    if precision == 0.0:
        assert bounds(found.false_claim, false)
        assert found.mean_draws == 21
    else:
        assert found.mean_draws < 21


@pytest.mark.parametrize("p", [None, 0.8, 0.9])
def test_a_target(p: float | None) -> None:
    """A claim or a mean other than that of all votes of 2 + 96 draws, of every selection, fails."""
    plan = Target(0.2, 2, 96, 0.05)
    null = coverage(plan, sigma=SIGMA).rates[0].p
    share = Fraction(p or null)
    claim = draws = Fraction(0)
    for k0 in range(3):
        selection = Votes((k0, 0), 2 - k0)  # the class is selected, whatever its votes
        for first in range(65):
            weight = mass(k0, 2, share) * mass(first, 64, share)
            decider = plan.begin(case())
            outcome = decider.look(selection, Votes((first, 64 - first)))
            claim += weight * isinstance(outcome, Certificate)
            draws += weight * (64 if outcome else 96)
            for second in range(33) if outcome is None and weight > 1e-12 else ():
                again = plan.begin(case())
                again.look(selection, Votes((first, 64 - first)))
                last = again.look(selection, Votes((first + second, 96 - first - second)))
                claim += weight * mass(second, 32, share) * isinstance(last, Certificate)
    found = only(plan, float(share), sigma=SIGMA)
    assert found.claim == pytest.approx(float(claim), abs=1e-9)
    assert found.mean_draws == pytest.approx(2 + float(draws), abs=1e-6)
    if share <= Fraction(null):
        assert 0 < found.false_claim <= 0.05
        assert found.false_claim == pytest.approx(float(claim), abs=2e-9)
    else:
        assert found.false_claim == 0.0


@pytest.mark.parametrize("p", [0.5, 0.7])
def test_fixed_predict(p: float) -> None:
    """A wrong label, or any, with another probability than over all votes of 30 draws fails."""
    plan, share = FixedPredict(30, 0.1), Fraction(p)
    wrong = named = Fraction(0)
    for k in range(31):
        outcome = plan.begin(case()).look(Votes((0, 0)), Votes((k, 30 - k)))
        if isinstance(outcome, Prediction):
            named += mass(k, 30, share)
            wrong += mass(k, 30, share) * (outcome.label == 1 or p == 0.5)
    found = only(plan, p)
    assert bounds(found.false_claim, wrong)
    assert found.claim == pytest.approx(float(named), abs=1e-9)


@pytest.mark.parametrize(("n0", "p"), [(3, 0.5), (2, 0.625)])
def test_anytime_predict(n0: int, p: float) -> None:
    """A wrong label, any, or a mean other than over all votes of n0 + 40 draws, all changes included, fails."""
    plan, share = AnytimePredict(n0, 40, 0.2), Fraction(p)
    wrong = named = draws = Fraction(0)
    changed = 0
    for s in range(n0 + 1):
        for course, weight in steps((16, 32, 40), share):
            decider, outcome, n = plan.begin(case()), None, 0
            for n, k in zip((16, 32, 40), course, strict=True):
                outcome = decider.look(Votes((n0 - s, s)), Votes((n - k, k)))
                if outcome is not None:
                    break
            weight *= mass(s, n0, share)
            draws += weight * (n0 + n)
            if isinstance(outcome, Prediction):
                named += weight
                wrong += weight * (outcome.label == 0 or p == 0.5)
                changed += bool(outcome.reselections)
    found = only(plan, p)
    assert changed
    assert wrong <= Fraction(found.false_claim) <= wrong + Fraction(1, 10**5)  # the rarest candidates count in full
    assert named - Fraction(1, 10**4) <= Fraction(found.claim or 0.0) <= named + Fraction(1, 10**9)
    assert found.mean_draws == pytest.approx(float(draws), abs=0.001)
    assert Fraction(found.mean_draws or 0.0) >= draws - Fraction(1, 10**6)


@pytest.mark.parametrize(("null", "published"), [(0.69, 2.6e-4), (0.84, 3.0e-4), (0.977, 5.3e-4), (0.9987, 5.4e-4)])
def test_a_target_at_its_boundary(null: float, published: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate other than that of an independent implementation, which looks every 128 draws to the end, fails."""
    monkeypatch.setattr(target, "_EVERY", 128)
    monkeypatch.setattr(target, "_FUTILITY_LEVEL", math.inf)
    plan = Target(Gaussian(SIGMA).radius(null), 100, 20_000, 0.001)
    (rate,) = coverage(plan, sigma=SIGMA).rates
    assert rate.false_claim == pytest.approx(published, abs=0.1e-4)


@pytest.mark.parametrize("bound", BOTH)
@pytest.mark.parametrize("n", [1_000, 10_000])
def test_no_plan_to_certify_errs_more_than_alpha(n: int, bound: Bound) -> None:
    """More than alpha, or next to nothing, fails."""
    for plan in (Fixed(100, n, 0.001, bound), Looks(100, doubling_looks(n), 0.001, bound)):
        for rate in coverage(plan).rates:
            assert rate.false_claim <= 0.001
            assert rate.false_claim > 0.0004 or n * (1.0 - rate.p) < 30.0


def test_a_target_that_grows_errs_at_most_alpha() -> None:
    """More than alpha over 25 radii together, wherever p lies between them, fails."""
    plan = Target(0.1, 20, 2_000, 0.001, even_radii(0.13, 0.03, 24))
    rates = coverage(plan, sigma=SIGMA).rates
    assert len(rates) == 25
    assert all(1e-9 < rate.false_claim <= 0.001 for rate in rates)
    assert max(rate.false_claim for rate in rates) > 1e-4
    assert rates[0].claim == pytest.approx(rates[0].false_claim, abs=1e-8)
    assert (rates[-1].claim or 0.0) > 0.999  # the first radius is there
    assert only(plan, 0.9999, sigma=SIGMA).false_claim == 0.0  # all of them are


def test_no_plan_to_predict_errs_more_than_alpha() -> None:
    """More than alpha fails, and so does an easy image that takes many draws."""
    for rate in (*coverage(FixedPredict(1_000, 0.001)).rates, *coverage(AnytimePredict(16, 10_000, 0.001)).rates):
        assert rate.false_claim <= 0.001
    assert (only(AnytimePredict(16, 10_000, 0.001), 0.9987).mean_draws or 99.0) < 33.0
    assert only(FixedPredict(1_000, 0.001), 0.5).false_claim > 0.0005
    assert 0.001 < only(AnytimePredict(16, 300, 0.01), 0.5).false_claim <= 0.01


def test_what_cannot_be_answered_is_refused() -> None:
    """A number where the question has no sense, or is beyond the precision of the law, fails."""
    with pytest.raises(ValueError, match="alpha"):
        coverage(Target(0.2, 10, 100, 1e-9))
    with pytest.raises(ValueError, match="top class"):
        coverage(AnytimePredict(10, 100, 0.01), (0.4,))
    with pytest.raises(ValueError, match="at most 1"):
        coverage(Fixed(1, 100, 0.01, Bound.TWO_CLASS), (0.7,), runner_up=0.4)
    with pytest.raises(ValueError, match="below 1"):
        coverage(Target(9.0, 10, 100, 0.01), sigma=SIGMA)
