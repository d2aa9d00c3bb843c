"""Real digits and a network that knows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from certserve.datasets import Dataset, read


@dataclass(frozen=True)
class Digits:
    """Test images of MNIST that the network answers correctly: float32, in [0, 1]."""

    network: Any
    images: Any
    labels: Any


@pytest.fixture(scope="session")
def digits(shared_data: Path) -> Digits:
    """A small network after one pass over a tenth of MNIST."""
    torch = pytest.importorskip("torch")

    def tensors(data: Dataset, count: int) -> Any:
        return torch.tensor(data.images[:count]) / 255, torch.tensor(data.labels[:count])

    images, labels = tensors(read([shared_data / "mnist"], split="train"), 6000)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 5, 2), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 5, 2), torch.nn.ReLU(),
            torch.nn.Flatten(), torch.nn.Linear(256, 10),
        )  # fmt: skip
        optimiser = torch.optim.Adam(network.parameters(), 3e-3)
        for rows in torch.randperm(len(images)).split(32):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimiser.step()
    network.eval().requires_grad_(False)
    images, labels = tensors(read([shared_data / "mnist"]), 1000)
    known = network(images).argmax(1) == labels
    return Digits(network, images[known], labels[known])
