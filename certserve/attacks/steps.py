"""Gradients -> changes of an image: the steepest direction of a norm, and the way back into its ball.

A change is (batch, *input); each image has a ball of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from certserve.attacks.norms import Norm

__all__ = ["inner", "lengths", "moved", "project", "scaled", "steepest", "uniform"]

_TINY = 1e-300
_RELATIVE_SLACK, _PIXEL_SLACK = 2.0**-30, 2.0**-50  # far above what float64 rounds off, a change or a pixel


def lengths(change: Tensor, norm: Norm) -> Tensor:
    """Each image's norm: (batch,)."""
    flat = change.flatten(1)
    return flat.abs().amax(1) if norm is Norm.LINF else flat.square().sum(1).sqrt()


def scaled(change: Tensor, factor: Tensor) -> Tensor:
    """Each image's change times its own factor, (batch,)."""
    return change * factor.view(-1, *[1] * (change.ndim - 1))


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Return the change of norm 1 along which the gradient's loss rises fastest; zero where the gradient is."""
    if norm is Norm.LINF:
        return gradient.sign()
    # Two divisions: the squares of a small gradient would vanish.
    largest = scaled(gradient, 1 / lengths(gradient, Norm.LINF).clamp_min(_TINY))
    return scaled(largest, 1 / lengths(largest, norm).clamp_min(_TINY))


def project(change: Tensor, norm: Norm, limit: Tensor) -> Tensor:
    """Return the nearest change whose norm is at most `limit`, (batch,), up to rounding."""
    if norm is Norm.LINF:
        bound = scaled(torch.ones_like(change), limit)
        return torch.minimum(torch.maximum(change, -bound), bound)
    return scaled(change, (limit / lengths(change, norm).clamp_min(_TINY)).clamp_max(1.0))


def inner(radius: Tensor, exact: Tensor) -> Tensor:
    """Return radii, (batch,), so much smaller that what `moved` rounds does not lead out of the balls asked for.

    Args:
        radius: (batch,), float64, at least 0. exact: the images, float64, (batch, *input), in [0, 1].
    """
    return (radius * (1 - _RELATIVE_SLACK) - math.sqrt(exact[0].numel()) * _PIXEL_SLACK).clamp_min(0.0)


def moved(exact: Tensor, points: Tensor, step: Tensor, norm: Norm, limit: Tensor) -> Tensor:
    """The points after the step, put back into the box and then into the balls around `exact` of radius `limit`.

    In this order, what the box cuts off is no part of the length that the ball allows; a shorter change stays in the
    box, rounding included.
    """
    change = (points + step).clamp(0.0, 1.0) - exact
    return exact + project(change, norm, limit)


def uniform(shape: torch.Size, norm: Norm, limit: Tensor, generator: torch.Generator) -> Tensor:
    """Return changes drawn uniformly from the balls of radius `limit`, (batch,); float64, on the generator's device."""
    options = {"generator": generator, "dtype": torch.float64, "device": generator.device}
    if norm is Norm.LINF:
        return scaled(2 * torch.rand(shape, **options) - 1, limit)  # type: ignore[call-overload]
    direction = steepest(torch.randn(shape, **options), norm)  # type: ignore[call-overload]
    dimension = math.prod(shape[1:])
    return scaled(direction, limit * torch.rand(shape[:1], **options) ** (1 / dimension))  # type: ignore[call-overload]
