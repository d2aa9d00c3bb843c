"""Which plan a request asks for; what it leaves out (n0, n, alpha) the model's defaults fill.

The plans themselves, and what they promise, are `certserve.smoothing.plans`.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import TypeAlias

from certserve.smoothing.bounds import smallest_certifying_n, smallest_predicting_n, smallest_target_n
from certserve.smoothing.distribution import Gaussian
from certserve.smoothing.outcomes import Bound
from certserve.smoothing.plans import AnytimePredict, Fixed, FixedPredict, Looks, Target
from certserve.smoothing.schedules import doubling_looks, look_alphas, split_alpha

__all__ = [
    "AnytimePlan",
    "Budgets",
    "CertifyPlan",
    "FixedPlan",
    "LooksPlan",
    "PredictPlan",
    "TargetPlan",
]


@dataclass(frozen=True, slots=True)
class Budgets:
    """What every plan is fixed with.

    Attributes:
        n0, n: selection and estimation draws. alpha: failure probability. bound: how the runner-up is bounded.
        sigma: noise level, in input units. arithmetic_error: d * eps.
    """

    n0: int
    n: int
    alpha: float
    bound: Bound
    sigma: float
    arithmetic_error: float


@dataclass(frozen=True, slots=True)
class FixedPlan:
    """All n draws, then one look: CERTIFY or PREDICT as published."""

    def certify(self, budgets: Budgets) -> Fixed:
        """Raises ValueError: a value outside its range."""
        return Fixed(budgets.n0, budgets.n, budgets.alpha, budgets.bound)

    def predict(self, budgets: Budgets) -> FixedPredict:
        """Raises ValueError: a value outside its range."""
        return FixedPredict(budgets.n, budgets.alpha)

    def smallest_n(self, budgets: Budgets) -> int:
        """The fewest estimation draws that can certify anything.

        Raises:
            ValueError: no number can.
        """
        return smallest_certifying_n(_label_share(budgets.alpha, budgets.bound), budgets.arithmetic_error)

    def smallest_predicting_n(self, budgets: Budgets) -> int:
        """The fewest draws that can name a class."""
        return smallest_predicting_n(budgets.alpha)


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """Is the radius at least `radius`? Answers as soon as that is shown, or looks out of reach.

    Attributes:
        radius: in input units, > 0. grow: larger radii to go on to, increasing, at most 99.
    """

    radius: float
    grow: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", float(self.radius))
        object.__setattr__(self, "grow", tuple(float(radius) for radius in self.grow))

    def certify(self, budgets: Budgets) -> Target:
        """Raises ValueError: a value outside its range, or the bound is not BINARY."""
        if budgets.bound is not Bound.BINARY:
            raise ValueError("a target takes the binary bound only")
        return Target(self.radius, budgets.n0, budgets.n, budgets.alpha, self.grow)

    def smallest_n(self, budgets: Budgets) -> int:
        """As `FixedPlan.smallest_n`, for the target radius."""
        null = Gaussian(budgets.sigma).probability(self.radius) + budgets.arithmetic_error
        if null >= 1.0:
            raise ValueError(f"no probability below 1 carries a radius of {self.radius:g} at sigma {budgets.sigma:g}")
        return smallest_target_n(math.nextafter(null, 1.0), budgets.alpha)


@dataclass(frozen=True, slots=True)
class LooksPlan:
    """As large a radius as the draws show, with a valid certificate after each of a few looks.

    Attributes:
        looks: numbers of estimation draws, increasing, at most 100; empty: 200, 400, 800, ... and n.
        precision: stop where the looks to come could hardly add so much to the radius, in input units; None: never.
    """

    looks: tuple[int, ...] = ()
    precision: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "looks", tuple(map(operator.index, self.looks)))
        object.__setattr__(self, "precision", None if self.precision is None else float(self.precision))

    def certify(self, budgets: Budgets) -> Looks:
        """Raises ValueError: a value outside its range, or the last look is not n."""
        looks = self.looks or doubling_looks(budgets.n)
        if looks[-1] != budgets.n:
            raise ValueError(f"the last look must be n = {budgets.n}, not {looks[-1]}")
        return Looks(budgets.n0, looks, budgets.alpha, budgets.bound, self.precision or 0.0)

    def smallest_n(self, budgets: Budgets) -> int:
        """As `FixedPlan.smallest_n`, with the share of the last look."""
        looks = self.looks or doubling_looks(budgets.n)
        alpha = look_alphas(budgets.alpha, len(looks))[-1]
        return smallest_certifying_n(_label_share(alpha, budgets.bound), budgets.arithmetic_error)


@dataclass(frozen=True, slots=True)
class AnytimePlan:
    """Predict as soon as the votes allow it: a few dozen draws for an easy image."""

    def predict(self, budgets: Budgets) -> AnytimePredict:
        """Raises ValueError: a value outside its range."""
        return AnytimePredict(budgets.n0, budgets.n, budgets.alpha)

    def smallest_predicting_n(self, budgets: Budgets) -> int:
        """The same: the first candidate is tested at half of alpha, as each tail of the published test is."""
        return smallest_predicting_n(budgets.alpha)


CertifyPlan: TypeAlias = FixedPlan | TargetPlan | LooksPlan
PredictPlan: TypeAlias = FixedPlan | AnytimePlan


def _label_share(alpha: float, bound: Bound) -> float:
    return alpha if bound is Bound.BINARY else split_alpha(alpha)[0]
