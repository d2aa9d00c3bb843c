"""Projected gradient descent on the smoothed classifier: images -> images within epsilon that it may answer otherwise.

Each step climbs the gradient of the expected loss over fresh noise (Madry et al. 2018 for the descent, Salman et al.
2019, section 2.2, for the expectation). It knows a network and its noise level; no server, secret or certificate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from certserve.attacks.goals import Goal, check_within
from certserve.attacks.losses import Classifier, smoothed_cross_entropy
from certserve.attacks.norms import Norm
from certserve.attacks.steps import inner, moved, scaled, steepest, uniform

__all__ = ["PGD", "Start", "fgsm", "pgd"]


class Start(StrEnum):
    """Where the first step begins."""

    IMAGE = "image"
    """At the image itself."""

    RANDOM = "random"
    """At a uniformly drawn point of the ball, clipped to [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PGD:
    """How to attack.

    Attributes:
        norm: that bounds the change.
        steps: how many, at least 1. step: the length of each, in units of epsilon, positive.
        sigma: noise level in input units, at least 0; 0 attacks the classifier itself.
        draws: of noise a step, at least 1; with sigma 0 exactly 1.

    Raises:
        ValueError: one of them is out of its range.
    """

    norm: Norm
    steps: int
    step: float
    sigma: float
    draws: int
    goal: Goal = Goal.LEAVE
    start: Start = Start.IMAGE

    def __post_init__(self) -> None:
        if self.steps < 1 or self.draws < 1:
            raise ValueError(f"expected at least one step and one draw, not {self.steps} and {self.draws}")
        if not (self.step > 0.0 and math.isfinite(self.step)):
            raise ValueError(f"expected a positive step, not {self.step}")
        if not (self.sigma >= 0.0 and math.isfinite(self.sigma)):
            raise ValueError(f"expected a noise level of 0 or more, not {self.sigma}")
        if self.sigma == 0.0 and self.draws != 1:
            raise ValueError(f"without noise all draws are one: expected draws = 1, not {self.draws}")


def fgsm(norm: Norm, goal: Goal = Goal.LEAVE) -> PGD:
    """Return the fast gradient method: one step as long as the ball allows, on the classifier itself.

    References: Goodfellow et al. 2015, "Explaining and Harnessing Adversarial Examples", section 4, for Linf.
    """
    return PGD(norm=norm, steps=1, step=1.0, sigma=0.0, draws=1, goal=goal)


def pgd(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: Tensor,
    how: PGD,
    generator: torch.Generator,
) -> Tensor:
    """The attacked images, (batch, *input), float64: each in [0, 1] and within epsilon of its image.

    Both hold exactly, for the numbers returned. Equal arguments, with the generator in an equal state, on one machine
    with as many threads, give equal images.

    Args:
        classifier: gets rows of the images' type; a step calls it once, with draws * batch rows.
        images: floating, in [0, 1]. labels: int64, (batch,); see `Goal`.
        epsilon: (batch,), in input units, at least 0.
        generator: of the noise and of a random start; on the images' device.

    Raises:
        ValueError: images outside [0, 1], or labels or epsilon that do not fit them.
    """
    check_within(images, labels, epsilon)
    exact = images.detach().to(torch.float64)
    limit = inner(epsilon.to(exact), exact)
    sign = 1.0 if how.goal is Goal.LEAVE else -1.0
    attacked = exact
    if how.start is Start.RANDOM:
        attacked = (exact + uniform(exact.shape, how.norm, limit, generator)).clamp(0.0, 1.0)
    for _ in range(how.steps):
        gradient = _gradient(classifier, attacked.to(images.dtype), labels, how, generator)
        step = scaled(steepest(sign * gradient.to(torch.float64), how.norm), how.step * limit)
        attacked = moved(exact, attacked, step, how.norm, limit)
    return attacked


def _gradient(classifier: Classifier, points: Tensor, labels: Tensor, how: PGD, generator: torch.Generator) -> Tensor:
    """Of each image's loss, over fresh noise: (batch, *input)."""
    noise = points.new_zeros(how.draws, *points.shape)
    if how.sigma:
        noise.normal_(0.0, how.sigma, generator=generator)
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        loss = smoothed_cross_entropy(classifier, points, labels, noise).sum()
        (gradient,) = torch.autograd.grad(loss, points)
    return gradient
