"""Whether an outcome follows from its own numbers, recomputed by interval enclosures.

Shares no arithmetic with the code that issued it (`bounds`, `distribution`): the binomial tail and the normal
distribution are enclosed in `enclosures`. statsmodels gives a second reading to 1e-9.
"""

from __future__ import annotations

import math

from certserve.errors import VerificationFailed
from certserve.smoothing.bounds import LARGEST_N
from certserve.smoothing.enclosures import binomial_tail, normal_cdf
from certserve.smoothing.outcomes import Abstention, Certificate, Prediction, Undecided, Votes

__all__ = ["verify"]

_CLOSE = 1e-9
_PLANS = {Certificate: ("fixed",), Prediction: ("fixed-predict",), Abstention: ("fixed", "fixed-predict")}


def verify(outcome: Certificate | Prediction | Abstention | Undecided) -> tuple[str, ...]:
    """What was checked, a sentence each. The draws themselves are not repeated.

    Raises:
        VerificationFailed: the outcome claims something that its numbers do not carry; all such claims (where the
            setting or the totals are wrong already, those only: nothing can be computed from them).
    """
    if isinstance(outcome, Undecided):
        return ("Nothing is claimed.",)
    ledger = _Ledger()
    _check_setting(outcome, ledger)
    if ledger.discrepancies:
        raise VerificationFailed(ledger.discrepancies)
    if isinstance(outcome, Certificate):
        _check_certificate(outcome, ledger)
    elif isinstance(outcome, Prediction):
        _check_prediction(outcome, ledger)
    else:
        ledger.claim(True, "The abstention claims nothing about any class.", "")
    if ledger.discrepancies:
        raise VerificationFailed(ledger.discrepancies)
    return tuple(ledger.checked)


class _Ledger:
    """Collects what held and what did not."""

    def __init__(self) -> None:
        self.checked: list[str] = []
        self.discrepancies: list[str] = []

    def claim(self, holds: bool, checked: str, discrepancy: str) -> bool:
        (self.checked if holds else self.discrepancies).append(checked if holds else discrepancy)
        return holds


def _check_setting(outcome: Certificate | Prediction | Abstention, ledger: _Ledger) -> None:
    setting = outcome.setting
    in_range = 0.0 < setting.sigma < math.inf and 0.0 < setting.alpha < 1.0 and 0.0 <= setting.arithmetic_error < 0.5
    ledger.claim(in_range, "sigma, alpha and d * eps are in range.", "sigma, alpha or d * eps is out of range")
    least = 1 if isinstance(outcome, Certificate) else 0
    ledger.claim(
        1 <= setting.n <= LARGEST_N and least <= setting.n0 <= LARGEST_N,
        "The numbers of draws are in range.",
        f"n0 = {setting.n0} or n = {setting.n} is out of range",
    )
    looks = (outcome.votes,) if isinstance(outcome, Prediction) else outcome.estimation
    fits = setting.plan in _PLANS[type(outcome)] and setting.looks == (setting.n,)
    ledger.claim(
        fits,
        f"The plan {setting.plan!r} looks once, after {setting.n} draws.",
        f"the plan {setting.plan!r} with looks {setting.looks} is not one this version verifies",
    )
    totals = tuple(votes.total for votes in looks)
    ledger.claim(
        totals == setting.looks,
        f"The estimation votes sum to {setting.n}.",
        f"the estimation votes sum to {totals}, but {setting.looks} draws were planned",
    )
    if not isinstance(outcome, Prediction):
        looks = (outcome.selection, *looks)
        ledger.claim(
            outcome.selection.total == setting.n0,
            f"The selection votes sum to {setting.n0}.",
            f"the selection votes sum to {outcome.selection.total}, but {setting.n0} were planned",
        )
    negative = any(min((*votes.counts, votes.non_finite)) < 0 for votes in looks)
    ledger.claim(not negative, "No count is negative.", "a count is negative")


