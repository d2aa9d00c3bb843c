"""CERT_MARGIN: images -> images nearby whose smoothed margin, and so whose certified radius, is larger.

For the smoothed classifier G, Phi^-1(G(x)_c) is 1/sigma-Lipschitz in x for every class c (Salman et al. 2019, lemma
2), so sigma / 2 * (Phi^-1(G(x)_y) - Phi^-1(G(x)_y2)) is a radius within which y stays first, and grows by delta at
most on a way of length delta. G here is the mean softmax; certificates count votes instead.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from certserve.attacks.losses import Classifier
from certserve.attacks.steps import moved, scaled, steepest
from certserve.defences.preemptive.ball import Found, draw
from certserve.defences.preemptive.jpeg import Uploads, arriving
from certserve.defences.preemptive.methods import Budget, CertMargin

__all__ = ["ascent", "cert_margin", "margin_of", "smoothed_margin"]

_SMALLEST = 1e-280  # Phi^-1 and its derivative are finite from here on
_SHORTEST = 0.03  # of the first step


def smoothed_margin(classifier: Classifier, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
    """Return Phi^-1(G(x)_y) - Phi^-1(G(x)_y2), y2 the likeliest other class: (batch,), float64.

    Args:
        images: (batch, *input). labels: int64, (batch,).
        noise: (draws, batch, *input), in input units; G is the mean softmax over these draws.
    """
    return margin_of(classifier((images + noise).flatten(0, 1)).view(len(noise), len(images), -1), labels)


def margin_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the smoothed margin, (batch,), float64, from the logits of noisy copies, (draws, batch, classes)."""
    # In logarithms: 1 - G_y would be 0 long before Phi^-1 of it is infinite.
    each = torch.logsumexp(functional.log_softmax(logits.to(torch.float64), 2), 0) - math.log(len(logits))
    label = labels.unsqueeze(1)
    own, others = each.gather(1, label).squeeze(1), each.scatter(1, label, -math.inf)
    second = others.argmax(1, keepdim=True)
    without = each.scatter(1, second, -math.inf)
    return _quantile(own, torch.logsumexp(others, 1)) - _quantile(
        others.gather(1, second).squeeze(1), torch.logsumexp(without, 1)
    )


def _quantile(log: Tensor, log_rest: Tensor) -> Tensor:
    """Phi^-1(p) from ln p and ln(1 - p), by the smaller of the two."""
    lower = log < log_rest
    tail = torch.special.ndtri(torch.where(lower, log, log_rest).exp().clamp_min(_SMALLEST))
    return torch.where(lower, tail, -tail)


def ascent(classifier: Classifier, points: Tensor, labels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smoothed margin, (batch,), and its gradient in the points, (batch, *input)."""
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        margin = smoothed_margin(classifier, points, labels, noise)
        (gradient,) = torch.autograd.grad(margin.sum(), points)
    return margin.detach(), gradient


def cert_margin(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    budget: Budget,
    sigma: float,
    how: CertMargin,
    generator: torch.Generator,
    uploads: Uploads | None = None,
    backwards: bool = False,
) -> Found:
    """Return where the ascent of the margin led.

    An image stops once sigma / 2 * margin, as estimated by one step's draws, is `how.enough`.

    Args:
        classifier: gets rows of the images' type; a step calls it once, with draws * batch rows.
        images: floating, (batch, *input), in [0, 1]. labels: int64, (batch,). sigma: in input units, positive.
        uploads: what becomes of the image before the noise is added; None: nothing.
        backwards: descend instead: what an adversary who knows the method does to guess the image that it was given.

    Raises:
        ValueError: there is no noise.
    """
    if not sigma > 0.0:
        raise ValueError("expected a smoothed classifier (sigma above 0): its margin is that of noisy copies")
    exact = images.detach().to(torch.float64)
    points, limit = exact.clone(), torch.full_like(exact.flatten(1)[:, 0], budget.delta)
    passes = torch.zeros_like(labels)
    rows = torch.arange(len(images), device=images.device)
    for step in range(how.steps):
        here, noise = points[rows].to(images.dtype), draw(images, how.draws, sigma, generator)[:, rows]
        margin, gradient = ascent(classifier, here, labels[rows], arriving(noise, here, uploads, generator))
        passes[rows] += how.draws
        going = sigma / 2 * margin < how.enough
        rows, gradient = rows[going], gradient[going]
        if not len(rows):
            break
        share = max(0.5 * (1 + math.cos(math.pi * step / how.steps)), _SHORTEST) * how.step
        length = share * limit[rows]
        change = scaled(steepest(gradient.to(torch.float64), budget.norm), -length if backwards else length)
        points[rows] = moved(exact[rows], points[rows], change, budget.norm, limit[rows])
    stopped = torch.ones_like(labels, dtype=torch.bool)
    stopped[rows] = False
    return Found(points, passes, stopped)
