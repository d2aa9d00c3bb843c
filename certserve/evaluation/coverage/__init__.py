"""How often a plan errs, exactly: from the binomial law, not from simulation."""

from __future__ import annotations

from collections.abc import Sequence

from certserve.evaluation.coverage.anytime import anytime_coverage
from certserve.evaluation.coverage.fixed import ErrorRate, fixed_coverage, fixed_error_rate, fixed_predict_coverage
from certserve.evaluation.coverage.looks import looks_coverage
from certserve.evaluation.coverage.rates import Coverage, Rate, Report
from certserve.evaluation.coverage.target import target_coverage
from certserve.smoothing.plans import AnytimePredict, Fixed, FixedPredict, Looks, Target

__all__ = ["AnyPlan", "Coverage", "ErrorRate", "Rate", "coverage", "fixed_error_rate"]

AnyPlan = Fixed | Target | Looks | FixedPredict | AnytimePredict

_CERTIFY = (0.69, 0.84, 0.977, 0.9987)
_PREDICT = (0.5, *_CERTIFY)


def coverage(
    plan: AnyPlan,
    shares: Sequence[float] = (),
    *,
    sigma: float = 1.0,
    runner_up: float | None = None,
    report: Report = lambda done, of: None,
) -> Coverage:
    """The probability that `plan` claims something false, and what else it does, at each true probability.

    Without the deduction of d * eps, which only lowers it.

    Args:
        shares: true probabilities of the class, in (0, 1); of the top class, in [0.5, 1), for the plans that predict.
            Empty: those that the radii of a Target need; .69, .84, .977 and .9987 else, and .5 for a FixedPredict.
        sigma: noise level, in input units; it matters to radii and to a precision.
        runner_up: with TWO_CLASS, the true probability of the runner-up; None: half of what the class leaves.
        report: told how much of the work is done.

    Raises:
        ValueError: a probability outside its range; an alpha below 1e-6 for a plan that looks more than once; a
            target that needs a probability of 1.
    """
    if isinstance(plan, Target):
        return target_coverage(plan, shares, sigma, report)
    if isinstance(plan, FixedPredict):
        return fixed_predict_coverage(plan, shares or _PREDICT)
    if isinstance(plan, AnytimePredict):
        return anytime_coverage(plan, shares or _CERTIFY, report)
    if isinstance(plan, Looks):
        return looks_coverage(plan, shares or _CERTIFY, sigma, report, runner_up)
    return fixed_coverage(plan, shares or _CERTIFY, runner_up)
