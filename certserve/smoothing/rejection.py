"""Whether a rejection's numbers agree with each other: thresholds, ranks, p-values and what was flagged.

That the scores are those of the image needs the model, and that the calibration is right its images.
"""

from __future__ import annotations

import math
from fractions import Fraction

from certserve.smoothing.ledger import Ledger
from certserve.smoothing.outcomes import Rejected
from certserve.smoothing.verdicts import DetectorVerdict

__all__ = ["check_rejection"]


def check_rejection(rejected: Rejected, ledger: Ledger) -> None:
    """Enter what holds of a rejection, and what does not."""
    detectors = rejected.detectors
    names = [detector.name for detector in detectors]
    ledger.claim(
        len(set(names)) == len(names) and all(names),
        "The detectors' names differ.",
        f"the detectors' names must differ, and be there: {names}",
    )
    ledger.claim(
        any(detector.flagged for detector in detectors),
        "A detector flags the image.",
        "no detector flags the image, so it is not rejected",
    )
    for detector in detectors:
        _check_detector(detector, ledger)


def _check_detector(found: DetectorVerdict, ledger: Ledger) -> None:
    """Score, threshold, p-value and rate of one detector; what is flagged by score and by p-value."""
    name, images = found.name, found.validation_images
    in_range = 0.0 < found.rate < 1.0 and 1 <= images <= _MOST_IMAGES and 0.0 < found.p_value <= 1.0
    finite = math.isfinite(found.score) and math.isfinite(found.threshold)
    if not in_range or not finite:
        ledger.claim(False, "", f"{name}: a rate, a p-value, a score or a number of images is out of range")
        return
    rank = math.floor(Fraction(repr(found.rate)) * (images + 1))
    ledger.claim(
        rank >= 1,
        f"{name}: {images} validation images suffice for the rate {found.rate!r}.",
        f"{name}: {images} validation images are too few for the rate {found.rate!r}",
    )
    as_large = round(found.p_value * (images + 1))
    ledger.claim(
        as_large / (images + 1) == found.p_value,
        f"{name}: the p-value is that of a rank among the validation images.",
        f"{name}: {found.p_value!r} is no p-value of {images} validation images",
    )
    ledger.claim(
        found.flagged == (found.score > found.threshold) == (as_large <= rank),
        f"{name}: what it says follows from score and threshold, and from p-value and rate.",
        f"{name}: what it says does not follow from score and threshold, or not from p-value and rate",
    )


_MOST_IMAGES = 10**9
