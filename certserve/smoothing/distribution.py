"""The smoothing distribution: which norm the radius is in, what radius a probability carries, and what it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from scipy.special import ndtr, ndtri

__all__ = ["Gaussian"]


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Isotropic Gaussian noise N(0, sigma^2 I).

    Args:
        sigma: standard deviation in input units (pixels in [0, 1]), > 0.

    Raises:
        ValueError: sigma is not a positive finite number.
    """

    norm: ClassVar[str] = "L2"
    sigma: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0.0):
            raise ValueError(f"sigma must be positive and finite, not {self.sigma!r}")

    def radius(self, p_lower: float) -> float:
        """The L2 radius sigma * Phi^-1(p_lower) in input units, rounded down; 0 at p_lower <= 1/2.

        If the base classifier answers A with probability at least p_lower under the noise, the smoothed
        classifier answers A everywhere within this radius.

        References:
            Cohen, Rosenfeld and Kolter (2019), Theorem 1 with the runner-up bounded by 1 - p_lower.
        """
        if not 0.0 <= p_lower < 1.0:
            raise ValueError(f"p_lower must lie in [0, 1), not {p_lower!r}")
        if p_lower <= 0.5:
            return 0.0
        # ndtri errs by less than 3 units in the last place; 1e-14 covers it and the two products.
        return float(self.sigma * ndtri(p_lower)) * (1.0 - 1e-14)

    def two_class_radius(self, p_lower: float, p_upper: float) -> float:
        """The L2 radius sigma / 2 * (Phi^-1(p_lower) - Phi^-1(p_upper)), rounded down; 0 where it is not positive.

        If the base classifier answers A with probability at least p_lower under the noise, and every other class
        with probability at most p_upper, the smoothed classifier answers A everywhere within this radius.

        References:
            Cohen, Rosenfeld and Kolter (2019), Theorem 1.
        """
        if not (0.0 <= p_lower < 1.0 and 0.0 < p_upper <= 1.0):
            raise ValueError(f"p_lower must lie in [0, 1) and p_upper in (0, 1], not {p_lower!r} and {p_upper!r}")
        if p_lower <= p_upper or p_lower == 0.0:
            return 0.0
        low, high = float(ndtri(p_lower)), float(ndtri(p_upper))
        # 1e-14 of each term covers its error and that of the subtraction; then the two products.
        return max(0.0, self.sigma / 2.0 * (low - high - 1e-14 * (abs(low) + abs(high))) * (1.0 - 1e-14))

    def probability(self, radius: float) -> float:
        """The least p_lower that carries `radius` (input units, >= 0): Phi(radius / sigma), rounded up, at most 1."""
        if not (math.isfinite(radius) and radius >= 0.0):
            raise ValueError(f"the radius must be finite and not negative, not {radius!r}")
        # The quotient and ndtr err by a few units in the last place.
        return min(1.0, float(ndtr(radius / self.sigma * (1.0 + 1e-15))) * (1.0 + 1e-14))