def _check_certificate(certificate: Certificate, ledger: _Ledger) -> None:
    setting, label = certificate.setting, certificate.label
    known = 0 <= label < len(certificate.selection.counts) == len(certificate.estimation[-1].counts)
    if not ledger.claim(known, f"Class {label} is one of the classes.", f"class {label} is not among the votes"):
        return
    ledger.claim(
        certificate.selection.top == label,
        "The label leads the selection votes.",
        f"the label is {label}, but class {certificate.selection.top} leads the selection votes",
    )
    ledger.claim(certificate.norm == "L2", "The norm is L2.", f"unknown norm {certificate.norm!r}")
    _check_probability(certificate, certificate.estimation[-1], ledger)
    p_lower, radius = certificate.p_lower, certificate.radius
    if not ledger.claim(0.5 < p_lower < 1.0, "p_lower lies above 1/2.", f"p_lower = {p_lower!r} is not in (1/2, 1)"):
        return
    x = math.nextafter(radius / setting.sigma, math.inf)
    holds = 0.0 < x <= 12.0 and normal_cdf(x).high <= p_lower
    ledger.claim(
        holds,
        "The radius is at most sigma * Phi^-1(p_lower), by enclosure.",
        f"the radius {radius!r} exceeds sigma * Phi^-1(p_lower)",
    )
    ledger.claim(
        not holds or normal_cdf(min(12.0, x + _CLOSE)).high >= p_lower,
        "The radius is the one that p_lower gives, to 1e-9 sigma.",
        f"the radius {radius!r} is not the one that p_lower gives",
    )


def _check_probability(certificate: Certificate, votes: Votes, ledger: _Ledger) -> None:
    """p_lower + d eps is at most the exact Clopper-Pearson bound, and no less than it by 1e-9."""
    from statsmodels.stats.proportion import proportion_confint

    setting = certificate.setting
    k, n = votes.counts[certificate.label], setting.n
    least = math.nextafter(certificate.p_lower + setting.arithmetic_error, math.inf)
    holds = 1 <= k <= n and 0.0 < least < 1.0 and binomial_tail(k, n, least).high <= setting.alpha
    ledger.claim(
        holds,
        f"p_lower + d * eps is at most the Clopper-Pearson bound of {k} in {n}, by enclosure.",
        f"p_lower = {certificate.p_lower!r} exceeds the Clopper-Pearson bound of {k} votes in {n} draws",
    )
    second = float(proportion_confint(k, n, alpha=2.0 * setting.alpha, method="beta")[0])
    ledger.claim(
        abs(second - least) * (1.0 - setting.alpha) <= _CLOSE,  # near alpha = 1 a bound moves fast with its level
        "statsmodels reads the same bound to 1e-9.",
        f"statsmodels reads {second!r} where the certificate has {least!r}",
    )


def _check_prediction(prediction: Prediction, ledger: _Ledger) -> None:
    counts, label = prediction.votes.counts, prediction.label
    if not ledger.claim(
        0 <= label < len(counts),
        f"Class {label} is one of the classes.",
        f"class {label} is not among the votes",
    ):
        return
    first = counts[label]
    second = max([prediction.votes.non_finite, *(c for i, c in enumerate(counts) if i != label)])
    if not ledger.claim(first > second, "The label leads the votes.", "the label does not lead the votes"):
        return
    half = binomial_tail(first, first + second, 0.5).high  # not doubled: mpmath would round it to 53 bits
    ledger.claim(
        half <= prediction.setting.alpha / 2,
        "Its lead is significant at alpha, by enclosure.",
        f"its lead over the runner-up is not significant at alpha = {prediction.setting.alpha!r}",
    )
    ledger.claim(
        min(half, 0.5) <= prediction.p_value / 2 * (1 + _CLOSE),
        "The p-value is not understated.",
        f"the p-value {prediction.p_value!r} is below the exact one",
    )
