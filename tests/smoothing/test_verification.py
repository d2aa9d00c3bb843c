"""`verify` accepts what the plans issue and refuses what was tampered with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certserve.errors import VerificationFailed
from certserve.smoothing.decision import certify, predict
from certserve.smoothing.distribution import Gaussian
from certserve.smoothing.outcomes import (
    Abstention,
    Bound,
    Case,
    Certificate,
    Origin,
    Prediction,
    Schedule,
    Setting,
    Space,
    Undecided,
    Votes,
)
from certserve.smoothing.verification import verify

ORIGIN = Origin("model", "1", "cpu", "print", "commitment", Space("as sent", (1, 1, 2), "1 = white", "digest"))
ALPHAS = (0.05, 0.001, 1e-6)


def case(n: int, alpha: float, *, n0: int = 10, error: float = 0.0, sigma: float = 0.25, plan: str = "fixed") -> Case:
    """A question about the classes a, b and c."""
    setting = Setting(sigma, n0, n, alpha, plan, (n,), Bound.BINARY, "grid", "stream", error)
    return Case(setting, ORIGIN, ("a", "b", "c"))


def issued(k: int, n: int, alpha: float = 0.001, *, error: float = 0.0, sigma: float = 0.25) -> Certificate:
    """A certificate for class 1 with k votes of n."""
    outcome = certify(Votes((1, 9, 0)), Votes((n - k, k, 0)), case(n, alpha, error=error, sigma=sigma))
    assert isinstance(outcome, Certificate)
    return outcome


def predicted(first: int, second: int, alpha: float = 0.001) -> Prediction:
    """A prediction of class 1."""
    votes = Votes((second, first, 0))
    outcome = predict(votes, case(first + second, alpha, n0=0, plan="fixed-predict"))
    assert isinstance(outcome, Prediction)
    return outcome


class TestAccepts:
    """Everything that a plan issues."""

    @pytest.mark.parametrize("error", [0.0, 3e-14, 1e-8, 1e-3])
    @pytest.mark.parametrize("alpha", ALPHAS)
    @pytest.mark.parametrize("n", [30, 100, 1000])
    def test_what_certify_issues(self, n: int, alpha: float, error: float) -> None:
        """An outcome of CERTIFY, certificate or abstention, that its own numbers are said not to carry fails."""
        certified = 0
        for k in sorted({*range(0, n + 1, n // 20), n - 1}):
            outcome = certify(Votes((1, 9, 0)), Votes((n - k, k, 0)), case(n, alpha, error=error, sigma=0.12))
            assert verify(outcome)
            certified += isinstance(outcome, Certificate)
        assert certified > 0

    @pytest.mark.parametrize("alpha", [0.5, 0.75, 0.9, 0.99, 0.999])
    def test_what_certify_issues_at_any_level(self, alpha: float) -> None:
        """The same where a bound moves fast with its level, for every count of few draws."""
        for n in range(1, 13):
            for k in range(n + 1):
                assert verify(certify(Votes((1, 9, 0)), Votes((n - k, k, 0)), case(n, alpha)))

    @pytest.mark.parametrize("alpha", [*ALPHAS, 1e-12, 1e-100])
    @pytest.mark.parametrize("n", [10_000, 100_000, 1_000_000])
    def test_what_certify_issues_for_many_draws(self, n: int, alpha: float) -> None:
        """The same where the bounds come closest to the last digit of a double."""
        for k in (int(0.65 * n), int(0.9 * n), n - 1, n):
            assert verify(issued(k, n, alpha, sigma=1.0, error=3e-14 if k < n else 0.0))

    @pytest.mark.parametrize("alpha", ALPHAS)
    def test_unanimous_certificates(self, alpha: float) -> None:
        """A unanimous certificate, whose bound is within units of the last place of the exact one, refused, fails."""
        for n in range(25, 400, 7):
            for error in (0.0, 3e-14, 1e-8):
                assert verify(issued(n, n, alpha, error=error))

    def test_what_predict_issues(self) -> None:
        """An outcome of PREDICT that its own numbers are said not to carry fails; unanimity at n = 5000 underflows."""
        for first, second in [(11, 0), (40, 10), (60, 20), (600, 400), (5000, 0), (60_000, 40_000)]:
            assert verify(predicted(first, second))

    def test_what_claims_nothing(self) -> None:
        """An abstention or an undecided outcome that is refused fails."""
        question = case(100, 0.001, n0=0, plan="fixed-predict")
        assert verify(predict(Votes((50, 49, 0), 1), question))
        assert verify(Undecided("the budget ended", question.setting, ORIGIN)) == ("Nothing is claimed.",)

    def test_an_abstention_counts_its_draws(self) -> None:
        """An abstention with more selection draws than were planned, accepted, fails."""
        honest = predict(Votes((50, 50, 0)), case(100, 0.001, n0=0, plan="fixed-predict"))
        assert isinstance(honest, Abstention)
        with pytest.raises(VerificationFailed, match="selection votes sum to 1"):
            verify(replace(honest, selection=Votes((1, 0, 0))))

    def test_it_says_what_was_checked(self) -> None:
        """A check that was made and is not named, or named by the number of another certificate, fails."""
        checked = " ".join(verify(issued(90, 100)))
        assert "of 90 in 100, by enclosure" in checked
        assert "sigma * Phi^-1(p_lower), by enclosure" in checked
        assert "leads the selection votes" in checked


Tampering = Callable[[Certificate], Certificate]


def with_setting(outcome: Any, **changes: Any) -> Any:
    """The outcome with other values in its setting (and the looks of a plan that looks once)."""
    if "n" in changes:
        changes.setdefault("looks", (changes["n"],))
    return replace(outcome, setting=replace(outcome.setting, **changes))


def with_p_lower(certificate: Certificate, p_lower: float) -> Certificate:
    """A consistent forgery: another p_lower, and the radius that it gives."""
    radius = Gaussian(certificate.setting.sigma).radius(p_lower)
    return replace(certificate, p_lower=p_lower, radius=radius)


def with_votes(certificate: Certificate, *counts: int, non_finite: int = 0) -> Certificate:
    return replace(certificate, estimation=(Votes(counts, non_finite),))


def without_selection(certificate: Certificate) -> Certificate:
    """The certificate of a label that nothing selected."""
    estimation = (Votes((900, 100, 0)),)
    unselected = replace(certificate, label=0, selection=Votes((0, 0, 0)), estimation=estimation)
    return replace(unselected, setting=replace(unselected.setting, n0=0))


TAMPERED: dict[str, Tampering] = {
    "radius up by 1e-12": lambda c: replace(c, radius=c.radius * (1.0 + 1e-12)),
    "radius doubled": lambda c: replace(c, radius=2.0 * c.radius),
    "radius down by 1e-6": lambda c: replace(c, radius=c.radius * (1.0 - 1e-6)),
    "radius zero": lambda c: replace(c, radius=0.0),
    "radius negative": lambda c: replace(c, radius=-c.radius),
    "radius infinite": lambda c: replace(c, radius=math.inf),
    "radius not a number": lambda c: replace(c, radius=math.nan),
    "p_lower up by 1e-10": lambda c: with_p_lower(c, c.p_lower + 1e-10),
    "p_lower alone up by 1e-10": lambda c: replace(c, p_lower=c.p_lower + 1e-10),
    "p_lower down by 1e-6": lambda c: with_p_lower(c, c.p_lower - 1e-6),
    "p_lower one": lambda c: replace(c, p_lower=1.0),
    "p_lower one half": lambda c: replace(c, p_lower=0.5),
    "p_lower not a number": lambda c: replace(c, p_lower=math.nan),
    "another label": lambda c: replace(c, label=0),
    "a label that is not there": lambda c: replace(c, label=3),
    "a label from the end": lambda c: replace(c, label=-2),
    "another norm": lambda c: replace(c, norm="Linf"),
    "a vote moved away": lambda c: with_votes(c, 101, 899, 0),
    "a vote moved to the label": lambda c: with_votes(c, 99, 901, 0),
    "a vote added": lambda c: with_votes(c, 100, 901, 0),
    "a vote lost": lambda c: with_votes(c, 99, 900, 0),
    "votes for no class left out": lambda c: with_votes(c, 100, 900, 0, non_finite=1),
    "a class left out": lambda c: with_votes(c, 100, 900),
    "a negative count": lambda c: with_votes(c, 101, 900, -1),
    "another selection": lambda c: replace(c, selection=Votes((9, 1, 0))),
    "a selection too large": lambda c: replace(c, selection=Votes((1, 10, 0))),
    "a negative selection": lambda c: replace(c, selection=Votes((-1, 11, 0))),
    "no selection": without_selection,
    "selection not counted": lambda c: with_setting(c, n0=0),
    "fewer draws": lambda c: with_setting(c, n=999),
    "more draws": lambda c: with_setting(c, n=1001),
    "no draws": lambda c: with_setting(with_votes(c, 0, 0, 0), n=0),
    "another look": lambda c: with_setting(c, looks=(500, 1000)),
    "another plan": lambda c: with_setting(c, plan="fixed-predict"),
    "an unknown plan": lambda c: with_setting(c, plan="looks"),
    "alpha lowered": lambda c: with_setting(c, alpha=c.setting.alpha * (1.0 - 1e-6)),
    "alpha raised": lambda c: with_setting(c, alpha=c.setting.alpha * 1.01),
    "alpha zero": lambda c: with_setting(c, alpha=0.0),
    "alpha two": lambda c: with_setting(c, alpha=2.0),
    "alpha not a number": lambda c: with_setting(c, alpha=math.nan),
    "sigma doubled": lambda c: with_setting(c, sigma=2.0 * c.setting.sigma),
    "sigma halved": lambda c: with_setting(c, sigma=0.5 * c.setting.sigma),
    "sigma zero": lambda c: with_setting(c, sigma=0.0),
    "sigma infinite": lambda c: with_setting(c, sigma=math.inf),
    "d * eps raised": lambda c: with_setting(c, arithmetic_error=c.setting.arithmetic_error + 1e-10),
    "d * eps lowered": lambda c: with_setting(c, arithmetic_error=0.0),
    "d * eps negative": lambda c: with_setting(c, arithmetic_error=-1e-8),
    "d * eps not a number": lambda c: with_setting(c, arithmetic_error=math.nan),
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED.keys())
def test_a_tampered_certificate_is_refused(tamper: Tampering) -> None:
    """A certificate that claims what its other numbers do not carry, accepted, fails."""
    honest = issued(900, 1000, error=1e-8)
    assert verify(honest)
    with pytest.raises(VerificationFailed) as failure:
        verify(tamper(honest))
    assert all(failure.value.discrepancies)


@pytest.mark.parametrize("k", [560, 700, 999])
@pytest.mark.parametrize("sigma", [0.12, 1.0])
def test_the_radius_is_checked_to_twelve_digits(k: int, sigma: float) -> None:
    """A radius up by a relative 1e-12, or with p_lower up by 1e-10, accepted at any size of it, fails."""
    honest = issued(k, 1000, sigma=sigma)
    for forged in (replace(honest, radius=honest.radius * (1.0 + 1e-12)), with_p_lower(honest, honest.p_lower + 1e-10)):
        with pytest.raises(VerificationFailed, match="exceeds"):
            verify(forged)


@pytest.mark.parametrize("n", [20, 100, 1000, 100_000])
def test_a_unanimous_bound_is_checked_to_the_last_digits(n: int) -> None:
    """p_lower, or p_lower + d * eps, above alpha^(1/n) by a few units in the last place, accepted, fails."""
    honest = issued(n, n, error=3e-14)
    up = 8 * math.ulp(honest.p_lower)
    for forged in (with_p_lower(honest, honest.p_lower + up), with_setting(honest, arithmetic_error=3e-14 + up)):
        with pytest.raises(VerificationFailed, match="exceeds the Clopper-Pearson bound"):
            verify(forged)
    lowered = with_setting(issued(n, n, error=1e-8), arithmetic_error=3e-14)
    with pytest.raises(VerificationFailed, match="statsmodels"):
        verify(lowered)


PREDICTIONS: dict[str, Callable[[Prediction], Prediction]] = {
    "p-value lowered": lambda p: replace(p, p_value=p.p_value * (1.0 - 1e-8)),
    "p-value zero": lambda p: replace(p, p_value=0.0),
    "p-value not a number": lambda p: replace(p, p_value=math.nan),
    "alpha lowered": lambda p: with_setting(p, alpha=p.p_value / 2.0),
    "another label": lambda p: replace(p, label=0),
    "a label that is not there": lambda p: replace(p, label=3),
    "a vote moved": lambda p: replace(p, votes=Votes((11, 39, 0))),
    "a vote lost": lambda p: replace(p, votes=Votes((9, 40, 0))),
    "another runner-up": lambda p: replace(p, votes=Votes((0, 30, 0), 20)),
    "none leads": lambda p: replace(p, votes=Votes((0, 20, 0), 30)),
    "a negative count": lambda p: replace(p, votes=Votes((10, 50, -10))),
    "fewer draws": lambda p: with_setting(p, n=49),
    "another plan": lambda p: with_setting(p, plan="fixed"),
}


@pytest.mark.parametrize("tamper", PREDICTIONS.values(), ids=PREDICTIONS.keys())
def test_a_tampered_prediction_is_refused(tamper: Callable[[Prediction], Prediction]) -> None:
    """A prediction that its votes do not carry, accepted, fails."""
    honest = predicted(40, 10)
    assert verify(honest)
    with pytest.raises(VerificationFailed):
        verify(tamper(honest))


def test_significance_is_decided_exactly() -> None:
    """A prediction at the largest alpha below its exact p-value, accepted, fails: no rounding on the way."""
    for first, second in ((a, b) for a in range(8, 40) for b in range(a)):
        total = first + second
        exact = Fraction(2 * sum(math.comb(total, j) for j in range(first, total + 1)), 2**total)
        alpha = float(exact)
        alpha = alpha if Fraction(alpha) < exact else math.nextafter(alpha, 0.0)
        setting = case(total, alpha, n0=0, plan="fixed-predict").setting
        with pytest.raises(VerificationFailed, match=r"not significant|out of range"):
            verify(Prediction(1, "b", 1.0, Votes((second, first, 0)), setting, ORIGIN))


numbers = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, 1.0, -1.0, 1e-300, math.inf, -math.inf, math.nan]), st.floats(0.0, 2.0)
)
counts = st.integers(-5, 120)
votes = st.builds(Votes, st.lists(counts, max_size=4).map(tuple), counts)
estimates = st.one_of(votes, st.integers(0, 100).map(lambda k: Votes((100 - k, k, 0))))
shares = st.lists(numbers | st.sampled_from([1e-3, 1e-6]), max_size=2).map(tuple)
settings_of_any_kind = st.builds(
    Setting,
    sigma=numbers,
    n0=st.sampled_from([0, 10, -1]),
    n=st.sampled_from([100, 0, -1, 10**12]),
    alpha=numbers,
    plan=st.sampled_from(["fixed", "fixed-predict", "looks", "target", "anytime-predict", ""]),
    looks=st.sampled_from([(100,), (), (50, 100)]),
    bound=st.sampled_from(Bound),
    arithmetic=st.just("grid"),
    stream=st.just("stream"),
    arithmetic_error=numbers,
    schedule=st.builds(
        Schedule,
        every=st.sampled_from([0, 1, 50, 128, -1]),
        alphas=shares,
        runner_up_alphas=shares,
        radii=shares,
        precision=numbers,
    ),
)
plausible = st.builds(lambda s, a, e: case(100, a, error=e, sigma=s).setting, numbers, numbers, numbers)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    setting=st.one_of(plausible, settings_of_any_kind),
    label=st.integers(-2, 4),
    radius=numbers,
    p=numbers,
    estimate=st.lists(estimates, max_size=2).map(tuple),
    p_upper=numbers,
    log_e_values=st.lists(numbers, max_size=2).map(tuple),
    selected=st.sampled_from([Votes((1, 9, 0)), Votes(()), Votes((10, 0)), Votes((0, 10, 0), -1)]),
)
def test_nonsense_is_refused_and_nothing_else_happens(
    setting: Setting,
    label: int,
    radius: float,
    p: float,
    estimate: tuple[Votes, ...],
    p_upper: float,
    log_e_values: tuple[float, ...],
    selected: Votes,
) -> None:
    """A division by zero, a warning or an endless sum on numbers that no plan issues fails."""
    forged = Certificate(label, "b", radius, "L2", p, selected, estimate, setting, ORIGIN, p_upper, log_e_values)
    with pytest.raises(VerificationFailed):
        verify(forged)
    if estimate:
        with pytest.raises(VerificationFailed):
            verify(Prediction(label, "b", min(p, 0.0), estimate[0], setting, ORIGIN, selected, estimate[1:]))


def test_every_discrepancy_is_named() -> None:
    """A failure that stops at the first wrong claim of several fails."""
    honest = issued(900, 1000)
    with pytest.raises(VerificationFailed) as failure:
        verify(replace(honest, norm="Linf", radius=2.0, selection=Votes((9, 1, 0))))
    assert len(failure.value.discrepancies) >= 3
