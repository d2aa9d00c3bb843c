"""CERTIFY and PREDICT: which votes decide what, and how often they are wrong, by exact enumeration."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from certserve.smoothing.bounds import LARGEST_N, clopper_pearson_lower, smallest_certifying_n, smallest_predicting_n
from certserve.smoothing.decision import certified_probability, certify, p_value, predict
from certserve.smoothing.distribution import Gaussian
from certserve.smoothing.outcomes import (
    Abstention,
    Bound,
    Case,
    Certificate,
    Origin,
    Prediction,
    Setting,
    Space,
    Votes,
    round_down,
    round_up,
)
from certserve.smoothing.plans import Fixed, FixedPredict

ORIGIN = Origin("model", "1", "cpu", "print", "commitment", Space("as sent", (1, 1, 2), "1 = white", "digest"))
NO_DRAWS = Votes((0, 0, 0))


def case(n: int, alpha: float = 0.001, *, n0: int = 10, error: float = 0.0, plan: str = "fixed") -> Case:
    """A question at sigma 1/4 about the classes a, b and c."""
    setting = Setting(0.25, n0, n, alpha, plan, (n,), Bound.BINARY, "grid", "stream", error)
    return Case(setting, ORIGIN, ("a", "b", "c"))


class TestCertify:
    """The label comes from selection, the bound from estimation, and weak votes abstain."""

    def test_the_label_is_the_leader_of_selection(self) -> None:
        """A label or a bound taken from the class that leads estimation fails."""
        outcome = certify(Votes((3, 7, 0)), Votes((900, 100, 0)), case(1000))
        assert isinstance(outcome, Abstention)
        assert (outcome.candidate, outcome.candidate_name) == (1, "b")
        assert outcome.p_lower == clopper_pearson_lower(100, 1000, 0.001)

    def test_a_certificate_carries_what_it_rests_on(self) -> None:
        """A field of the certificate that is not the question's or the votes' fails."""
        question, selection, estimation = case(1000), Votes((1, 8, 0), 1), Votes((40, 950, 7), 3)
        p_lower = clopper_pearson_lower(950, 1000, 0.001)
        assert certify(selection, estimation, question) == Certificate(
            1,
            "b",
            Gaussian(0.25).radius(p_lower),
            "L2",
            p_lower,
            selection,
            (estimation,),
            question.setting,
            question.origin,
        )

    def test_ties_in_selection_go_to_the_lowest_class(self) -> None:
        """A label that depends on anything but the selection counts fails."""
        outcome = certify(Votes((2, 4, 4)), Votes((0, 500, 500)), case(1000))
        assert isinstance(outcome, Abstention)
        assert outcome.candidate == 1

    def test_it_abstains_up_to_a_bound_of_one_half(self) -> None:
        """The first count whose bound exceeds 1/2 must certify; one vote fewer, certified, fails."""
        first = next(k for k in range(1001) if clopper_pearson_lower(k, 1000, 0.001) > 0.5)
        below = certify(Votes((10, 0, 0)), Votes((first - 1, 1001 - first, 0)), case(1000))
        assert isinstance(below, Abstention)
        assert below.p_lower == clopper_pearson_lower(first - 1, 1000, 0.001) <= 0.5
        assert isinstance(certify(Votes((10, 0, 0)), Votes((first, 1000 - first, 0)), case(1000)), Certificate)

    def test_votes_for_no_class_count_in_n_but_for_nobody(self) -> None:
        """Draws without finite logits that are dropped from n, or counted for the label, raise the bound: fails."""
        outcome = certify(Votes((10, 0, 0)), Votes((900, 0, 0), 100), case(1000))
        assert isinstance(outcome, Certificate)
        assert outcome.p_lower == clopper_pearson_lower(900, 1000, 0.001)

    @pytest.mark.parametrize(
        ("selection", "estimation", "name"),
        [
            (Votes((9, 0, 0)), Votes((1000, 0, 0)), "selection"),
            (Votes((9, 0, 0), 2), Votes((1000, 0, 0)), "selection"),
            (Votes((10, 0, 0)), Votes((999, 0, 0)), "estimation"),
            (Votes((10, 0, 0)), Votes((1000, 0, 0), 1), "estimation"),
        ],
    )
    def test_the_totals_are_those_planned(self, selection: Votes, estimation: Votes, name: str) -> None:
        """A decision on fewer or more draws than were planned fails."""
        with pytest.raises(ValueError, match=name):
            certify(selection, estimation, case(1000))

    @pytest.mark.parametrize("error", [3e-14, 1e-8, 1e-3, 0.25])
    @pytest.mark.parametrize("k", [0, 1, 700, 999, 1000])
    def test_the_error_of_the_arithmetic_is_deducted(self, k: int, error: float) -> None:
        """A probability above the bound less d * eps, by exact rationals, fails; so does one much below it."""
        p_lower = certified_probability(k, 1000, 0.001, error)
        exact = Fraction(clopper_pearson_lower(k, 1000, 0.001)) - Fraction(error)
        assert Fraction(p_lower) <= max(Fraction(0), exact)
        assert Fraction(p_lower) >= exact - Fraction(1, 10**15)

    def test_the_deduction_can_turn_a_certificate_into_an_abstention(self) -> None:
        """A certificate although the bound less d * eps is not above 1/2 fails."""
        votes = Votes((10, 0, 0)), Votes((600, 400, 0))
        bound = clopper_pearson_lower(600, 1000, 0.001)
        assert isinstance(certify(*votes, case(1000, error=bound - 0.5 - 1e-12)), Certificate)
        assert isinstance(certify(*votes, case(1000, error=bound - 0.5)), Abstention)

    @pytest.mark.parametrize("error", [0.0, 3e-14, 1e-8, 0.01])
    @pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001, 1e-6])
    def test_the_smallest_n_is_where_unanimous_votes_certify(self, alpha: float, error: float) -> None:
        """An n promised to be enough that abstains, or a smaller one that would certify, fails."""
        n = smallest_certifying_n(alpha, error)
        unanimous = Votes((10, 0, 0))
        assert isinstance(certify(unanimous, Votes((n, 0, 0)), case(n, alpha, error=error)), Certificate)
        assert isinstance(certify(unanimous, Votes((n - 1, 0, 0)), case(n - 1, alpha, error=error)), Abstention)


class TestPredict:
    """The lead over the runner-up is tested two-sided; votes for no class are a class of their own."""

    @pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
    def test_it_is_the_exact_two_sided_test(self, alpha: float) -> None:
        """A decision other than that of scipy's `binomtest` for any pair of counts up to 32 draws fails."""
        for total in range(1, 33):
            for second in range((total + 1) // 2):
                first = total - second
                if first == second:
                    continue
                outcome = predict(Votes((second, first, 0)), case(total, alpha, plan="fixed-predict"))
                expected = binomtest(first, total).pvalue
                assert isinstance(outcome, Prediction) == (expected <= alpha)
                assert outcome.p_value == pytest.approx(expected, rel=1e-9)

    def test_the_p_value_is_never_understated(self) -> None:
        """A p-value below 2 P(Binomial(n1 + n2, 1/2) >= n1), by exact rationals, fails, unanimity at n = 5000 too."""
        pairs = [(first, second) for first in range(1, 60) for second in range(first)]
        for first, second in [*pairs, (700, 300), (1074, 0), (1100, 1), (5000, 0)]:
            total = first + second
            tail = sum(math.comb(total, j) for j in range(first, total + 1))
            exact = min(Fraction(1), Fraction(2 * tail, 2**total))
            value = Fraction(p_value(Votes((first, second)), 0))
            assert exact <= value <= max(exact * (1 + Fraction(1, 10**9)), Fraction(1, 10**99))

    def test_only_the_runner_up_counts(self) -> None:
        """A test against all other votes together, or against a class that is not second, fails."""
        outcome = predict(Votes((20, 60, 20)), case(100, plan="fixed-predict"))
        assert isinstance(outcome, Prediction)
        assert outcome.p_value == pytest.approx(binomtest(60, 80).pvalue, rel=1e-9)
        assert (outcome.label, outcome.label_name, outcome.votes) == (1, "b", Votes((20, 60, 20)))

    def test_votes_for_no_class_can_be_the_runner_up(self) -> None:
        """Draws without finite logits that are left out of the test make 52 : 0 of 52 : 48: fails."""
        outcome = predict(Votes((52, 0, 0), 48), case(100, plan="fixed-predict"))
        assert isinstance(outcome, Abstention)
        assert outcome.p_value == pytest.approx(binomtest(52, 100).pvalue, rel=1e-9)

    @pytest.mark.parametrize("votes", [Votes((10, 0, 0), 90), Votes((50, 0, 0), 50), Votes((50, 50, 0))])
    def test_it_abstains_where_no_class_leads(self, votes: Votes) -> None:
        """A label although no class has more votes than every other and than none fails."""
        outcome = predict(votes, case(100, alpha=0.999, plan="fixed-predict"))
        assert isinstance(outcome, Abstention)
        assert outcome.p_value == 1.0

    @pytest.mark.parametrize("votes", [Votes((99, 0, 0)), Votes((100, 0, 0), 1), NO_DRAWS])
    def test_the_total_is_the_one_planned(self, votes: Votes) -> None:
        """A decision on fewer or more draws than were planned fails."""
        with pytest.raises(ValueError, match="estimation"):
            predict(votes, case(100, plan="fixed-predict"))

    @pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001, 1e-6, 1e-100])
    def test_the_smallest_n_is_where_unanimous_votes_are_significant(self, alpha: float) -> None:
        """An n promised to be enough that abstains, or a smaller one that would answer, fails."""
        n = smallest_predicting_n(alpha)
        assert isinstance(predict(Votes((n, 0, 0)), case(n, alpha)), Prediction)
        assert isinstance(predict(Votes((n - 1, 0, 0)), case(n - 1, alpha)), Abstention)


