"""What a certificate or a prediction claims, against its own votes, by enclosure.

The setting has been checked, and that the votes are those it plans (`certserve.smoothing.verification`).
statsmodels gives a second reading of the Clopper-Pearson bounds to 1e-9; it calls the same `beta.ppf` as `bounds`.
"""

from __future__ import annotations

import math
from fractions import Fraction

from certserve.smoothing.enclosures import binomial_tail, log_e_value, log_reciprocal, normal_cdf, normal_quantile
from certserve.smoothing.ledger import Ledger
from certserve.smoothing.outcomes import Bound, Certificate, Prediction, Votes

__all__ = ["check_certificate", "check_prediction"]

_CLOSE = 1e-9
_TIGHT = 1e-12
_E_VALUE_SLACK = 3e-6  # what ln W may be understated by


def check_certificate(certificate: Certificate, ledger: Ledger) -> None:
    """The label, the bounds and the radius follow from the votes."""
    label, classes = certificate.label, len(certificate.selection.counts)
    known = 0 <= label < classes and all(len(votes.counts) == classes for votes in certificate.estimation)
    if not ledger.claim(known, f"Class {label} is one of the classes.", f"class {label} is not among the votes"):
        return
    ledger.claim(
        certificate.selection.top == label,
        "The label leads the selection votes.",
        f"the label is {label}, but class {certificate.selection.top} leads the selection votes",
    )
    ledger.claim(certificate.norm == "L2", "The norm is L2.", f"unknown norm {certificate.norm!r}")
    plan, two_class = certificate.setting.plan, certificate.setting.bound is Bound.TWO_CLASS
    if plan == "target":
        _check_target(certificate, ledger)
        return
    relied = 2 if two_class and plan == "looks" else 1
    if not ledger.claim(
        len(certificate.estimation) == relied and certificate.log_e_values == (),
        f"It relies on the votes at {relied} look(s).",
        f"the bounds rely on {relied} look(s), not {len(certificate.estimation)}, and on no e-value",
    ):
        return
    _check_p_lower(certificate, ledger)
    if two_class:
        _check_two_class(certificate, ledger)
    else:
        ledger.claim(certificate.p_upper == 1.0, "The bound is binary.", "a binary bound has no p_upper below 1")
        _check_radius(certificate, ledger)


def _check_radius(certificate: Certificate, ledger: Ledger) -> None:
    """radius = sigma * Phi^-1(p_lower), rounded down."""
    p_lower, radius = certificate.p_lower, certificate.radius
    if not ledger.claim(0.5 < p_lower < 1.0, "p_lower lies above 1/2.", f"p_lower = {p_lower!r} is not in (1/2, 1)"):
        return
    x = math.nextafter(radius / certificate.setting.sigma, math.inf)
    holds = 0.0 < x <= 12.0 and normal_cdf(x).high <= p_lower
    ledger.claim(
        holds,
        "The radius is at most sigma * Phi^-1(p_lower), by enclosure.",
        f"the radius {radius!r} exceeds sigma * Phi^-1(p_lower)",
    )
    ledger.claim(
        not holds or normal_cdf(min(12.0, x + _TIGHT)).high >= p_lower,
        "The radius is the one that p_lower gives, to 1e-12 sigma.",
        f"the radius {radius!r} is not the one that p_lower gives",
    )


def _check_p_lower(certificate: Certificate, ledger: Ledger) -> None:
    """p_lower + d eps is at most the exact Clopper-Pearson bound, and no less than it by 1e-9."""
    from statsmodels.stats.proportion import proportion_confint

    setting, votes = certificate.setting, certificate.estimation[0]
    k, n = votes.counts[certificate.label], votes.total
    alphas = setting.schedule.alphas
    alpha = alphas[setting.looks.index(n)] if alphas else setting.alpha
    least = math.nextafter(certificate.p_lower + setting.arithmetic_error, math.inf)
    holds = 1 <= k <= n and 0.0 < least < 1.0 and binomial_tail(k, n, least).high <= alpha
    ledger.claim(
        holds,
        f"p_lower + d * eps is at most the Clopper-Pearson bound of {k} in {n}, by enclosure.",
        f"p_lower = {certificate.p_lower!r} exceeds the Clopper-Pearson bound of {k} votes in {n} draws",
    )
    second = float(proportion_confint(k, n, alpha=2.0 * alpha, method="beta")[0])
    ledger.claim(
        abs(second - least) * (1.0 - alpha) <= _CLOSE,  # near alpha = 1 a bound moves fast with its level
        "statsmodels reads the same bound to 1e-9.",
        f"statsmodels reads {second!r} where the certificate has {least!r}",
    )


