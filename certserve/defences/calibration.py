"""Scores of validation images -> thresholds and p-values, by rank alone; a higher score is a more unusual image.

Nothing is assumed of the scores' law. If the validation images and a new image are exchangeable, the p-value of the
new one is at most t with probability at most t, for every t; ties only make it larger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import numpy.typing as npt

from certserve.errors import BundleError

__all__ = ["Calibration", "false_positive_interval", "smallest_validation"]


@dataclass(frozen=True)
class Calibration:
    """What one detector is compared with.

    Attributes:
        scores: of the validation images, float32, increasing. rate: the nominal false-positive rate.

    Raises:
        BundleError: the scores are not such an array, or too few for the rate.
    """

    scores: npt.NDArray[np.float32]
    rate: float

    def __post_init__(self) -> None:
        scores = self.scores
        if scores.ndim != 1 or scores.dtype != np.float32 or not np.isfinite(scores).all():
            raise BundleError(f"expected a row of finite float32 scores, not {scores.dtype} {scores.shape}")
        if (scores[1:] < scores[:-1]).any():
            raise BundleError("the scores of the validation images must be increasing")
        if len(scores) < smallest_validation(self.rate):
            raise BundleError(
                f"a false-positive rate of {self.rate!r} needs {smallest_validation(self.rate)} validation images at "
                f"least, and there are {len(scores)}"
            )

    @property
    def rank(self) -> int:
        """The threshold is the score of this rank, 1 being the largest; at least 1."""
        return math.floor(_exact(self.rate) * (len(self.scores) + 1))

    @cached_property
    def threshold(self) -> float:
        """What a score must exceed to be flagged: then, and only then, its p-value is at most the rate."""
        return float(self.scores[len(self.scores) - self.rank])

    def flagged(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Which scores exceed the threshold; what is no number does."""
        return ~(scores <= np.float32(self.threshold))

    def p_values(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """(1 + how many validation scores are as large or larger) / (1 + how many there are); never 0.

        What is no number counts as larger than any.
        """
        as_large = len(self.scores) - np.searchsorted(self.scores, scores, side="left")
        found: npt.NDArray[np.float64] = (1 + as_large) / (1 + len(self.scores))
        return found


def smallest_validation(rate: float) -> int:
    """The fewest validation images with which a false-positive rate can be kept and anything flagged at all."""
    return math.ceil(1 / _exact(rate)) - 1


def false_positive_interval(rate: float, validation: int, images: int, level: float = 0.95) -> tuple[int, int]:
    """How many of so many new images, all like the validation ones, are flagged: an interval of that probability.

    The threshold was itself estimated, so that the law is the beta-binomial one: of the k-th largest of N scores
    without ties, the share that exceeds it is Beta(k, N + 1 - k).
    """
    from scipy.stats import betabinom  # takes a second, and no server needs it

    rank = math.floor(_exact(rate) * (validation + 1))
    law = betabinom(images, rank, validation + 1 - rank)
    return int(law.ppf((1 - level) / 2)), int(law.ppf((1 + level) / 2))


def _exact(rate: float) -> Fraction:
    """The rate as it is written: 0.15 of 19 + 1 is 3, though the nearest binary fraction is a little less."""
    return Fraction(repr(float(rate)))
