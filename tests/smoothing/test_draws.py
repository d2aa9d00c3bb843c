"""How many draws a target takes on the published distribution: computed exactly."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def population(shared_data: Path, draws_benchmark: ModuleType) -> Any:
    """The probabilities of 5,000 images of CIFAR-10 under a ResNet-110 at sigma 0.25."""
    table = shared_data / "certify" / "cifar10_resnet110_full_train0.25_sigma0.25.csv"
    return draws_benchmark.Population.read(table)


def test_the_population(population: Any) -> None:
    """A table that is inverted to other probabilities, or that loses images, fails."""
    assert population.images.sum() == 5_000
    assert population.shares.max() == 1.0
    assert population.mean(population.shares > 0.5) == pytest.approx(1.0 - 418 / 5_000)
    assert population.mean(np.ones_like(population.shares)) == pytest.approx(1.0)


@pytest.mark.parametrize(("radius", "most", "points"), [(0.25, 770, 0.2), (0.5, 1_430, 0.3), (0.75, 4_000, 0.6)])
def test_mean_draws_and_certified_share(
    population: Any, draws_benchmark: ModuleType, radius: float, most: int, points: float
) -> None:
    """More draws on average than were found, or a share certified that falls further short of Fixed, fails."""
    found = draws_benchmark.target(population, radius)
    fixed = draws_benchmark.fixed(population, radius)
    assert found.mean_draws <= most
    assert fixed.certified - found.certified <= points / 100
    assert found.certified + found.gave_up + found.undecided == pytest.approx(1.0, abs=1e-7)
