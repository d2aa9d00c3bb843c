"""FAST: images -> images nearby, by two means of single steps instead of a search.

First towards the label, on noisy copies of the image; then the mean step that attacks take from there, backwards.

References: "Fast Preemption", arXiv 2407.15524. Departures: the classifier that is attacked also names the label, and
a smoothed classifier is attacked under its own noise.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from certserve.attacks.losses import Classifier
from certserve.attacks.steps import moved, scaled, steepest, uniform
from certserve.defences.preemptive.ball import Found, draw
from certserve.defences.preemptive.methods import Budget, Fast

__all__ = ["fast"]


def fast(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    budget: Budget,
    sigma: float,
    how: Fast,
    generator: torch.Generator,
) -> Found:
    """Return where the two steps led. It never stops early.

    Args:
        classifier: gets rows of the images' type; it is called twice, with draws * batch rows.
        images: floating, (batch, *input), in [0, 1]. labels: int64, (batch,).
        sigma: noise level in input units; 0 for the classifier itself, on copies uniform within epsilon.
    """
    exact = images.detach().to(torch.float64)
    delta, epsilon = (torch.full_like(exact.flatten(1)[:, 0], value) for value in (budget.delta, budget.epsilon))

    def mean_step(points: Tensor, length: Tensor) -> Tensor:
        """The mean over noisy copies of the step that raises the loss fastest, so long."""
        noise = _noise(points, budget, sigma, how.draws, generator)
        rows = (points + noise).clamp(0.0, 1.0) if not sigma else points + noise
        steps = steepest(_gradient(classifier, rows.to(images.dtype), labels), budget.norm)
        return scaled(steps.view(how.draws, *exact.shape).mean(0), length)

    forward = moved(exact, exact, -mean_step(exact, delta), budget.norm, delta)
    points = moved(exact, forward, -mean_step(forward, epsilon), budget.norm, delta)
    passes = torch.full_like(labels, 2 * how.draws)
    return Found(points, passes, torch.zeros_like(labels, dtype=torch.bool))


def _noise(points: Tensor, budget: Budget, sigma: float, draws: int, generator: torch.Generator) -> Tensor:
    """(draws, *points.shape)."""
    if sigma:
        return draw(points, draws, sigma, generator)
    limit = torch.full((draws * len(points),), budget.epsilon, dtype=torch.float64, device=points.device)
    shape = torch.Size((len(limit), *points.shape[1:]))
    return uniform(shape, budget.norm, limit, generator).view(draws, *points.shape)


def _gradient(classifier: Classifier, rows: Tensor, labels: Tensor) -> Tensor:
    """Of the cross-entropy in each row: (draws * batch, *input), float64."""
    draws = len(rows)
    points = rows.flatten(0, 1).detach().requires_grad_()
    with torch.enable_grad():
        loss = functional.cross_entropy(classifier(points), labels.repeat(draws), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, points)
    return gradient.to(torch.float64)
