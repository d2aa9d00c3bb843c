"""The Square attack: images -> images within epsilon, by an aim's loss alone, without its gradient.

Andriushchenko, Croce, Flammarion and Hein 2020, "Square Attack: a query-efficient black-box adversarial attack via
random search", algorithms 1 to 3. Departure: an image stops once the aim calls it attained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from certserve.attacks.aims import Aim
from certserve.attacks.apgd import Reached
from certserve.attacks.goals import check_within
from certserve.attacks.norms import Norm
from certserve.attacks.steps import inner, moved

__all__ = ["Square", "square"]

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of the share, at these of 10 000 queries
_LONGEST = 10_000
_TILES = 5  # of the first L2 change, along a side
_TINY = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """How to attack.

    Attributes:
        norm: that bounds the change. queries: an image may take, at least 1.
        share: of the image, that the first square covers; above 0 and at most 1.

    Raises:
        ValueError: one of them is out of its range.
    """

    norm: Norm
    queries: int = 5000
    share: float = 0.8

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise ValueError(f"expected at least one query, not {self.queries}")
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"expected a share above 0 and at most 1, not {self.share}")

    def side(self, query: int, pixels: int) -> int:
        """Of the square at a query, in pixels, for an image with so many in a channel."""
        at = query * _LONGEST // self.queries
        share = self.share / 2 ** sum(at > halving for halving in _HALVINGS)
        side = max(round(math.sqrt(share * pixels)), 1)
        if self.norm is Norm.LINF:
            return side
        return max(side + (side + 1) % 2, 3)  # odd: the window has a middle


def square(
    aim: Aim, images: Tensor, labels: Tensor, *, epsilon: Tensor, how: Square, generator: torch.Generator
) -> Reached:
    """Attack by random search.

    Args:
        aim: called with those rows that have not attained, `queries` times at most. images: floating, in [0, 1],
            (batch, channels, height, width). labels: int64, (batch,). epsilon: (batch,), in input units, at least 0.
        generator: of the search; on the CPU, as the images are.

    Raises:
        ValueError: images that are none or smaller than 5 x 5, or labels or epsilon that do not fit them.
    """
    check_within(images, labels, epsilon)
    if images.ndim != 4 or min(images.shape[2:]) < _TILES:
        raise ValueError(f"expected images (batch, channels, height, width) of 5 x 5 or more, not {images.shape}")
    exact = images.detach().to(torch.float64)
    limit = inner(epsilon.to(exact), exact)
    start, propose = (_stripes, _squares) if how.norm is Norm.LINF else (_tiles, _windows)
    points = moved(exact, exact, start(exact, limit, generator), how.norm, limit)
    best = _ask(aim, points, images.dtype, labels)
    for query in range(1, how.queries):
        rows = (~best.attained).nonzero().squeeze(1)
        if not len(rows):
            break
        side = min(how.side(query, exact[0, 0].numel()), *exact.shape[2:])
        change = best.images[rows] - exact[rows]
        tried = exact[rows] + propose(change, limit[rows], side, generator)
        tried = moved(exact[rows], tried, torch.zeros_like(tried), how.norm, limit[rows])
        here = _ask(aim, tried, images.dtype, labels[rows])
        taken = (here.losses > best.losses[rows]) | here.attained
        for kept, new in zip(best, here, strict=True):
            kept[rows[taken]] = new[taken]
    return best


def _ask(aim: Aim, points: Tensor, dtype: torch.dtype, labels: Tensor) -> Reached:
    with torch.no_grad():
        scored = aim(points.to(dtype), labels)
    return Reached(points, scored.attained.clone(), scored.loss.to(torch.float64))


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """-1 or 1, each as likely."""
    return 2.0 * torch.randint(2, shape, generator=generator).to(torch.float64) - 1.0


def _corner(like: Tensor, side: int, generator: torch.Generator) -> tuple[slice, slice]:
    """A window of an image, uniformly."""
    height, width = like.shape[-2:]
    top, left = (int(torch.randint(most - side + 1, (1,), generator=generator)) for most in (height, width))
    return slice(top, top + side), slice(left, left + side)


def _stripes(exact: Tensor, limit: Tensor, generator: torch.Generator) -> Tensor:
    """The first Linf change: epsilon up or down, column by column and channel by channel."""
    batch, channels, _, width = exact.shape
    change: Tensor = limit.view(-1, 1, 1, 1) * _signs((batch, channels, 1, width), generator).expand_as(exact)
    return change


def _squares(change: Tensor, limit: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """The changes with one square each moved 2 * epsilon up or down, channel by channel."""
    change = change.clone()
    for i in range(len(change)):
        rows, columns = _corner(change, side, generator)
        change[i, :, rows, columns] += 2 * limit[i] * _signs((change.shape[1], 1, 1), generator)
    bound = limit.view(-1, 1, 1, 1)
    return torch.minimum(torch.maximum(change, -bound), bound)


def _tiles(exact: Tensor, limit: Tensor, generator: torch.Generator) -> Tensor:
    """The first L2 change: tiles with a bump each, of length epsilon in all."""
    batch, channels, height, width = exact.shape
    change = torch.zeros_like(exact)
    tall, wide = height // _TILES, width // _TILES
    for i in range(batch):
        for top in range(0, tall * _TILES, tall):
            for left in range(0, wide * _TILES, wide):
                bump = _turned(tall, wide, generator) if tall == wide else _bump(tall, wide)
                change[i, :, top : top + tall, left : left + wide] = bump * _signs((channels, 1, 1), generator)
    factor = limit / change.flatten(1).square().sum(1).sqrt().clamp_min(_TINY)
    return change * factor.view(-1, 1, 1, 1)


def _windows(change: Tensor, limit: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """The changes with the length in one window each moved to another window."""
    change = change.clone()
    channels = change.shape[1]
    for i in range(len(change)):
        one, other = (_corner(change, side, generator) for _ in range(2))
        unused = (limit[i] ** 2 - change[i].square().sum()).clamp_min(0.0) / channels
        touched = torch.zeros_like(change[i], dtype=torch.bool)
        touched[:, *one] = touched[:, *other] = True
        length = ((change[i].square() * touched).sum((1, 2)) + unused).sqrt().view(-1, 1, 1)
        old = change[i][:, *one]
        old = old / _lengths(old)
        new = old + _turned(side, side, generator) * _signs((channels, 1, 1), generator)
        change[i][:, *other] = 0.0
        change[i][:, *one] = new / _lengths(new) * length
    return change


def _lengths(change: Tensor) -> Tensor:
    """Of each channel's change, (channels, 1, 1)."""
    return change.square().sum((1, 2), keepdim=True).sqrt().clamp_min(_TINY)


