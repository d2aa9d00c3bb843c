"""Target: how often it certifies a radius that is not there, by the exact law of its walk."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from certserve.evaluation.coverage.rates import Coverage, Rate, Report, not_below, sequential_alpha
from certserve.smoothing.distribution import Gaussian
from certserve.smoothing.eprocess import informed_priors
from certserve.smoothing.plans import Target
from certserve.smoothing.plans.target import TargetTest
from certserve.smoothing.stopping import StoppingLaw, TargetBoundaries, stopping_law

__all__ = ["target_coverage", "target_nulls"]

Reals = npt.NDArray[np.float64]

_UNLIKELY = 1e-10
_AT_ONCE = 8


def target_nulls(plan: Target, sigma: float) -> tuple[float, ...]:
    """The probability that each of the plan's radii needs, rounded up; those that need 1 are left out.

    Raises:
        ValueError: the target needs a probability of 1.
    """
    needed = (Gaussian(sigma).probability(radius) for radius in plan.schedule.radii)
    nulls = tuple(math.nextafter(p, math.inf) for p in needed if math.nextafter(p, math.inf) < 1.0)
    if not nulls:
        raise ValueError(f"no probability below 1 carries a radius of {plan.radius!r} at this sigma")
    return nulls


def target_coverage(plan: Target, shares: Sequence[float], sigma: float, report: Report) -> Coverage:
    """What `Target` does where a class has each of these true probabilities; none: those that its radii need.

    The prior follows the selection votes. They are averaged over, as Binomial(n0, p); a selection that another
    class wins counts as if this one had, so that the probability is an upper bound, by as much as that is probable.

    Raises:
        ValueError: a probability outside (0, 1), an alpha below 1e-6, or a target that needs a probability of 1.
    """
    sequential_alpha(plan.alpha)
    nulls = target_nulls(plan, sigma)
    truths = np.array(shares or nulls)
    if not ((truths > 0.0) & (truths < 1.0)).all():
        raise ValueError(f"the probabilities must lie strictly between 0 and 1, not {truths.tolist()!r}")
    # The smallest false radius decides: the larger ones count only after it.
    smallest = np.searchsorted(nulls, truths)
    grown = sorted({j for j in smallest.tolist() if 0 < j < len(nulls)})
    steps = 1 + len(grown)
    law = _law(plan, nulls[0], truths, True, lambda done, _: report(done, steps))
    false = np.where(smallest == 0, law.claimed, 0.0)
    for step, j in enumerate(grown, 1):
        rows = np.flatnonzero(smallest == j)
        later = _law(plan, nulls[j], truths[rows], False, lambda done, _, step=step: report(step + done, steps))  # type: ignore[misc]
        false[rows] = later.claimed
    weights = _weights(plan, truths)
    dropped = np.where(weights > _UNLIKELY, 0.0, weights).sum(axis=1)
    rates = tuple(
        Rate(
            p,
            not_below(false[i], plan.n0 + 1, dropped[i]) if smallest[i] < len(nulls) else 0.0,
            min(1.0, float(law.claimed[i])),
            plan.n0 + float(law.mean_draws[i]),
        )
        for i, p in enumerate(truths.tolist())
    )
    return Coverage(plan.name, plan.n0, plan.n, plan.alpha, rates, *_meanings(plan))


def _meanings(plan: Target) -> tuple[str, str, str]:
    selected = "averaged over the selection votes, as if this class were always the one selected"
    if not plan.grow:
        return (
            f"that the radius is certified although p is at most what it needs: exact, {selected}",
            f"that the radius is certified: exact, {selected}",
            "exact, likewise",
        )
    return (
        f"that any radius is certified that needs p or more; {selected}: exact below what the first radius needs, else "
        "an upper bound that leaves giving up out",
        f"that the first radius is certified: exact, {selected}",
        "until the first radius is settled: exact, likewise; growing takes more",
    )


def _weights(plan: Target, truths: Reals) -> Reals:
    """How probable each number of selection votes is, of shape (truths, n0 + 1)."""
    return np.asarray(binom.pmf(np.arange(plan.n0 + 1), plan.n0, truths[:, None]), dtype=np.float64)


def _law(plan: Target, null: float, truths: Reals, gives_up: bool, report: Report) -> StoppingLaw:
    """The law of one radius, over all likely selections: a few of them at once, each of which tells its progress."""
    weights = _weights(plan, truths)
    likely = np.flatnonzero((weights > _UNLIKELY).any(axis=0))
    claimed, given_up, draws = np.zeros(len(truths)), np.zeros(len(truths)), np.zeros(len(truths))
    for start in range(0, len(likely), _AT_ONCE):
        report(start / len(likely), 1.0)
        votes = likely[start : start + _AT_ONCE]
        tests = [TargetTest(null, null, informed_priors(k, plan.n0 - k), plan.alpha, plan.n) for k in votes.tolist()]
        boundaries = [TargetBoundaries(test, gives_up) for test in tests]
        law = stopping_law(boundaries, plan.looks, weights[:, votes], truths, null)
        claimed, given_up, draws = claimed + law.claimed, given_up + law.given_up, draws + law.mean_draws
    return StoppingLaw(claimed, given_up, draws)
