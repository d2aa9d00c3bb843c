"""Pipelines and detectors -> what an attack minimises beside the distance, and when it has succeeded.

An attacker who knows a detector or a reformer needs no other optimiser, only another objective (Carlini and Wagner
2017, arXiv 1711.08478).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from certserve.attacks.goals import Goal
from certserve.attacks.losses import Classifier, logit_margin

__all__ = ["Detector", "Evasion", "Objective", "Terms", "reformed"]


class Terms(NamedTuple):
    """What an objective says of each image: (batch,) each.

    Attributes:
        searched: at least 0; its weight c is what the attack searches for.
        fixed: at least 0; its weight is in it.
        attained: bool, whether the image is an adversarial one.
    """

    searched: Tensor
    fixed: Tensor
    attained: Tensor


Objective: TypeAlias = Callable[[Tensor, Tensor], Terms]
"""From images (batch, *input) and labels (batch,) to their terms, row by row and differentiable. A batch may be any
rows of the images attacked, in order."""


class Detector(NamedTuple):
    """Lets an image pass where its score is below the threshold.

    Attributes:
        score: from images (batch, *input) to (batch,), row by row and differentiable.
        threshold: an attacker who does not know the true one takes a lower.
    """

    score: Callable[[Tensor], Tensor]
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evasion:
    """An objective: the goal attained by kappa in every pipeline, and every detector passed.

    `searched` is the sum over the pipelines of max(0, margin + kappa), `fixed` the sum over the detectors of
    weight * max(0, score - threshold).

    Attributes:
        pipelines: at least one, from images to logits: the classifier itself, or `reformed`.
        kappa: the confidence, in logits, at least 0; at 0 the margin is still strictly below 0.
        weight: the d of the reference, at least 0.

    Raises:
        ValueError: one of them is out of its range.

    References: Carlini and Wagner 2017, arXiv 1608.04644, section V, without detectors; arXiv 1711.08478 with them.
    """

    pipelines: tuple[Classifier, ...]
    detectors: tuple[Detector, ...] = ()
    kappa: float = 0.0
    goal: Goal = Goal.LEAVE
    weight: float = 1000.0

    def __post_init__(self) -> None:
        if not self.pipelines:
            raise ValueError("expected at least one pipeline")
        for name, value in (("kappa", self.kappa), ("weight", self.weight)):
            if not (value >= 0.0 and math.isfinite(value)):
                raise ValueError(f"expected a {name} of 0 or more, not {value}")
        if not all(math.isfinite(detector.threshold) for detector in self.detectors):
            raise ValueError("expected finite thresholds")

    def __call__(self, images: Tensor, labels: Tensor) -> Terms:
        """Return the terms of the images."""
        searched = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        fixed = torch.zeros_like(searched)
        attained = torch.ones_like(searched, dtype=torch.bool)
        for pipeline in self.pipelines:
            margin = logit_margin(pipeline(images), labels, self.goal).to(torch.float64)
            searched = searched + (margin + self.kappa).clamp_min(0.0)
            attained = attained & (margin < 0.0) & (margin <= -self.kappa)
        for detector in self.detectors:
            excess = detector.score(images).to(torch.float64) - detector.threshold
            fixed = fixed + self.weight * excess.clamp_min(0.0)
            attained = attained & (excess < 0.0)
        return Terms(searched, fixed, attained)


def reformed(classifier: Classifier, reformer: Callable[[Tensor], Tensor]) -> Classifier:
    """Return the pipeline that classifies what the reformer makes of the images."""
    return lambda images: classifier(reformer(images))