class TestPlans:
    """A plan looks once, at the last draw, and passes the votes of that look on."""

    def test_fixed_decides_as_certify(self) -> None:
        """A plan that decides on other votes than those of the last look fails."""
        selection, votes = Votes((10, 0, 0)), Votes((980, 20, 0))
        plan = Fixed(10, 1000, 0.001)
        assert (plan.name, plan.looks, plan.bound) == ("fixed", (1000,), Bound.BINARY)
        assert plan.begin(case(1000)).look(selection, votes) == certify(selection, votes, case(1000))

    def test_fixed_predict_decides_as_predict(self) -> None:
        """The same for PREDICT, which has no selection."""
        votes, plan = Votes((80, 20, 0)), FixedPredict(100, 0.001)
        assert (plan.name, plan.n0, plan.looks) == ("fixed-predict", 0, (100,))
        question = case(100, n0=0, plan="fixed-predict")
        assert plan.begin(question).look(NO_DRAWS, votes) == predict(votes, question)

    @pytest.mark.parametrize("draws", [0, -1, LARGEST_N + 1])
    def test_draws_outside_their_range(self, draws: int) -> None:
        """A plan without draws, or with more than the bounds are vouched for, fails."""
        with pytest.raises(ValueError, match="n0"):
            Fixed(draws, 100, 0.001)
        with pytest.raises(ValueError, match=r"\bn\b"):
            Fixed(100, draws, 0.001)
        with pytest.raises(ValueError, match=r"\bn\b"):
            FixedPredict(draws, 0.001)

    @pytest.mark.parametrize("alpha", [0.0, 1.0, -0.5, 2.0, 1e-101, math.nan])
    def test_alpha_outside_its_range(self, alpha: float) -> None:
        """A plan whose alpha is no failure probability fails."""
        with pytest.raises(ValueError, match="alpha"):
            Fixed(100, 100, alpha)
        with pytest.raises(ValueError, match="alpha"):
            FixedPredict(100, alpha)


