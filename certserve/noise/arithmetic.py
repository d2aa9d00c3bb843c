"""The two arithmetics in which noise is added, and what each takes off p_lower."""

from __future__ import annotations

import math
from enum import StrEnum

__all__ = ["Arithmetic", "arithmetic_error"]


class Arithmetic(StrEnum):
    """In which arithmetic noise is added: which inputs are allowed, and how exactly the noise is what it claims."""

    GRID = "grid"
    """Pixels on multiples of 1/255, integer noise: `certserve.noise.grid`."""

    FLOAT = "float"
    """Any pixels in [0, 1], the noisy sum rounded to multiples of 2^-12: `certserve.noise.real`."""


def arithmetic_error(arithmetic: Arithmetic, sigma: float, dimension: int) -> float:
    """d * eps, rounded up: the total variation, over `dimension` pixels, between the noise drawn and the ideal.

    The probability of any answer under the ideal noise differs from that under the noise drawn by at most this
    much, so it is deducted from p_lower.
    """
    from certserve.noise import grid, real

    if arithmetic is Arithmetic.GRID:
        per_pixel = grid.rounded_gaussian(sigma).total_variation
    else:
        per_pixel = real.total_variation(sigma)
    return math.nextafter(dimension * per_pixel, math.inf)
