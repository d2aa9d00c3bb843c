"""CERTIFY and PREDICT of Cohen, Rosenfeld and Kolter (2019): votes in, an outcome out.

The label of a certificate comes from the selection votes only; the bounds come from the estimation votes only.
Both procedures need the number of draws fixed beforehand; `certserve.smoothing.plans` says when they may be asked.
"""

from __future__ import annotations

import math

from scipy.special import betainc

from certserve.smoothing.bounds import SMALLEST_ALPHA, clopper_pearson_lower, clopper_pearson_upper
from certserve.smoothing.distribution import Gaussian
from certserve.smoothing.outcomes import Abstention, Bound, Case, Certificate, Prediction, Votes

__all__ = ["certified_probability", "certify", "conclude", "p_value", "predict", "runner_up_probability"]


def certify(selection: Votes, estimation: Votes, case: Case) -> Certificate | Abstention:
    """A Certificate for the class that leads the selection votes, or an Abstention; see `Certificate`.

    With TWO_CLASS the label's bound spends `schedule.alphas[0]` and the runner-up's `schedule.runner_up_alphas[0]`.

    Raises:
        ValueError: the votes are not exactly n0 and n draws of `case.setting`.

    References:
        Cohen et al. (2019), CERTIFY (section 3.2.2) and Proposition 2.
    """
    setting = case.setting
    _check_total(selection, setting.n0, "selection")
    _check_total(estimation, setting.n, "estimation")
    label, p_upper = selection.top, 1.0
    alpha = setting.schedule.alphas[0] if setting.schedule.alphas else setting.alpha
    p_lower = certified_probability(estimation.counts[label], setting.n, alpha, setting.arithmetic_error)
    if setting.bound is Bound.TWO_CLASS:
        (alpha,) = setting.schedule.runner_up_alphas
        p_upper = runner_up_probability(estimation.runner_up(label), setting.n, alpha, setting.arithmetic_error)
    return conclude(selection, (estimation,), case, p_lower, p_upper)


def conclude(
    selection: Votes, estimation: tuple[Votes, ...], case: Case, p_lower: float, p_upper: float = 1.0
) -> Certificate | Abstention:
    """What the bounds carry: a Certificate with the radius they give, or an Abstention where it is not positive.

    Args:
        estimation: the votes at the looks that the bounds rely on.
        p_lower: d * eps deducted. p_upper: with TWO_CLASS, d * eps added, and lowered to 1 - p_lower here, since no two
            classes have more than 1 between them.
    """
    setting, label = case.setting, selection.top
    distribution = Gaussian(setting.sigma)
    if setting.bound is Bound.BINARY:
        radius = distribution.radius(p_lower)
    else:
        p_upper = min(p_upper, math.nextafter(1.0 - p_lower, math.inf), 1.0)
        radius = distribution.two_class_radius(p_lower, p_upper)
    name = case.labels[label]
    if radius <= 0.0:
        return Abstention(label, name, selection, estimation, setting, case.origin, p_lower=p_lower, p_upper=p_upper)
    norm = distribution.norm
    return Certificate(label, name, radius, norm, p_lower, selection, estimation, setting, case.origin, p_upper)


def predict(votes: Votes, case: Case) -> Prediction | Abstention:
    """The class that leads the votes, where its lead cannot be chance at level alpha; else an Abstention.

    Draws whose logits were not finite stand as a class of their own: they can be the runner-up, and where they
    lead there is no answer.

    Raises:
        ValueError: the votes are not exactly n draws of `case.setting`.

    References:
        Cohen et al. (2019), PREDICT (section 3.2.1) and Proposition 1; Hung and Fithian (2019).
    """
    _check_total(votes, case.setting.n, "estimation")
    label = votes.top
    value = p_value(votes, label)
    if value > case.setting.alpha:
        return Abstention(
            label,
            case.labels[label],
            Votes((0,) * len(votes.counts)),
            (votes,),
            case.setting,
            case.origin,
            p_value=value,
        )
    return Prediction(label, case.labels[label], value, votes, case.setting, case.origin)


def certified_probability(k: int, n: int, alpha: float, arithmetic_error: float) -> float:
    """The lower bound on the top class's probability: Clopper-Pearson less d * eps, rounded down, at least 0."""
    bound = clopper_pearson_lower(k, n, alpha)
    if arithmetic_error > 0.0:
        bound = (bound - arithmetic_error) * (1.0 - 2.3e-16)
    return max(0.0, bound)


def runner_up_probability(k: int, n: int, alpha: float, arithmetic_error: float) -> float:
    """The upper bound on every other class's probability, from the largest of their counts: plus d * eps, rounded up.

    It needs no factor for the number of classes: the true runner-up's own bound is at most this one.

    References:
        Voracek (2024), appendix B.
    """
    bound = clopper_pearson_upper(k, n, alpha)
    if arithmetic_error > 0.0:
        bound = (bound + arithmetic_error) * (1.0 + 4.5e-16)
    return min(1.0, bound)


def p_value(votes: Votes, label: int) -> float:
    """The two-sided exact binomial p-value of `label` against the runner-up, rounded up; 1 where it does not lead.

    With n1 and n2 votes: 2 P(Binomial(n1 + n2, 1/2) >= n1), and `betainc` errs by at most 1e-11; below 1e-100,
    where it would come to underflow, 1e-100 stands.
    """
    first, second = votes.counts[label], votes.runner_up(label)
    if first <= second:
        return 1.0
    value = 2.0 * float(betainc(first, second + 1, 0.5)) * (1.0 + 1e-10)
    return min(1.0, max(SMALLEST_ALPHA, value))


def _check_total(votes: Votes, draws: int, name: str) -> None:
    if votes.total != draws:
        raise ValueError(f"the {name} votes sum to {votes.total}, but {draws} draws were planned")