def binomial(n: int, p: Fraction) -> list[Fraction]:
    """The masses of Binomial(n, p)."""
    hit, whole = p.numerator, p.denominator
    return [Fraction(math.comb(n, k) * hit**k * (whole - hit) ** (n - k), whole**n) for k in range(n + 1)]


def two_class_outcomes(n0: int, n: int, alpha: float) -> dict[tuple[int, int], Certificate | Abstention]:
    """What Fixed decides for each number of selection and of estimation votes for class 0."""
    plan, question = Fixed(n0, n, alpha), case(n, alpha, n0=n0)
    return {
        (s, k): plan.begin(question).look(Votes((s, n0 - s)), Votes((k, n - k)))
        for s in range(n0 + 1)
        for k in range(n + 1)
    }


@pytest.mark.parametrize(("n0", "n", "alpha"), [(1, 12, 0.01), (4, 10, 0.1), (5, 30, 0.001), (9, 40, 0.05)])
def test_certify_is_false_with_probability_at_most_alpha(n0: int, n: int, alpha: float) -> None:
    """More than alpha of all selections and estimations together certifying beyond the true radius fails."""
    outcomes = two_class_outcomes(n0, n, alpha)
    claims = {key: (o.label, Fraction(o.p_lower)) for key, o in outcomes.items() if isinstance(o, Certificate)}
    worst = {claimed - Fraction(1, 2**60) for _, claimed in claims.values()}
    for p in {Fraction(1, 2), Fraction(499, 1000), Fraction(3, 10), Fraction(9, 10), *sorted(worst)[-12:]}:
        selection, estimation, true = binomial(n0, p), binomial(n, p), (p, 1 - p)
        false = [key for key, (label, claimed) in claims.items() if claimed > true[label]]
        assert sum(selection[s] * estimation[k] for s, k in false) <= Fraction(alpha), p