def _check_two_class(certificate: Certificate, ledger: Ledger) -> None:
    """p_upper bounds the runner-up, and radius = sigma / 2 * (Phi^-1(p_lower) - Phi^-1(p_upper)), rounded down."""
    p_lower, p_upper = certificate.p_lower, certificate.p_upper
    if not ledger.claim(
        0.0 < p_lower < 1.0 and 0.0 < p_upper < 1.0,
        "p_lower and p_upper lie between 0 and 1.",
        f"p_lower = {p_lower!r} or p_upper = {p_upper!r} is not in (0, 1)",
    ):
        return
    _check_p_upper(certificate, ledger)
    try:
        lower, upper = normal_quantile(p_lower), normal_quantile(p_upper)
    except ValueError as error:
        ledger.claim(False, "", str(error))
        return
    radius = certificate.radius
    holds = math.isfinite(radius) and radius > 0.0
    claimed = 2 * Fraction(radius) / Fraction(certificate.setting.sigma) if holds else Fraction(0)
    ledger.claim(
        holds and claimed <= Fraction(lower.low) - Fraction(upper.high),
        "The radius is at most sigma / 2 * (Phi^-1(p_lower) - Phi^-1(p_upper)), by enclosure.",
        f"the radius {radius!r} exceeds sigma / 2 * (Phi^-1(p_lower) - Phi^-1(p_upper))",
    )
    ledger.claim(
        claimed >= Fraction(lower.high) - Fraction(upper.low) - Fraction(_TIGHT),
        "The radius is the one that p_lower and p_upper give, to 1e-12 sigma.",
        f"the radius {radius!r} is not the one that p_lower and p_upper give",
    )


def _check_p_upper(certificate: Certificate, ledger: Ledger) -> None:
    """p_upper is at least 1 - p_lower, or at least the runner-up's bound plus d eps; and the less of both to 1e-9."""
    from statsmodels.stats.proportion import proportion_confint

    setting, votes, p_upper = certificate.setting, certificate.estimation[-1], certificate.p_upper
    n = votes.total
    k = votes.runner_up(certificate.label)
    alpha = setting.schedule.runner_up_alphas[setting.looks.index(n)]
    rest = math.nextafter(1.0 - math.nextafter(p_upper - setting.arithmetic_error, 0.0), math.inf)
    bounded = 0 <= k < n and 0.0 < rest < 1.0 and binomial_tail(n - k, n, rest).high <= alpha
    complement = Fraction(p_upper) >= 1 - Fraction(certificate.p_lower)
    ledger.claim(
        bounded or complement,
        f"p_upper - d * eps is at least the Clopper-Pearson bound of {k} in {n}, or p_upper is at least 1 - p_lower.",
        f"p_upper = {p_upper!r} is below the Clopper-Pearson bound of {k} votes in {n} draws",
    )
    second = float(proportion_confint(k, n, alpha=2.0 * alpha, method="beta")[1]) + setting.arithmetic_error
    second = min(second, 1.0 - certificate.p_lower)
    ledger.claim(
        abs(second - p_upper) * (1.0 - alpha) <= _CLOSE,
        "statsmodels reads the same upper bound to 1e-9.",
        f"statsmodels reads {second!r} where p_upper is {p_upper!r}",
    )


def _check_target(certificate: Certificate, ledger: Ledger) -> None:
    """Every radius of the grid up to the one certified was crossed at its look."""
    setting, radii = certificate.setting, certificate.setting.schedule.radii
    claimed = len(certificate.estimation)
    if not ledger.claim(
        claimed == len(certificate.log_e_values) <= len(radii) and certificate.radius == radii[claimed - 1],
        f"The radius is number {claimed} of those asked about, and relies on as many crossings.",
        f"the radius {certificate.radius!r} is not number {claimed} of those asked about: {radii}",
    ):
        return
    ledger.claim(certificate.p_upper == 1.0, "The bound is binary.", "a target has no p_upper below 1")
    needed = math.nan
    for radius, votes, claim in zip(radii, certificate.estimation, certificate.log_e_values, strict=False):
        x = math.nextafter(radius / setting.sigma, math.inf)
        if not ledger.claim(
            x < 12.0, "The radius is below 12 sigma.", f"no probability carries a radius of {radius!r}"
        ):
            return
        needed = math.nextafter(float(normal_cdf(x).high), math.inf)
        _check_crossing(certificate, radius, needed, votes, claim, ledger)
    ledger.claim(
        needed * (1.0 - _TIGHT) <= certificate.p_lower <= needed * (1.0 + _TIGHT)
        and normal_cdf(math.nextafter(certificate.radius / setting.sigma, math.inf)).high <= certificate.p_lower,
        "p_lower is the probability that the radius needs, rounded up, by enclosure.",
        f"p_lower = {certificate.p_lower!r} is not what a radius of {certificate.radius!r} needs",
    )


