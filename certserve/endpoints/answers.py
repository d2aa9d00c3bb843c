"""What Reform and Robustify come to, as values."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from certserve.attacks.norms import Norm
from certserve.defences.preemptive.methods import Budget, How
from certserve.images import RawImage
from certserve.smoothing.outcomes import Abstention, Certificate, CertifyOutcome, Prediction, PredictOutcome

__all__ = ["Answer", "Reformation", "Robustified", "leading"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The base classifier's own answer to an image, without noise; nothing is certified about it."""

    label: int
    label_name: str


@dataclass(frozen=True, slots=True)
class Reformation:
    """An image moved towards those that the reformer was trained on. No guarantee follows from it.

    Attributes:
        image: the reformed pixels, float32 in [0, 1]. png: the same as a PNG file, rounded to 8 bits; empty if it was
            not asked for.
        before: the answer to the image as it was sent. after: to the reformed one.
        l2, linf: the size of the change, in units of pixels in [0, 1].
    """

    image: RawImage
    png: bytes
    before: Answer
    after: Answer
    l2: float
    linf: float


@dataclass(frozen=True, slots=True, eq=False)
class Robustified:
    """An image that was moved, and what is known of it before and after.

    The only guarantee is `after`, about the pixels of `png` as they are: shown at another size, cropped, or encoded
    with loss, it is another image.

    Attributes:
        pixels: uint8, (channels, height, width), at the model's size. png: the same as a file.
        budget: what was allowed. method: what was searched with.
        l2, linf: how far it was moved, in input units; the norm of the budget is at most delta as a real number.
        predicted_before, predicted_after: Predict's answers.
        before: Certify's answer about the image as it came. after: about `png`, with the same sigma, n0, n, alpha and
            bound. Each on draws of its own, unless the image stayed as it was: then they are one answer.
        judged_safe: whether the search estimates that the label survives an adversary of epsilon.
        passes: rows that went through the network forward and back.
    """

    pixels: npt.NDArray[np.uint8] = field(repr=False)
    png: bytes = field(repr=False)
    budget: Budget
    method: How
    l2: float
    linf: float
    predicted_before: PredictOutcome
    predicted_after: PredictOutcome
    before: CertifyOutcome
    after: CertifyOutcome
    judged_safe: bool
    passes: int

    @property
    def label_kept(self) -> bool:
        """Whether the file is certified, for the label that the image was predicted to have."""
        return isinstance(self.after, Certificate) and self.after.label == leading(self.predicted_before)

    @property
    def success(self) -> bool:
        """Whether the label was kept, and the search judges it safe."""
        return self.label_kept and self.judged_safe

    @property
    def radius_before(self) -> float:
        """The certified radius before, for the label that was predicted; 0 where there is none."""
        return self._radius(self.before)

    @property
    def radius_after(self) -> float:
        """The certified radius after, for the label that was predicted before; 0 where there is none."""
        return self._radius(self.after)

    @property
    def uplift_efficiency(self) -> float | None:
        """(radius_after - radius_before) / delta, an estimate; None where delta is no L2 distance.

        For the true radii of the smoothed classifier it is at most 1.
        """
        if self.budget.norm is not Norm.L2:
            return None
        return (self.radius_after - self.radius_before) / self.budget.delta

    def _radius(self, outcome: CertifyOutcome) -> float:
        same = isinstance(outcome, Certificate) and outcome.label == leading(self.predicted_before)
        return outcome.radius if same and isinstance(outcome, Certificate) else 0.0


def leading(predicted: PredictOutcome) -> int:
    """What was predicted; of an abstention, the class with the most votes."""
    if isinstance(predicted, Prediction):
        return predicted.label
    assert isinstance(predicted, Abstention)  # only a time budget or a guard leaves another outcome
    return predicted.candidate
