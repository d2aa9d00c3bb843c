"""Adversaries of training: what they find is within reach, raises the loss, and is what the step is taken on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
from torch.nn import functional  # noqa: E402 (after the checks)

from certserve.attacks.norms import Norm  # noqa: E402
from certserve.backends.architectures import Residual, ResidualNetwork, Stage  # noqa: E402
from certserve.datasets import Dataset  # noqa: E402
from certserve.training.adversary import attacked  # noqa: E402
from certserve.training.classifier import train  # noqa: E402
from certserve.training.examples import noisy_batch, split  # noqa: E402
from certserve.training.recipe import Adversary, Recipe, RecipeError  # noqa: E402

NETWORK = Residual((1, 8, 8), 2, (0.5,), (0.4,), 1, (Stage(4, 1), Stage(6, 1)))
EPSILON = {Norm.L2: 0.8, Norm.LINF: 0.1}


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(3)
    made = ResidualNetwork(NETWORK)
    made.train()(torch.rand(64, 1, 8, 8))  # statistics of batch norm that are not the first ones
    return made


@pytest.fixture(scope="module")
def rows() -> Any:
    random = torch.Generator().manual_seed(1)
    images = torch.rand(24, 1, 8, 8, generator=random)
    return images, 0.2 * torch.randn(images.shape, generator=random), torch.arange(24) % 2


def losses(network: Any, rows: Any, labels: Any) -> Any:
    """Of the network as when it answers."""
    network.eval()
    with torch.no_grad():
        found = functional.cross_entropy(network(rows), labels, reduction="none")
    network.train()
    return found


def length(change: Any, norm: Norm) -> float:
    """The largest of any row."""
    each = change.double().flatten(1)
    return float((each.norm(dim=1) if norm is Norm.L2 else each.abs().amax(1)).max())


def found(network: Any, rows: Any, adversary: Adversary) -> Any:
    images, noise, labels = rows
    return attacked(network, images, noise, labels, adversary, torch.Generator().manual_seed(2))


@pytest.mark.parametrize("norm", Norm)
def test_it_raises_the_loss_under_that_noise_and_stays_within_epsilon(network: Any, rows: Any, norm: Norm) -> None:
    images, noise, labels = rows
    at = found(network, rows, Adversary(norm, EPSILON[norm]))
    assert length(at - images, norm) <= EPSILON[norm] * (1 + 1e-6)
    assert bool(((at >= 0) & (at <= 1)).all())
    before, after = (losses(network, each + noise, labels) for each in (images, at))
    assert bool((after > before).all())
    elsewhere = losses(network, at - noise, labels) - losses(network, images - noise, labels)
    assert float((after - before).mean()) > float(elsewhere.mean()), "it is this noise that it is found under"


@pytest.mark.parametrize("norm", Norm)
def test_a_defender_goes_before_it_towards_the_labels(network: Any, rows: Any, norm: Norm) -> None:
    images, noise, labels = rows
    tiny = 1e-6
    at = found(network, rows, Adversary(norm, tiny, delta=EPSILON[norm]))
    before, after = (losses(network, each + noise, labels) for each in (images, at))
    assert float((after < before).double().mean()) > 0.9
    assert length(at - images, norm) <= (EPSILON[norm] + tiny) * (1 + 1e-6)
    assert length(at - images, norm) > 0.5 * EPSILON[norm]


def test_the_network_is_left_in_training_and_its_statistics_alone(network: Any, rows: Any) -> None:
    state = {name: value.clone() for name, value in network.state_dict().items()}
    found(network, rows, Adversary(Norm.L2, 0.5, delta=0.5))
    assert network.training
    assert all(bool((value == state[name]).all()) for name, value in network.state_dict().items())


def test_a_batch_gets_the_noise_that_the_attack_was_told_of(data: Dataset, recipe: Recipe) -> None:
    images = torch.from_numpy(data.images[:5])
    told: dict[str, Any] = {}

    def attack(clean: Any, noise: Any, _: Any) -> Any:
        told.update(clean=clean.clone(), noise=noise)
        return clean + 1

    moved = noisy_batch(images, recipe, 4, attack)
    assert torch.allclose(moved, told["clean"] + 1 + told["noise"])
    assert torch.allclose(noisy_batch(images, recipe, 4), told["clean"] + told["noise"])


def test_a_run_is_of_its_adversary(data: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    parts = dict(zip(("data", "held_out"), split(data, "ab", recipe), strict=True))

    def weights(name: str, **other: Any) -> Any:
        made = dataclasses.replace(recipe, **other)
        return train(**parts, architecture=NETWORK, recipe=made, folder=tmp_path / name).state_dict()  # type: ignore[arg-type]

    adversary = Adversary(Norm.L2, 0.5, steps=2)
    first, again = weights("a", adversary=adversary), weights("b", adversary=adversary)
    without, defended = weights("c"), weights("d", adversary=dataclasses.replace(adversary, delta=0.5))
    noiseless = weights("e", adversary=adversary, sigma=0.0)
    assert all(bool((first[name] == again[name]).all()) for name in first)
    for other in (without, defended, noiseless):
        assert any(bool((first[name] != other[name]).any()) for name in first)
    with pytest.raises(RecipeError, match="adversary"):
        weights("a")


@pytest.mark.parametrize("change", [{"epsilon": 0.0}, {"epsilon": -1.0}, {"delta": -0.1}, {"steps": 0}])
def test_ranges(change: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="an adversary takes at least one step"):
        Adversary(**{"norm": Norm.L2, "epsilon": 0.5, **change})


def test_only_with_an_adversary_may_there_be_no_noise() -> None:
    assert Recipe(sigma=0.0, adversary=Adversary(Norm.LINF, 0.1)).sigma == 0.0
    with pytest.raises(RecipeError, match="sigma must be a number, positive"):
        Recipe(sigma=0.0)