def _check_crossing(
    certificate: Certificate, radius: float, needed: float, votes: Votes, claim: float, ledger: Ledger
) -> None:
    """The e-value against the null that the label's probability is at most `needed` + d eps."""
    setting, label, selection = certificate.setting, certificate.label, certificate.selection
    k0, k = selection.counts[label], votes.counts[label]
    null = math.nextafter(needed + setting.arithmetic_error, math.inf)
    priors = ((k0 + 0.5, selection.total - k0 + 0.5), (0.5, 0.5))
    if not ledger.claim(null < 1.0, "The null lies below 1.", f"no probability below 1 carries a radius of {radius!r}"):
        return
    found = log_e_value(null, priors, k, votes.total - k)
    ledger.claim(
        found.low >= log_reciprocal(setting.alpha).high,
        f"{k} votes in {votes.total} draws show a radius of {radius!r}: the e-value reaches 1 / alpha, by enclosure.",
        f"{k} votes in {votes.total} draws do not show a radius of {radius!r}: the e-value is below 1 / alpha",
    )
    ledger.claim(
        bool(claim <= found.low and found.high <= claim + _E_VALUE_SLACK),
        "The e-value is not overstated, and is the one that the votes give to 3e-6.",
        f"ln of the e-value is {float(found.low)!r}, not {claim!r}",
    )


def check_prediction(prediction: Prediction, ledger: Ledger) -> None:
    """The label leads, and its lead is significant."""
    counts, label = prediction.votes.counts, prediction.label
    if not ledger.claim(
        0 <= label < len(counts),
        f"Class {label} is one of the classes.",
        f"class {label} is not among the votes",
    ):
        return
    if prediction.setting.plan == "anytime-predict":
        _check_anytime(prediction, ledger)
        return
    ledger.claim(
        prediction.reselections == (), "The candidate was not changed.", "fixed Predict does not change candidates"
    )
    first, second = counts[label], prediction.votes.runner_up(label)
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


def _check_reselections(prediction: Prediction, ledger: Ledger) -> None:
    """A candidate is changed only where the plan may change it, and only for another one that leads."""
    every, candidate, planned = prediction.setting.schedule.every, prediction.selection.top, True
    for votes in prediction.reselections:
        leader = prediction.selection.with_more(votes).top
        planned &= votes.total % every == 0 and (votes.total // every).bit_count() == 1 and leader != candidate
        candidate = leader
    ledger.claim(
        planned,
        "The candidate was changed only after a doubling of the draws, for a new leader.",
        f"the candidate was changed where it was not to be: after {[v.total for v in prediction.reselections]} draws",
    )


def _check_anytime(prediction: Prediction, ledger: Ledger) -> None:
    """The candidate led all votes before the draws that test it, and beats every other class on those."""
    earlier = prediction.reselections[-1:]
    fits = len(prediction.selection.counts) == len(prediction.votes.counts)
    known = prediction.selection.with_more(earlier[0]) if fits and earlier else prediction.selection
    if not ledger.claim(
        fits and known.top == prediction.label,
        "The label led the votes before the draws that test it.",
        f"the label {prediction.label} did not lead the votes before the draws that test it",
    ):
        return
    _check_reselections(prediction, ledger)
    fresh = prediction.votes.since(earlier[0]) if earlier else prediction.votes
    stage = len(prediction.reselections) + 1
    hardest = {known.non_finite: fresh.non_finite}
    for c, (before, count) in enumerate(zip(known.counts, fresh.counts, strict=True)):
        if c != prediction.label:
            hardest[before] = max(count, hardest.get(before, 0))
    votes, mine = fresh.counts[prediction.label], known.counts[prediction.label]
    found = [
        log_e_value(0.5, ((mine + 0.5, before + 0.5), (0.5, 0.5)), votes, other) for before, other in hardest.items()
    ]
    least = min(found, key=lambda interval: float(interval.low))
    needed = log_reciprocal(prediction.setting.alpha / (stage * (stage + 1) * (1 + _TIGHT)))
    ledger.claim(
        least.low >= needed.high,
        "Its lead over every other class is significant at alpha, by enclosure.",
        f"its lead is not significant at alpha = {prediction.setting.alpha!r}",
    )
    exact = stage * (stage + 1) * math.exp(-float(least.low))
    ledger.claim(
        exact <= prediction.p_value <= exact * (1.0 + _E_VALUE_SLACK),
        "The p-value is that of the smallest e-value, and not understated.",
        f"the p-value is {exact!r}, not {prediction.p_value!r}",
    )
