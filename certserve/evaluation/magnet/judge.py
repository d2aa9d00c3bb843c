"""Images -> what a bundle's classifier, detectors and reformer make of them, by the runtime that serves.

The classifier answers alone, without noise, in the precision that the MagNet was calibrated with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from certserve.bundle import Bundle
from certserve.datasets import Dataset
from certserve.defences.calibration import false_positive_interval
from certserve.defences.magnet import DetectorVerdict, answers, classifier_of, load_magnet, reform

__all__ = ["Alarms", "Clean", "Judge", "Judged", "scaled"]

_ROWS = 500  # at once, so that a data set of any size takes the memory of so many

Pixels = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Judged:
    """What is said of images: (rows,) each.

    Attributes:
        answers: the classifier's. reformed: its answers on what the reformer makes of them; without one, `answers`.
        flagged: whether any detector fires.
    """

    answers: npt.NDArray[np.int64]
    reformed: npt.NDArray[np.int64]
    flagged: Flags


@dataclass(frozen=True, slots=True)
class Alarms:
    """A detector's false alarms.

    Attributes:
        flagged: images. rate: the nominal one. low, high: the 95 % predictive interval of `flagged`.
    """

    detector: str
    flagged: int
    rate: float
    validation_images: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Clean:
    """The images as they are.

    Attributes:
        alone, reformed: right answers of so many images. passed: right after the reformer, and not flagged.
        flagged: by any detector. rate: at most this share is, nominally. right: (images,), by the classifier alone.
    """

    images: int
    alone: int
    reformed: int
    passed: int
    flagged: int
    rate: float
    alarms: tuple[Alarms, ...]
    right: Flags


class Judge:
    """A bundle's MagNet and its classifier, loaded.

    Args:
        trust: as in `certserve.backends.load`.

    Raises:
        BundleError, ModelRefused: as `load_magnet` and `classifier_of`.
    """

    def __init__(self, bundle: Bundle, *, trust: bool = False) -> None:
        self._magnet = load_magnet(bundle, trust=trust)
        assert bundle.magnet is not None
        self.classifier = self._magnet.classifier or classifier_of(bundle, bundle.magnet.precision, trust=trust)
        self._shape = bundle.shape

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Of the detectors, in the bundle's order."""
        (verdict,) = self._magnet.detect(np.zeros((1, *self._shape), np.float32))
        return tuple(detector.threshold for detector in verdict.detectors)

    def reform(self, pixels: Pixels) -> Pixels:
        """What the reformer makes of the images; without one, the images."""
        return pixels if self._magnet.reformer is None else reform(self._magnet.reformer, pixels)

    def judge(self, pixels: Pixels) -> Judged:
        """What is said of pixels in [0, 1], (rows, *shape)."""
        flagged = np.array([verdict.flagged for verdict in self._magnet.detect(pixels)])
        return Judged(answers(self.classifier, pixels), answers(self.classifier, self.reform(pixels)), flagged)

    def clean(self, data: Dataset) -> Clean:
        """What is said of a data set as it is."""
        alone, after, verdicts = [], [], []
        for at in range(0, len(data), _ROWS):
            pixels, labels = scaled(data.images[at : at + _ROWS]), data.labels[at : at + _ROWS]
            alone.append(answers(self.classifier, pixels) == labels)
            after.append(answers(self.classifier, self.reform(pixels)) == labels)
            verdicts += self._magnet.detect(pixels)
        right, reformed = np.concatenate(alone), np.concatenate(after)
        flagged = np.array([verdict.flagged for verdict in verdicts])
        return Clean(
            images=len(data),
            alone=int(right.sum()),
            reformed=int(reformed.sum()),
            passed=int((reformed & ~flagged).sum()),
            flagged=int(flagged.sum()),
            rate=verdicts[0].rate,
            alarms=tuple(_alarms(column) for column in zip(*(v.detectors for v in verdicts), strict=True)),
            right=right,
        )


def scaled(images: npt.NDArray[np.uint8]) -> Pixels:
    """8-bit images as pixels in [0, 1]."""
    return images.astype(np.float32) / np.float32(255)


def _alarms(verdicts: Sequence[DetectorVerdict]) -> Alarms:
    one, flagged = verdicts[0], sum(verdict.flagged for verdict in verdicts)
    low, high = false_positive_interval(one.rate, one.validation_images, len(verdicts))
    return Alarms(one.name, flagged, one.rate, one.validation_images, low, high)
