"""What an attack within a ball climbs: images and labels -> a loss each, and whether the attack has attained its goal.

With noise both are of many noisy copies, so that an attack climbs an expectation and not one draw (Athalye et al.
2018, "Synthesizing Robust Adversarial Examples", for the principle).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from certserve.attacks.goals import Goal
from certserve.attacks.losses import Classifier, logit_margin
from certserve.attacks.objectives import Objective

__all__ = ["Aim", "Loss", "Scored", "Smoothed", "cross_entropy", "evading", "logit_ratio", "margin", "targeted_ratio"]

_TINY = 1e-12


class Scored(NamedTuple):
    """What an aim says of each image: (batch,) each.

    Attributes:
        loss: what is to rise. attained: bool, whether the image is an adversarial one.
    """

    loss: Tensor
    attained: Tensor


Aim: TypeAlias = Callable[[Tensor, Tensor], Scored]
"""From images (batch, *input) and labels (batch,) to their scores, differentiable in the images."""

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From logits of copies, (draws, batch, classes), and labels (batch,) to what is to rise, (batch,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothed:
    """An aim: leave the label of the smoothed classifier. Attained where most copies answer another class.

    Attributes:
        classifier: gets draws * batch rows of the images' type.
        loss: of the copies' logits.
        sigma: noise level in input units; 0 for the classifier itself. draws: fresh for each call; with sigma 0: 1.
        generator: of the noise; on the images' device.

    Raises:
        ValueError: sigma or draws is out of its range.
    """

    classifier: Classifier
    loss: Loss
    sigma: float
    draws: int
    generator: torch.Generator

    def __post_init__(self) -> None:
        if not (self.sigma >= 0.0 and math.isfinite(self.sigma)):
            raise ValueError(f"expected a noise level of 0 or more, not {self.sigma}")
        if self.draws < 1 or (self.sigma == 0.0 and self.draws != 1):
            raise ValueError(f"expected one draw or more, and without noise one, not {self.draws}")

    def __call__(self, images: Tensor, labels: Tensor) -> Scored:
        """Return the scores of the images."""
        noise = images.new_zeros(self.draws, *images.shape)
        if self.sigma:
            noise.normal_(0.0, self.sigma, generator=self.generator)
        logits = self.classifier((images + noise).flatten(0, 1)).view(self.draws, len(images), -1)
        votes = functional.one_hot(logits.detach().argmax(2), logits.shape[2]).sum(0)
        return Scored(self.loss(logits, labels), votes.argmax(1) != labels)


def evading(objective: Objective) -> Aim:
    """Return the aim that an objective of several networks or detectors sets: what it searches and fixes, to vanish."""

    def aim(images: Tensor, labels: Tensor) -> Scored:
        terms = objective(images, labels)
        return Scored(-(terms.searched + terms.fixed), terms.attained)

    return aim


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -ln of the mean softmax of the label over the copies, in nats (Salman et al. 2019, section 2.2)."""
    each = torch.logsumexp(functional.log_softmax(logits, 2), 0) - math.log(len(logits))
    return functional.nll_loss(each, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how far the likeliest other class is above the label, in ln of the mean softmax over the copies."""
    each = torch.logsumexp(functional.log_softmax(logits, 2), 0)
    return -logit_margin(each, labels, Goal.LEAVE)


def logit_ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over the copies of the difference of logits ratio: it does not change with the logits' scale.

    Of logits z in decreasing order z1, z2, z3 and the label's z_y: (max_{c != y} z_c - z_y) / (z1 - z3).

    References: Croce and Hein 2020, "Reliable evaluation of adversarial robustness", equation 6.

    Raises:
        ValueError: there are fewer than three classes.
    """
    _check_classes(logits, 3)
    ordered = logits.sort(2, descending=True).values
    label = labels.view(1, -1, 1).expand(len(logits), -1, 1)
    own, others = logits.gather(2, label).squeeze(2), logits.scatter(2, label, -math.inf).amax(2)
    return ((others - own) / (ordered[..., 0] - ordered[..., 2] + _TINY)).mean(0)


def targeted_ratio(targets: Tensor) -> Loss:
    """Return the loss of one target an image, (batch,): (z_t - z_y) / (z1 - (z3 + z4) / 2), the mean over the copies.

    References: Croce and Hein 2020, equation 7. It needs four classes or more.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        _check_classes(logits, 4)
        ordered = logits.sort(2, descending=True).values
        own, other = (logits.gather(2, at.view(1, -1, 1).expand(len(logits), -1, 1)).squeeze(2)
                      for at in (labels, targets))  # fmt: skip
        spread = ordered[..., 0] - (ordered[..., 2] + ordered[..., 3]) / 2
        return ((other - own) / (spread + _TINY)).mean(0)

    return loss


def _check_classes(logits: Tensor, least: int) -> None:
    if logits.shape[2] < least:
        raise ValueError(f"expected at least {least} classes for this loss, not {logits.shape[2]}")
