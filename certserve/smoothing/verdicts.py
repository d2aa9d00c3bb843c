"""What detectors say of an image, as values. No guarantee follows from it: it is an alarm, not a proof.

The detectors themselves are `certserve.defences.magnet`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["DetectorVerdict", "Verdict"]


@dataclass(frozen=True, slots=True)
class DetectorVerdict:
    """What one detector says of an image.

    Attributes:
        name: as "l2-I". score: the higher, the more unusual. threshold: what it must exceed to be flagged.
        p_value: (1 + validation images with such a score or a higher one) / (1 + validation images); for images like
            those, at most t with probability at most t.
        rate: the nominal false-positive rate; flagged says whether the p-value is at most that.
        validation_images: how many the detector was calibrated with.
    """

    name: str
    score: float
    threshold: float
    p_value: float
    flagged: bool
    rate: float
    validation_images: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all detectors say of an image: it is flagged where one of them flags it."""

    detectors: tuple[DetectorVerdict, ...]

    @property
    def flagged(self) -> bool:
        """Whether any detector flags it."""
        return any(detector.flagged for detector in self.detectors)

    @property
    def p_value(self) -> float:
        """The smallest p-value times the number of detectors (Bonferroni), at most 1."""
        return min(1.0, len(self.detectors) * min(detector.p_value for detector in self.detectors))

    @property
    def rate(self) -> float:
        """The nominal false-positive rate of all together: the sum, by the union bound."""
        return min(1.0, math.fsum(detector.rate for detector in self.detectors))

    @property
    def statement(self) -> str:
        """One sentence of what that means."""
        names = ", ".join(detector.name for detector in self.detectors if detector.flagged)
        said = f"Flagged as unusual by {names}" if names else "Flagged by no detector"
        return f"{said} (nominal false-positive rate {self.rate:g}); that proves neither tampering nor its absence."
