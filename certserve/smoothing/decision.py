"""CERTIFY and PREDICT of Cohen, Rosenfeld and Kolter (2019): votes in, an outcome out.

The label of a certificate comes from the selection votes only; the bound comes from the estimation votes only.
Both procedures need the number of draws fixed beforehand; `certserve.smoothing.plans` says when they may be asked.
"""

from __future__ import annotations

from scipy.special import betainc

from certserve.smoothing.bounds import SMALLEST_ALPHA, clopper_pearson_lower
from certserve.smoothing.distribution import Gaussian
from certserve.smoothing.outcomes import Abstention, Case, Certificate, Prediction, Votes

__all__ = ["certified_probability", "certify", "p_value", "predict"]


def certify(selection: Votes, estimation: Votes, case: Case) -> Certificate | Abstention:
    """A Certificate for the class that leads the selection votes, or an Abstention; see `Certificate`.

    Raises:
        ValueError: the votes are not exactly n0 and n draws of `case.setting`.

    References:
        Cohen et al. (2019), CERTIFY (section 3.2.2) and Proposition 2.
    """
    _check_total(selection, case.setting.n0, "selection")
    _check_total(estimation, case.setting.n, "estimation")
    setting = case.setting
    label = selection.top
    p_lower = certified_probability(estimation.counts[label], setting.n, setting.alpha, setting.arithmetic_error)
    distribution = Gaussian(setting.sigma)
    radius = distribution.radius(p_lower)
    if radius <= 0.0:
        return Abstention(label, case.labels[label], selection, (estimation,), setting, case.origin, p_lower=p_lower)
    return Certificate(
        label=label,
        label_name=case.labels[label],
        radius=radius,
        norm=distribution.norm,
        p_lower=p_lower,
        selection=selection,
        estimation=(estimation,),
        setting=setting,
        origin=case.origin,
    )


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


def p_value(votes: Votes, label: int) -> float:
    """The two-sided exact binomial p-value of `label` against the runner-up, rounded up; 1 where it does not lead.

    With n1 and n2 votes: 2 P(Binomial(n1 + n2, 1/2) >= n1), and `betainc` errs by at most 1e-11; below 1e-100,
    where it would come to underflow, 1e-100 stands.
    """
    first = votes.counts[label]
    others = [count for c, count in enumerate(votes.counts) if c != label]
    second = max([votes.non_finite, *others])
    if first <= second:
        return 1.0
    value = 2.0 * float(betainc(first, second + 1, 0.5)) * (1.0 + 1e-10)
    return min(1.0, max(SMALLEST_ALPHA, value))


def _check_total(votes: Votes, draws: int, name: str) -> None:
    if votes.total != draws:
        raise ValueError(f"the {name} votes sum to {votes.total}, but {draws} draws were planned")
