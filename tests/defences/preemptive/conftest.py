"""Classifiers whose best change is known, and images for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

SHAPE = (3, 4, 4)
WEIGHTS = torch.sin(1.7 * torch.arange(48, dtype=torch.float64)).reshape(SHAPE)  # of many sizes and both signs


class HalfSpace:
    """Logits (0, s), s = WEIGHTS . x less its value in the middle of the box; counts the rows it takes gradients of."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self, rows: Any) -> Any:
        self.passes += len(rows) if torch.is_grad_enabled() else 0
        score = ((rows - 0.5) * WEIGHTS.to(rows)).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(score), score], 1)


def curved(rows: Any) -> Any:
    """Logits of three classes that are no linear functions."""
    kernel = torch.sin(torch.arange(48 * 6, dtype=torch.float64)).reshape(48, 6).to(rows)
    last = torch.cos(torch.arange(18, dtype=torch.float64)).reshape(6, 3).to(rows)
    return 5 * torch.tanh(rows.flatten(1) @ kernel) @ last


def radii(images: Any) -> Any:
    """The true radii of the smoothed `HalfSpace`: Cohen et al. 2019, exact for linear classifiers and any sigma."""
    scores = HalfSpace()(torch.as_tensor(images, dtype=torch.float64))[:, 1]
    return scores.abs() / WEIGHTS.square().sum().sqrt()


@pytest.fixture(scope="session")
def known() -> Any:
    """All of it, and a seeded generator."""
    return SimpleNamespace(
        half_space=HalfSpace,
        curved=curved,
        radii=radii,
        weights=WEIGHTS,
        shape=SHAPE,
        generator=lambda seed=0: torch.Generator().manual_seed(seed),
    )
