"""The one-sided truncated-Beta e-process: evidence, at any number of draws, that a probability exceeds a null.

W = E[(q / p0)^S ((1 - q) / (1 - p0))^F] over q from a mixture of Beta laws, each restricted to (p0, 1), after S
successes and F failures. For every p <= p0 it is a supermartingale that starts at 1 or below, so it ever reaches
1 / alpha with probability at most alpha (Ville's inequality): it may be looked at as often as one likes. The priors
may depend on whatever was known before the first of these draws: on the selection votes, here.

References:
    Ville (1939); Robbins (1970), mixtures of likelihood ratios; Ramdas, Gruenwald, Vovk and Shafer (2023), e-processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaincc, betaln

__all__ = ["LEAST_PRIOR_MASS", "SLACK", "EProcess", "Prior", "crossing_level", "informed_priors"]

LEAST_PRIOR_MASS = 1e-200
"""A prior with less mass above the null is left out: from about 1e-280 down, the quotient of masses is arbitrary."""

SLACK = 1e-6
"""What ln W must exceed the level by: it errs by less than 1e-7 for up to 10^7 draws."""


class Prior(NamedTuple):
    """A Beta(a, b) law, a, b > 0, before its restriction to the probabilities above the null."""

    a: float
    b: float


def informed_priors(successes: int, failures: int) -> tuple[Prior, Prior]:
    """Half of the prior follows earlier draws, half of it is Jeffreys'.

    The draws must come before those that the process sees.
    """
    return Prior(successes + 0.5, failures + 0.5), Prior(0.5, 0.5)


def crossing_level(alpha: float) -> float:
    """What ln W must reach for an error of at most `alpha`, in (0, 1): ln(1 / alpha), and room for its rounding."""
    return -math.log(alpha) + SLACK


class EProcess:
    """Evidence that a probability exceeds `null`; see the module for the guarantee.

    Args:
        null: in (0, 1). priors: of equal weight; one with less than 1e-200 of its mass above the null is left out,
            and the others keep their weights.

    Raises:
        ValueError: the null is outside (0, 1).
    """

    def __init__(self, null: float, priors: Sequence[Prior]) -> None:
        if not 0.0 < null < 1.0:
            raise ValueError(f"the null must lie in (0, 1), not {null!r}")
        self.null = null
        self._log_null = math.log(null)
        self._log_rest = math.log1p(-null)
        self._components: list[tuple[float, float, float]] = []
        for prior in priors:
            mass = float(betaincc(prior.a, prior.b, null))
            if mass >= LEAST_PRIOR_MASS:
                norm = float(betaln(prior.a, prior.b)) + math.log(mass) + math.log(len(priors))
                self._components.append((prior.a, prior.b, norm))

    def log_value(self, successes: Any, failures: Any) -> npt.NDArray[np.float64]:
        """ln W after so many successes and failures, elementwise for arrays of them; -inf where it is not finite."""
        total = np.full(np.broadcast(successes, failures).shape, -np.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            for a, b, norm in self._components:
                mass = np.log(betaincc(a + successes, b + failures, self.null))
                total = np.logaddexp(total, betaln(a + successes, b + failures) + mass - norm)
            total = total - successes * self._log_null - failures * self._log_rest
        return np.where(np.isfinite(total), total, -np.inf)

    def reaches(self, level: float, successes: int, failures: int) -> bool:
        """Whether ln W >= level, for a level > 0: microseconds, and less where it is far away.

        W is a mean of likelihood ratios, so ln W is at most that of the best of them: n kl(S / n, null) where the
        share of successes is above the null, 0 where it is not.
        """
        draws = successes + failures
        if successes <= self.null * draws:
            return False
        best = successes * (math.log(successes / draws) - self._log_null)
        if failures:
            best += failures * (math.log(failures / draws) - self._log_rest)
        return best >= level and bool(self.log_value(successes, failures) >= level)
