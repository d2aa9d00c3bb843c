"""The smoothing distribution: which norm the radius is in, and what radius a probability carries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from scipy.special import ndtri

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