@pytest.mark.parametrize(
    "shares",
    [
        (1, 1, 1, 0),
        (1, 1, 0, 0),
        (10, 9, 1, 0),
        (5, 5, 4, 0),
        (2, 1, 1, 0),
        (20, 19, 0, 19),
        (1, 0, 0, 1),
        (1, 1, 1, 2),
    ],
)
@pytest.mark.parametrize(("n", "alpha"), [(8, 0.2), (16, 0.05)])
def test_predict_errs_with_probability_at_most_alpha(
    n: int, alpha: float, shares: tuple[int, ...], enumeration: ModuleType
) -> None:
    """More than alpha of all vote vectors naming a class that is not the most probable one fails; last is `none`."""
    p = tuple(Fraction(share, sum(shares)) for share in shares)
    wrong = Fraction(0)
    for *counts, none in enumeration.compositions(n, 4):
        outcome = predict(Votes(tuple(counts), none), case(n, alpha, plan="fixed-predict"))
        # Among equals there is no majority: naming either counts as an error, which is the harder case.
        if isinstance(outcome, Prediction) and not all(
            p[outcome.label] > q for c, q in enumerate(p) if c != outcome.label
        ):
            wrong += enumeration.multinomial((*counts, none), p)
    assert wrong <= Fraction(alpha)


finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(value=finite, digits=st.integers(1, 17))
def test_rounded_decimals_stay_on_their_side(value: float, digits: int) -> None:
    """A printed number above (below) the exact one, off by a whole last digit, or in another notation, fails."""
    below, above = round_down(value, digits), round_up(value, digits)
    assert Decimal(below) <= Decimal(value) <= Decimal(above)
    if value:
        unit = Decimal(1).scaleb(Decimal(value).adjusted() - digits + 1)
        assert Decimal(value) - Decimal(below) < unit
        assert Decimal(above) - Decimal(value) < unit
    assert not set(below + above) - set("-.0123456789")


@pytest.mark.parametrize(
    ("value", "below", "above"),
    [(0.0, "0", "0"), (0.5, "0.5", "0.5"), (0.12345, "0.1234", "0.1235"), (0.99999, "0.9999", "1"), (12.0, "12", "12")],
)
def test_rounded_decimals_by_example(value: float, below: str, above: str) -> None:
    """A number printed with other than four significant digits, or with trailing zeros, fails."""
    assert (round_down(value), round_up(value)) == (below, above)
