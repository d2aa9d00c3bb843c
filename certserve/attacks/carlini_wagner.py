"""Carlini and Wagner's L2 attack: images -> the nearest images found that attain an objective.

It minimises ||x' - x||^2 + c * searched(x') + fixed(x') by Adam on w, x' = (tanh w + 1) / 2, and searches for each
image's smallest c that attains ("Towards Evaluating the Robustness of Neural Networks", 2017, sections V and VI). It
knows neither network nor detector, only the objective.

Departures from the authors' program: an image stops early on its own loss, not the batch's, so that its batch-mates
do not matter, and on the lowest so far, as the last may be on a crest. The last of ten searches or more is one like
the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from certserve.attacks.goals import check
from certserve.attacks.objectives import Objective, Terms

__all__ = ["CarliniWagner", "Found", "carlini_wagner"]

_INSIDE = 0.999999  # arctanh is infinite at a pixel of 0 or 1
_CHECKS = 10  # of the progress, in a search
_PROGRESS = 0.9999
_GROWTH = 10.0  # of c, until one attains
_MEAN, _SQUARE, _EPSILON = 0.9, 0.999, 1e-8  # Adam's (Kingma and Ba 2015, algorithm 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CarliniWagner:
    """How to attack.

    Attributes:
        searches: values of c that each image is tried with, at least 1.
        steps: of Adam with each, at least 1.
        first: the first c, positive.
        rate: Adam's learning rate, positive.

    Raises:
        ValueError: one of them is out of its range.
    """

    searches: int
    steps: int
    first: float = 1e-3
    rate: float = 1e-2

    def __post_init__(self) -> None:
        if self.searches < 1 or self.steps < 1:
            raise ValueError(f"expected at least one search and one step, not {self.searches} and {self.steps}")
        for name, value in (("first c", self.first), ("rate", self.rate)):
            if not (value > 0.0 and math.isfinite(value)):
                raise ValueError(f"expected a positive {name}, not {value}")


class Found(NamedTuple):
    """What came of each image.

    Attributes:
        images: (batch, *input), the images' type, in [0, 1]: the nearest that attained; the image itself where none.
        distances: (batch,), float64, L2 in input units; inf where none attained.
    """

    images: Tensor
    distances: Tensor


def carlini_wagner(objective: Objective, images: Tensor, labels: Tensor, *, how: CarliniWagner) -> Found:
    """Return the nearest image of each that attained the objective.

    Every image returned with a finite distance is one that the objective itself called attained. Nothing is drawn at
    random. An image's result does not depend on its batch-mates, but for rounding, where the objective's terms do not.

    Args:
        objective: as `Evasion`; called with those rows that have not stopped, at most searches * steps times.
        images: float32 or float64, in [0, 1]. labels: int64, (batch,); see `Goal`.

    Raises:
        ValueError: images outside [0, 1], labels that do not fit them, or terms that are not one an image.
    """
    check(images, labels)
    if images.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"expected images in float32 or float64, not {images.dtype}")
    images = images.detach()
    best = _nothing(images)
    c = torch.full_like(best.distances, how.first)
    low, high = torch.zeros_like(c), torch.full_like(c, math.inf)
    for _ in range(how.searches):
        found = _search(objective, images, labels, c, how)
        best = _nearer(best, found)
        attained = found.distances.isfinite()
        low, high = torch.where(attained, low, c), torch.where(attained, c, high)
        c = torch.where(high.isinf(), _GROWTH * c, (low + high) / 2)
    return best


class _Running(NamedTuple):
    """The rows of a search that have not stopped; every field has one entry a row."""

    rows: Tensor
    images: Tensor
    labels: Tensor
    c: Tensor
    points: Tensor
    mean: Tensor
    square: Tensor
    lowest: Tensor
    before: Tensor


class _Step(NamedTuple):
    """Where the points of one step are."""

    images: Tensor
    loss: Tensor
    distances: Tensor
    attained: Tensor
    gradient: Tensor


def _search(objective: Objective, images: Tensor, labels: Tensor, c: Tensor, how: CarliniWagner) -> Found:
    """The nearest attained with one c an image."""
    found = _nothing(images)
    points = torch.atanh((2 * images - 1) * _INSIDE)
    zeros, start = torch.zeros_like(points), torch.full_like(c, math.inf)
    rows = torch.arange(len(images), device=images.device)
    running = _Running(rows, images, labels, c, points, zeros, zeros, start, start)
    every = math.ceil(how.steps / _CHECKS)
    for step in range(1, how.steps + 1):
        here = _step(objective, running)
        reached = torch.where(here.attained, here.distances, math.inf)
        found = _put(found, running.rows, Found(here.images, reached))
        running = _adam(running, here, step, how.rate)
        if step % every == 0:
            going = running.lowest <= _PROGRESS * running.before
            running = _Running(*(field[going] for field in running._replace(before=running.lowest)))
            if not len(running.rows):
                break
    return found


def _step(objective: Objective, running: _Running) -> _Step:
    points = running.points.detach().requires_grad_()
    with torch.enable_grad():
        images = (torch.tanh(points) + 1) / 2
        terms = objective(images, running.labels)
        _check_terms(terms, len(images))
        squares = (images - running.images).flatten(1).square().sum(1)
        loss = squares + running.c * terms.searched + terms.fixed
        (gradient,) = torch.autograd.grad(loss.sum(), points)
    images = images.detach()
    distances = (images.to(torch.float64) - running.images.to(torch.float64)).flatten(1).square().sum(1).sqrt()
    return _Step(images, loss.detach().to(torch.float64), distances, terms.attained, gradient)


def _adam(running: _Running, here: _Step, step: int, rate: float) -> _Running:
    mean = _MEAN * running.mean + (1 - _MEAN) * here.gradient
    square = _SQUARE * running.square + (1 - _SQUARE) * here.gradient.square()
    spread = (square / (1 - _SQUARE**step)).sqrt() + _EPSILON
    points = running.points - rate * (mean / (1 - _MEAN**step)) / spread
    return running._replace(points=points, mean=mean, square=square, lowest=torch.minimum(running.lowest, here.loss))


def _nothing(images: Tensor) -> Found:
    return Found(images, torch.full((len(images),), math.inf, dtype=torch.float64, device=images.device))


def _nearer(one: Found, other: Found) -> Found:
    """Of each image the nearer, the first where they are equal."""
    closer = other.distances < one.distances
    wide = closer.view(-1, *[1] * (one.images.ndim - 1))
    return Found(torch.where(wide, other.images, one.images), torch.where(closer, other.distances, one.distances))


def _put(found: Found, rows: Tensor, new: Found) -> Found:
    """The nearer of what was found and what is new at these rows."""
    merged = _nearer(Found(found.images[rows], found.distances[rows]), new)
    return Found(found.images.index_copy(0, rows, merged.images), found.distances.index_copy(0, rows, merged.distances))


def _check_terms(terms: Terms, batch: int) -> None:
    shapes = [tuple(term.shape) for term in terms]
    if shapes != [(batch,)] * len(shapes):
        raise ValueError(f"expected terms of shape ({batch},), not {shapes}")
