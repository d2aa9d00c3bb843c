"""Images that two classes share out by their brightness, and a recipe that learns them in a moment."""

from __future__ import annotations

import numpy as np
import pytest

from certserve.datasets import Dataset
from certserve.training.recipe import Recipe

COUNT = 60
SHAPE = (1, 8, 8)


@pytest.fixture(scope="session")
def data() -> Dataset:
    """Thirty dark images and thirty bright ones, all different, under positions that do not rise."""
    levels = np.concatenate([np.arange(30), 225 + np.arange(30)]).astype(np.uint8)
    images = np.repeat(levels, 64).reshape(COUNT, *SHAPE)
    images[:, :, ::2] //= 2
    return Dataset(images, np.repeat([0, 1], 30), np.arange(COUNT)[::-1].copy())


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """Three epochs of a network of a few hundred weights."""
    return Recipe(0.25, epochs=3, batch=16, shift=1, widths=(4, 6), blocks=1, held_out=0.2)
