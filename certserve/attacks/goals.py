"""What an attack is asked: images, their labels, and what the labels are to it."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

__all__ = ["Goal", "check", "check_within"]


class Goal(StrEnum):
    """What the labels are to the attack."""

    LEAVE = "leave"
    """The answers to be changed, to any other."""

    REACH = "reach"
    """The answers to be got."""


def check(images: Tensor, labels: Tensor) -> None:
    """Accept floating images (batch, *input) in [0, 1], at least one, with a label each.

    Raises:
        ValueError: they are none.
    """
    if images.ndim < 2 or not len(images) or not images.is_floating_point():
        raise ValueError(f"expected floating images (batch, *input), not {images.dtype} {tuple(images.shape)}")
    if not bool(((images >= 0.0) & (images <= 1.0)).all()):
        raise ValueError("expected images in [0, 1]")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"expected a label for each of {len(images)} images, not {tuple(labels.shape)}")


def check_within(images: Tensor, labels: Tensor, epsilon: Tensor) -> None:
    """`check`, and an epsilon for each, (batch,), at least 0.

    Raises:
        ValueError: they are none.
    """
    check(images, labels)
    if epsilon.shape != images.shape[:1]:
        raise ValueError(f"expected an epsilon for each of {len(images)} images, not {tuple(epsilon.shape)}")
    if not bool(((epsilon >= 0.0) & torch.isfinite(epsilon)).all()):
        raise ValueError("expected every epsilon to be 0 or more")