def _turned(tall: int, wide: int, generator: torch.Generator) -> Tensor:
    """Two bumps of opposite sign side by side, of length 1; upright or lying, each as likely."""
    bump = torch.zeros(tall, wide, dtype=torch.float64)
    half = wide // 2
    bump[:, :half], bump[:, half:] = _bump(tall, half), -_bump(tall, wide - half)
    bump = bump / bump.square().sum().sqrt().clamp_min(_TINY)
    return bump.T if int(torch.randint(2, (1,), generator=generator)) else bump


def _bump(tall: int, wide: int) -> Tensor:
    """Concentric rectangles, each higher than the one around it: sum_{k=0}^{M} 1 / (n + 1 - k)^2, n = tall // 2.

    M is n less the distance from the middle, in rows or columns, whichever is more; where it is below 0, so is none.
    """
    n = tall // 2
    rows, columns = (torch.arange(1, most + 1) for most in (tall, wide))
    away = torch.maximum((rows - n - 1).abs()[:, None], (columns - wide // 2 - 1).abs()[None, :])
    heights = torch.tensor([1 / (n + 1 - k) ** 2 for k in range(n + 1)], dtype=torch.float64).cumsum(0)
    level = n - away
    bump: Tensor = torch.where(level >= 0, heights[level.clamp_min(0)], 0.0)
    return bump
