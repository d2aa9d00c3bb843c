"""BILEVEL: images -> images nearby on which an attack attains less, by the published algorithm.

Each step attacks the moved image x and descends the loss at the attacked one. The attack's own gradients are
constants to that descent, so the chain rule through all of its steps is a factor a pixel: 1, but less where the box
[0, 1] cut the attacked pixel off and the ball has not held it since. It needs no graph of the attack; for Linf it is
what automatic differentiation gives, for L2 it leaves out how the pixels that were cut off change the others' scale.

References: Moon, An and Song 2022, "Preemptive Image Robustification for Protecting Users against Man-in-the-Middle
Adversarial Attacks", algorithm 1, and its settings. Departure: a random start is uniform in the ball, for L2 too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from certserve.attacks.losses import Classifier, smoothed_cross_entropy
from certserve.attacks.norms import Norm
from certserve.attacks.steps import lengths, moved, project, scaled, steepest, uniform
from certserve.defences.preemptive.ball import Found, draw
from certserve.defences.preemptive.methods import Bilevel, Budget

__all__ = ["Attacked", "attacked", "bilevel"]

_STEP = 0.25  # of the attack, in units of epsilon
_INSIDE = 0.9995  # arctanh is infinite at the edge of the ball
_SMOOTHING, _TINY = 0.99, 1e-8  # RMSprop's


class Attacked(NamedTuple):
    """What an attack made of the images.

    Attributes:
        loss: (batch,), at the attacked images, in nats.
        gradient: (batch, *input), float64: of that loss in the images that were attacked.
    """

    loss: Tensor
    gradient: Tensor


def attacked(
    classifier: Classifier,
    points: Tensor,
    labels: Tensor,
    *,
    budget: Budget,
    sigma: float,
    how: Bilevel,
    generator: torch.Generator,
) -> Attacked:
    """Attack the points from a random start within epsilon; see the module for the gradient.

    Args:
        points: floating, (batch, *input), in [0, 1]. labels: int64, (batch,).
    """
    exact = points.detach().to(torch.float64)
    limit = torch.full_like(exact.flatten(1)[:, 0], budget.epsilon)
    at = exact + uniform(exact.shape, budget.norm, limit, generator)
    at, factor = at.clamp(0.0, 1.0), _inside(at)
    for _ in range(how.inner_steps):
        noise = draw(points, how.draws, sigma, generator)
        _, gradient = _loss(classifier, at.to(points.dtype), labels, noise)
        change = at + scaled(steepest(gradient, budget.norm), _STEP * limit) - exact
        kept = project(change, budget.norm, limit)
        factor = 1 + _slope(change, kept, budget.norm) * (factor - 1)
        at = exact + kept
        at, factor = at.clamp(0.0, 1.0), _inside(at) * factor
    loss, gradient = _loss(classifier, at.to(points.dtype), labels, draw(points, how.draws, sigma, generator))
    return Attacked(loss, gradient * factor)


def _inside(points: Tensor) -> Tensor:
    """The derivative of clamp(0, 1)."""
    return ((points >= 0.0) & (points <= 1.0)).to(points)


def _slope(change: Tensor, kept: Tensor, norm: Norm) -> Tensor:
    """The derivative of the projection: Linf by pixel, L2 by image, its scale taken as a constant."""
    if norm is Norm.LINF:
        return (change == kept).to(change)
    scale = lengths(kept, norm) / lengths(change, norm).clamp_min(torch.finfo(change.dtype).tiny)
    return scaled(torch.ones_like(change), scale)


def _loss(classifier: Classifier, points: Tensor, labels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        loss = smoothed_cross_entropy(classifier, points, labels, noise)
        (gradient,) = torch.autograd.grad(loss.sum(), points)
    return loss.detach(), gradient.to(torch.float64)


def bilevel(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    budget: Budget,
    sigma: float,
    how: Bilevel,
    generator: torch.Generator,
) -> Found:
    """Return where the descent of the attacked loss led.

    An image stops once an attack leaves it a loss of `how.enough`.

    Args:
        classifier: gets rows of the images' type, draws * batch at a time.
        images: floating, (batch, *input), in [0, 1]. labels: int64, (batch,).
        sigma: noise level in input units; 0 for the classifier itself.
    """
    exact = images.detach().to(torch.float64)
    limit = torch.full_like(exact.flatten(1)[:, 0], budget.delta)
    path = (_Cube if budget.norm is Norm.LINF else _Ball)(exact, limit, _rate(budget.norm, sigma, how), generator)
    passes, stopped = torch.zeros_like(labels), torch.zeros_like(labels, dtype=torch.bool)
    for _ in range(how.steps):
        rows = (~stopped).nonzero().squeeze(1)
        here = attacked(
            classifier,
            path.points[rows].to(images.dtype),
            labels[rows],
            budget=budget,
            sigma=sigma,
            how=how,
            generator=generator,
        )
        passes[rows] += (how.inner_steps + 1) * (how.draws if sigma else 1)
        going = here.loss > how.enough
        stopped[rows[~going]] = True
        if not bool(going.any()):
            break
        path.descend(rows[going], here.gradient[going])
    return Found(path.points, passes, stopped)


def _rate(norm: Norm, sigma: float, how: Bilevel) -> float:
    if how.rate is not None:
        return how.rate
    if norm is Norm.LINF:
        return 0.1
    return 0.005 if sigma else 0.001


class _Ball:
    """Gradient descent in the L2 ball, from a random start."""

    def __init__(self, exact: Tensor, limit: Tensor, rate: float, generator: torch.Generator) -> None:
        self._exact, self._limit, self._rate = exact, limit, rate
        start = uniform(exact.shape, Norm.L2, limit, generator)
        self.points = moved(exact, exact, start, Norm.L2, limit)

    def descend(self, rows: Tensor, gradient: Tensor) -> None:
        """Take a step of these rows."""
        here, step = self.points[rows], -self._rate * gradient
        self.points[rows] = moved(self._exact[rows], here, step, Norm.L2, self._limit[rows])


class _Cube:
    """RMSprop on w in the Linf ball, x = low + (tanh w + 1) / 2 * (high - low), from a random start."""

    def __init__(self, exact: Tensor, limit: Tensor, rate: float, generator: torch.Generator) -> None:
        self._rate = rate
        reach = scaled(torch.ones_like(exact), limit)
        self._low = (exact - reach).clamp_min(0.0)
        self._width = (exact + reach).clamp_max(1.0) - self._low
        start = (exact + uniform(exact.shape, Norm.LINF, limit, generator)).clamp(0.0, 1.0)
        self._w = torch.atanh(_INSIDE * (2 * (start - self._low) / self._width - 1))
        self._square = torch.zeros_like(exact)

    @property
    def points(self) -> Tensor:
        """Where it is."""
        return self._low + (torch.tanh(self._w) + 1) / 2 * self._width

    def descend(self, rows: Tensor, gradient: Tensor) -> None:
        """Take a step of these rows."""
        slope = gradient * self._width[rows] / 2 * (1 - torch.tanh(self._w[rows]).square())
        square = _SMOOTHING * self._square[rows] + (1 - _SMOOTHING) * slope.square()
        self._square[rows] = square
        self._w[rows] = self._w[rows] - self._rate * slope / (square.sqrt() + _TINY)
