"""Labelled images -> training batches and a held-out part; every choice is a function of the recipe's seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from certserve.datasets import Dataset, DatasetError
from certserve.training.recipe import Recipe, Seeded

__all__ = ["Attack", "Examples", "digest", "divide", "mean_and_std", "noisy_batch", "order_of_epoch", "split"]

Attack: TypeAlias = Callable[[Tensor, Tensor, torch.Generator], Tensor]

_LARGEST_HELD_OUT = 5_000


@dataclass(frozen=True, slots=True)
class Examples:
    """Images uint8 (count, channels, height, width) and labels int64 (count,), both on one device."""

    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, data: Dataset, device: torch.device) -> Examples:
        """The data set's images and labels on a device."""
        return cls(torch.from_numpy(data.images).to(device), torch.from_numpy(data.labels).to(device))

    def __len__(self) -> int:
        return len(self.labels)


class _Split(Seeded, Protocol):
    @property
    def held_out(self) -> float: ...


def split(data: Dataset, labels: Sequence[str], recipe: _Split) -> tuple[Dataset, Dataset]:
    """The images that are trained on, and those held out: a share of each class, about 5,000 in all at most.

    Raises:
        DatasetError: a label is out of range, or a class has too few images for both parts.
    """
    if not len(data):
        raise DatasetError("expected images to train on, but there are none")
    channels, height, width = data.images.shape[1:]
    data.check((channels, height, width), labels)
    share = min(recipe.held_out, _LARGEST_HELD_OUT / len(data))
    random = np.random.Generator(np.random.PCG64(recipe.seed_of("split")))
    held_out = np.zeros(len(data), dtype=bool)
    for label, name in enumerate(labels):
        members = random.permutation(np.flatnonzero(data.labels == label))
        count = max(1, round(share * len(members)))
        if len(members) <= count:
            raise DatasetError(
                f"the class {label} ({name}) has {len(members)} images; two at least are needed, one to train on and "
                "one to hold out"
            )
        held_out[members[:count]] = True
    return data.where(~held_out), data.where(held_out)


def divide(held_out: Dataset, recipe: Seeded) -> tuple[Dataset, Dataset]:
    """Held-out images in two parts: a tenth that chooses among epochs, and the rest, which no choice depends on."""
    random = np.random.Generator(np.random.PCG64(recipe.seed_of("divide")))
    chosen = np.zeros(len(held_out), dtype=bool)
    chosen[random.permutation(len(held_out))[: max(1, len(held_out) // 10)]] = True
    return held_out.where(chosen), held_out.where(~chosen)


def digest(data: Dataset) -> str:
    """SHA-256 over the images and labels, in hexadecimal."""
    found = hashlib.sha256(repr(data.images.shape).encode())
    found.update(np.ascontiguousarray(data.images).data)
    found.update(np.ascontiguousarray(data.labels, dtype="<i8").data)
    return found.hexdigest()


def mean_and_std(data: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel, in units of pixels in [0, 1], rounded to four digits; the std is at least 0.01."""
    channels = data.images.shape[1]
    counts = [np.bincount(data.images[:, channel].reshape(-1), minlength=256) for channel in range(channels)]
    levels = np.arange(256) / 255
    means = [float((count * levels).sum() / count.sum()) for count in counts]
    variances = [float((c * (levels - m) ** 2).sum() / c.sum()) for c, m in zip(counts, means, strict=True)]
    return tuple(round(m, 4) for m in means), tuple(max(0.01, round(v**0.5, 4)) for v in variances)


def order_of_epoch(count: int, recipe: Seeded, epoch: int, device: torch.device) -> Tensor:
    """The order of an epoch's images: a permutation of count positions."""
    random = torch.Generator().manual_seed(recipe.seed_of("order", epoch))
    return torch.randperm(count, generator=random).to(device)


def noisy_batch(images: Tensor, recipe: Recipe, step: int, attack: Attack | None = None) -> Tensor:
    """Noisy copies of uint8 images (b, c, h, w), shifted and mirrored: float32 (copies * b, c, h, w), copy by copy.

    Args:
        attack: moves the copies, given them, the noise that they will get, and a generator; None: nothing does.
    """
    random = torch.Generator(images.device).manual_seed(recipe.seed_of("step", step))
    clean = _augmented(images, recipe, random).repeat(recipe.copies, 1, 1, 1)
    noise = torch.randn(clean.shape, generator=random, device=clean.device)
    if attack is not None:
        clean = attack(clean, recipe.sigma * noise, random)
    return clean.add_(noise, alpha=recipe.sigma)


def _augmented(images: Tensor, recipe: Recipe, random: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    device, shift = images.device, recipe.shift
    padded = functional.pad(images, (shift, shift, shift, shift)).permute(0, 2, 3, 1)
    corner = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=random, device=device)
    rows = corner[0] + torch.arange(height, device=device)
    columns = corner[1] + torch.arange(width, device=device)
    if recipe.flip:
        mirrored = torch.rand((count, 1), generator=random, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    which = torch.arange(count, device=device)[:, None, None]
    cut = padded[which, rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2).float().div_(255)
