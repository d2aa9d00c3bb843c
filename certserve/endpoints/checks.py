"""What is wrong with a request, all of it at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from certserve import images
from certserve.defences.preemptive.methods import Budget, How
from certserve.endpoints.models import ServedModel
from certserve.endpoints.plans import Budgets, CertifyPlan, PredictPlan
from certserve.endpoints.requests import CertifyRequest, PredictRequest, RobustifyRequest
from certserve.endpoints.searches import SearchLimits
from certserve.errors import InvalidRequest, Violation
from certserve.images import EncodedImage, ImageInput, Limits
from certserve.noise.arithmetic import Arithmetic, arithmetic_error
from certserve.smoothing.bounds import SMALLEST_ALPHA
from certserve.smoothing.outcomes import Bound
from certserve.smoothing.plans import Fixed, Plan

__all__ = ["Checks"]

_LARGEST_NONCE = 64


class Checks:
    """Collects what is wrong with a request, so that the caller learns of everything at once."""

    def __init__(self, model: ServedModel, limits: Limits, malformed: Sequence[Violation]) -> None:
        self._model = model
        self._limits = limits
        self._violations = list(malformed)

    def sigma(self, value: float | None) -> float:
        offered = self._model.bundle.sigmas
        if value is None:
            return self._model.bundle.defaults.sigma
        if value not in offered:
            choices = ", ".join(f"{sigma:g}" for sigma in offered)
            self._add("sigma", f"{value!r} is not a noise level this model was trained for; it offers {choices}")
            return offered[0]
        return value

    def draws(self, name: str, value: int | None, default: int) -> int:
        if value is None:
            return min(default, self._model.largest_n)
        if not 1 <= value <= self._model.largest_n:
            self._add(name, f"must lie in 1..{self._model.largest_n}, not {value}")
            return default
        return value

    def alpha(self, value: float | None) -> float:
        if value is None:
            return self._model.bundle.defaults.alpha
        if not SMALLEST_ALPHA <= value < 1.0:
            self._add("alpha", f"must lie in [{SMALLEST_ALPHA:g}, 1), not {value!r}")
            return self._model.bundle.defaults.alpha
        return value

    def image(self, image: ImageInput | None, fit: images.ImageFit, arithmetic: Arithmetic | None) -> Arithmetic:
        """The arithmetic that the request gets."""
        if image is None:
            if not any(violation.field.startswith("image") for violation in self._violations):
                self._add("image", "is missing; send an encoded image or a tensor")
            return Arithmetic.GRID
        problems = images.check(image, self._model.geometry, fit, self._limits)
        for problem in problems:
            self._add("image", problem)
        if problems or isinstance(image, EncodedImage) or image.pixels.dtype == np.uint8:
            return arithmetic or Arithmetic.GRID
        on_grid = images.on_grid(image.pixels) is not None
        if arithmetic is Arithmetic.GRID and not on_grid:
            self._add("image", "has values that are not multiples of 1/255, which grid arithmetic needs; send uint8 "
                               "pixels, or ask for float arithmetic")  # fmt: skip
        return arithmetic or (Arithmetic.GRID if on_grid else Arithmetic.FLOAT)

    def budgets(self, request: PredictRequest | CertifyRequest, default_n: int) -> tuple[Budgets, Arithmetic]:
        """What the request says, or the model's defaults, of all that every plan is fixed with."""
        looks = getattr(request.plan, "looks", ())
        sigma = self.sigma(request.sigma)
        n0 = self.draws("n0", request.n0, self._model.bundle.defaults.n0)
        n = self.draws("n", looks[-1] if looks and request.n is None else request.n, default_n)
        alpha = self.alpha(request.alpha)
        arithmetic = self.image(request.image, request.fit, request.arithmetic)
        error = arithmetic_error(arithmetic, sigma, math.prod(self._model.bundle.shape))
        bound = request.bound if isinstance(request, CertifyRequest) else Bound.BINARY
        return Budgets(n0, n, alpha, bound, sigma, error), arithmetic

    def certify_plan(self, plan: CertifyPlan, budgets: Budgets) -> Plan:
        """The plan; where it cannot be, another, and what is wrong."""
        return self._planned(plan.certify, plan.smallest_n, budgets)

    def predict_plan(self, plan: PredictPlan, budgets: Budgets) -> Plan:
        """The plan; where it cannot be, another, and what is wrong."""
        return self._planned(plan.predict, plan.smallest_predicting_n, budgets)

    def _planned(self, make: Callable[[Budgets], Plan], smallest: Callable[[Budgets], int], budgets: Budgets) -> Plan:
        try:
            plan = make(budgets)
        except ValueError as error:
            self._add("plan", str(error))
            return Fixed(budgets.n0, budgets.n, budgets.alpha)
        try:
            least = smallest(budgets)
        except ValueError as error:
            self._add("alpha" if "alpha" in str(error) else "plan", str(error))
            return plan
        if budgets.n < least:
            self._add(
                "n",
                f"{budgets.n} draws cannot give an answer at alpha = {budgets.alpha!r}; the smallest n that could is "
                f"{least}",
            )
        return plan

    def budget(self, request: RobustifyRequest) -> Budget | None:
        """How far the image may be moved; None where something is wrong with it."""
        if any(violation.field in ("delta", "epsilon", "norm") for violation in self._violations):
            return None
        if request.delta is None:
            self._add("delta", "is missing; say how far the image may be moved")
            return None
        epsilon = request.delta if request.epsilon is None else request.epsilon
        try:
            budget = Budget(norm=request.norm, delta=request.delta, epsilon=epsilon)
            budget.check(math.prod(self._model.bundle.shape))
        except ValueError as error:
            self._add("epsilon" if "epsilon" in str(error) else "delta", str(error))
            return None
        return budget

    def search(self, how: How, limits: SearchLimits) -> None:
        """Accept the search, if it does not take more than it may."""
        most, draws = limits.largest_passes, limits.largest_draws
        if most is not None and how.most_passes > most:
            self._add("method", f"may take {how.most_passes} passes through the network; at most {most} are allowed")
        if draws is not None and how.draws > draws:
            self._add("method", f"takes {how.draws} draws at a time; at most {draws} are allowed")

    def conclude(self, image: ImageInput | None, nonce: bytes, time_budget: float | None) -> ImageInput:
        """The image, if nothing was wrong.

        Raises:
            InvalidRequest: something was; all of it.
        """
        if len(nonce) > _LARGEST_NONCE:
            self._add("nonce", f"has {len(nonce)} bytes; at most {_LARGEST_NONCE} are allowed")
        if time_budget is not None and not 0.0 < time_budget < math.inf:
            self._add("time_budget", f"must be a positive number of seconds, not {time_budget!r}")
        if self._violations or image is None:
            raise InvalidRequest(self._violations)
        return image

    def _add(self, field: str, description: str) -> None:
        self._violations.append(Violation(field, description))
