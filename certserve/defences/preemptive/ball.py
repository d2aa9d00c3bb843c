"""What a search draws, and what it hands back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Found", "draw"]


class Found(NamedTuple):
    """Where a search led.

    Attributes:
        images: (batch, *input), float64, in [0, 1] and, up to rounding, in the ball.
        passes: (batch,), int64: rows that went through the network forward and back for each image.
        stopped: (batch,), bool: whether the search stopped early, as what it had was enough.
    """

    images: Tensor
    passes: Tensor
    stopped: Tensor


def draw(images: Tensor, draws: int, sigma: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise (draws, *images.shape); without noise (1, *images.shape) of zeros."""
    if not sigma:
        return images.new_zeros(1, *images.shape)
    return images.new_empty(draws, *images.shape).normal_(0.0, sigma, generator=generator)
