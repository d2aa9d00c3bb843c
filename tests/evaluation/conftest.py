"""A linear bundle and a handful of images for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import certserve
from certserve.bundle import Defaults, write_linear
from certserve.datasets import Dataset
from certserve.endpoints.local import LocalModel
from certserve.noise.keystream import Secret

SECRET = Secret(bytes(range(32)))
SHAPE = (1, 4, 4)
Opener = Callable[..., LocalModel]


@pytest.fixture(scope="session")
def opener(tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """Opens a bundle of the given name: class 1 where the mean of 4 x 4 grey pixels is above 1/2; with one secret."""

    def opened(name: str, secret: Secret = SECRET) -> LocalModel:
        folder = tmp_path_factory.mktemp("bundles") / name
        write_linear(
            folder,
            name=name,
            weights=np.stack([np.zeros(16), np.ones(16)]),
            bias=np.array([0.0, -8.0]),
            shape=SHAPE,
            labels=("dark", "bright"),
            sigmas=(0.25,),
            defaults=Defaults(0.25, n0=20, n=200, alpha=0.001, predict_n=100),
        )
        return certserve.open(folder, key_source=secret)

    return opened


@pytest.fixture(scope="session")
def model(opener: Opener) -> Iterator[LocalModel]:
    """The bundle "half", opened."""
    with opener("half") as opened:
        yield opened


@pytest.fixture
def dataset() -> Dataset:
    """Bright, dark and middling images under positions that do not rise; the one at 7 has the wrong label."""
    values = np.array([250, 5, 127, 140, 115, 255], np.uint8)
    images = np.repeat(values, 16).reshape(-1, *SHAPE)
    images[2, 0, :2] += 1  # its mean is exactly 1/2
    return Dataset(images, np.array([1, 0, 1, 1, 0, 0]), np.array([30, 10, 50, 20, 40, 7]))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Where the table goes."""
    return tmp_path / "table.tsv"
