"""An autoencoder learns to take noise away, and ends in the same weights however often it was interrupted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from certserve.backends.autoencoders import AutoencoderDesign, AutoencoderNetwork, save  # noqa: E402 (after the checks)
from certserve.datasets import Dataset  # noqa: E402
from certserve.training import autoencoder, log  # noqa: E402
from certserve.training import run as run_module  # noqa: E402
from certserve.training.autoencoder import train, validation_loss  # noqa: E402
from certserve.training.log import Fitted  # noqa: E402
from certserve.training.recipe import AutoencoderRecipe, RecipeError  # noqa: E402
from certserve.training.run import Progress  # noqa: E402

DESIGN = AutoencoderDesign((1, 8, 8), "II", 4)
RECIPE = AutoencoderRecipe(0.2, epochs=3, batch=8)
STEPS = 15


class Interrupted(Exception):
    """What stops a run."""


def stop_at(step: int) -> Callable[[Progress], None]:
    """Interrupts a run after this step."""

    def told(progress: Progress) -> None:
        if progress.step == step:
            raise Interrupted

    return told


def bars(count: int) -> Dataset:
    """Smooth images: a bright bar, wherever it is."""
    place = np.arange(8)[None, :] - (np.arange(count) * 0.37 % 8)[:, None]
    rows = np.rint(255 * np.exp(-((place / 2) ** 2))).astype(np.uint8)
    images = np.repeat(rows[:, None, None, :], 8, axis=2)
    return Dataset(images, np.zeros(count, np.int64), np.arange(count))


def learnt(folder: Path, **other: Any) -> AutoencoderNetwork:
    """A run in the folder; arguments replace what it is usually of."""
    parts: dict[str, Any] = {"data": bars(40), "validation": bars(9), "design": DESIGN, "recipe": RECIPE}
    return train(**{**parts, "folder": folder, **other})


def untimed(folder: Path) -> list[Fitted]:
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in log.read_fit(folder / "log.tsv")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Fitted]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return save(learnt(folder)), untimed(folder)


@pytest.mark.parametrize("name", ["I", "II", "III"])
def test_it_learns_to_take_noise_away(tmp_path: Path, name: str) -> None:
    wide = AutoencoderDesign((1, 8, 8), name, 8)
    network = learnt(tmp_path, data=bars(400), design=wide, recipe=dataclasses.replace(RECIPE, epochs=40))
    assert not network.training
    clean = torch.from_numpy(bars(64).images).float() / 255
    noisy = (clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    with torch.no_grad():
        left = float(((network(noisy) - clean) ** 2).mean())
    assert left < 0.35 * float(((noisy - clean) ** 2).mean())
    epochs = log.read_fit(tmp_path / "log.tsv")
    assert [epoch.epoch for epoch in epochs] == list(range(1, 41))
    assert epochs[-1].loss < epochs[0].loss / 4


def test_the_best_epoch_is_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, weights = iter([3.0, 1.0, 2.0]), []

    def measure(network: AutoencoderNetwork, images: Any) -> float:
        assert images.shape == (9, 1, 8, 8)
        weights.append(save(network))
        return next(told)

    monkeypatch.setattr(autoencoder, "validation_loss", measure)
    assert save(learnt(tmp_path)) == weights[1]
    assert len(set(weights)) == 3
    assert [epoch.validation_loss for epoch in log.read_fit(tmp_path / "log.tsv")] == [3.0, 1.0, 2.0]


def test_the_validation_loss_is_that_of_clean_images() -> None:
    network = AutoencoderNetwork(DESIGN)
    clean = torch.from_numpy(bars(1030).images).float() / 255
    with torch.no_grad():
        expected = float(((network(clean) - clean).double() ** 2).mean())
    assert validation_loss(network, torch.from_numpy(bars(1030).images)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seconds", [0.0, 1e9], ids=["a checkpoint a step", "a checkpoint an epoch"])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_an_interrupted_run_ends_like_an_undisturbed_one(
    undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, seconds: float
) -> None:
    monkeypatch.setattr(run_module, "_SECONDS_BETWEEN_CHECKPOINTS", seconds - 1e-9)
    with pytest.raises(Interrupted):
        learnt(tmp_path, on_progress=stop_at(step))
    torch.manual_seed(step)  # what the process has drawn elsewhere does not matter
    taken: list[int] = []
    network = learnt(tmp_path, on_progress=lambda progress: taken.append(progress.step))
    assert taken == list(range((step if seconds == 0.0 else step - step % 5) + 1, STEPS + 1))
    assert (save(network), untimed(tmp_path)) == undisturbed


def test_noise_is_drawn_afresh_in_every_epoch_and_never_leaves_the_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    forward = AutoencoderNetwork.forward

    def noting(self: AutoencoderNetwork, x: Any) -> Any:
        if self.training:
            seen.append(x.detach().clone())
        return forward(self, x)

    monkeypatch.setattr(AutoencoderNetwork, "forward", noting)
    one = Dataset(np.full((1, 1, 8, 8), 128, np.uint8), np.zeros(1, np.int64), np.zeros(1, np.int64))
    learnt(tmp_path, data=one, recipe=dataclasses.replace(RECIPE, epochs=40))
    assert len(seen) == 40
    assert len({x.numpy().tobytes() for x in seen}) == 40
    noise = torch.stack(seen) - 128 / 255
    assert float(noise.std()) == pytest.approx(0.2, rel=0.05)
    assert min(float(x.min()) for x in seen) >= 0.0
    assert max(float(x.max()) for x in seen) <= 1.0


@pytest.mark.parametrize(
    "other",
    [
        {"recipe": dataclasses.replace(RECIPE, seed=1)},
        {"recipe": dataclasses.replace(RECIPE, noise=0.1)},
        {"design": AutoencoderDesign((1, 8, 8), "III", 4)},
        {"data": bars(41)},
        {"validation": bars(8)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_folder_of_another_run_is_refused_and_left_alone(tmp_path: Path, other: dict[str, Any]) -> None:
    with pytest.raises(Interrupted):
        learnt(tmp_path, on_progress=stop_at(7))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RecipeError, match="holds a run with another "):
        learnt(tmp_path, **other)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_result_depends_on_the_seed(undisturbed: Any, tmp_path: Path) -> None:
    assert save(learnt(tmp_path, recipe=dataclasses.replace(RECIPE, seed=1))) != undisturbed[0]


@pytest.mark.parametrize("change", [{"noise": 0.0}, {"epochs": 0}, {"batch": 0}, {"learning_rate": float("nan")},
                                    {"threads": 0}, {"seed": -1}, {"warm_up": 1.0}])  # fmt: skip
def test_a_recipe_out_of_range_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(change))):
        dataclasses.replace(RECIPE, **change)
