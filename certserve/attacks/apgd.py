"""Auto-PGD: images -> images within epsilon that an aim's loss is highest at, without a step size to choose.

Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", algorithm 1. Departures: a random start is uniform in the ball, for L2 too; a change is cut to the box first
and then to the ball. With noise the losses that are compared are estimates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from certserve.attacks.aims import Aim
from certserve.attacks.goals import check_within
from certserve.attacks.norms import Norm
from certserve.attacks.steps import inner, moved, scaled, steepest, uniform

__all__ = ["APGD", "Reached", "apgd", "better_of", "checkpoints"]

_MOMENTUM = 0.75
_RISES = 0.75  # of the steps between two checkpoints; fewer halve the step
_FIRST, _SHORTER, _SHORTEST = 22, 3, 6  # percent of the steps: between checkpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class APGD:
    """How to attack.

    Attributes:
        norm: that bounds the change. steps: at least 1.

    Raises:
        ValueError: there are no steps.
    """

    norm: Norm
    steps: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"expected at least one step, not {self.steps}")


class Reached(NamedTuple):
    """What came of each image.

    Attributes:
        images: (batch, *input), float64, in [0, 1] and within epsilon, exactly: of those that attained the one with
            the highest loss; where none did, of all.
        attained: (batch,), bool. losses: (batch,), float64, of the images returned.
    """

    images: Tensor
    attained: Tensor
    losses: Tensor


def apgd(
    aim: Aim, images: Tensor, labels: Tensor, *, epsilon: Tensor, how: APGD, generator: torch.Generator
) -> Reached:
    """Attack from a random start.

    Equal arguments, with the generators in an equal state, on one machine with as many threads, give equal images.

    Args:
        aim: called steps + 1 times, with all images each time. images: floating, in [0, 1]. labels: int64, (batch,).
        epsilon: (batch,), in input units, at least 0. generator: of the start; on the images' device.

    Raises:
        ValueError: images outside [0, 1], or labels or epsilon that do not fit them.
    """
    check_within(images, labels, epsilon)
    exact = images.detach().to(torch.float64)
    limit = inner(epsilon.to(exact), exact)
    points = moved(exact, exact, uniform(exact.shape, how.norm, limit, generator), how.norm, limit)
    here = _climb(aim, points, images.dtype, labels)
    best, found = here, here.reached
    before, lengths = points, 2 * limit
    rises, halved, at_last = torch.zeros_like(limit), torch.ones_like(limit, dtype=torch.bool), here.loss
    last = 0
    for step in range(1, how.steps + 1):
        share = _MOMENTUM if step > 1 else 1.0
        ahead = moved(exact, points, scaled(steepest(here.gradient, how.norm), lengths), how.norm, limit)
        change = share * (ahead - points) + (1 - share) * (points - before)
        before, points, lower = points, moved(exact, points, change, how.norm, limit), here.loss
        here = _climb(aim, points, images.dtype, labels)
        found = better_of(found, here.reached)
        best = _higher(best, here)
        rises = rises + (here.loss > lower)
        if step in checkpoints(how.steps):
            slow = (rises < _RISES * (step - last)) | (~halved & (at_last >= best.loss))
            lengths = torch.where(slow, lengths / 2, lengths)
            here = _chosen(slow, best, here)
            points = here.points
            rises, halved, at_last, last = torch.zeros_like(rises), slow, best.loss, step
    return found


def checkpoints(steps: int) -> frozenset[int]:
    """The steps after which the step size is thought over."""
    found, before, here = set(), 0, _FIRST
    while here <= 100:
        found.add(-(-here * steps // 100))
        before, here = here, here + max(here - before - _SHORTER, _SHORTEST)
    return frozenset(found)


def better_of(one: Reached, other: Reached) -> Reached:
    """Of each image the one that attained, of two such the one with the higher loss; the first of equals."""
    higher = other.losses > one.losses
    taken = torch.where(one.attained == other.attained, higher, other.attained)
    return Reached(
        torch.where(_wide(taken, one.images), other.images, one.images),
        one.attained | other.attained,
        torch.where(taken, other.losses, one.losses),
    )


class _Point(NamedTuple):
    """Where an attack is: every field has one entry an image."""

    points: Tensor
    loss: Tensor
    gradient: Tensor
    attained: Tensor

    @property
    def reached(self) -> Reached:
        return Reached(self.points, self.attained, self.loss)


def _climb(aim: Aim, points: Tensor, dtype: torch.dtype, labels: Tensor) -> _Point:
    rows = points.to(dtype).detach().requires_grad_()
    with torch.enable_grad():
        scored = aim(rows, labels)
        (gradient,) = torch.autograd.grad(scored.loss.sum(), rows)
    return _Point(points, scored.loss.detach().to(torch.float64), gradient.to(torch.float64), scored.attained)


def _higher(one: _Point, other: _Point) -> _Point:
    """Of each image the point with the higher loss, the first of equals."""
    return _chosen(one.loss >= other.loss, one, other)


def _chosen(first: Tensor, one: _Point, other: _Point) -> _Point:
    return _Point(*(torch.where(_wide(first, a), a, b) for a, b in zip(one, other, strict=True)))


def _wide(chosen: Tensor, like: Tensor) -> Tensor:
    return chosen.view(-1, *[1] * (like.ndim - 1))
