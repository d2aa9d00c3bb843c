"""A job: what it reads, what it makes, and what it refuses before any work."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")
pytest.importorskip("onnxruntime")

from certserve import datasets
from certserve.backends.architectures import load
from certserve.backends.processor import cores, multiplies_bfloat16
from certserve.bundle import Bundle, write_linear
from certserve.datasets import Dataset, DatasetError
from certserve.errors import BundleError
from certserve.training import job
from certserve.training.examples import digest, mean_and_std
from certserve.training.job import Job, fill_recipe, run
from certserve.training.recipe import Recipe, RecipeError

Asked: TypeAlias = Callable[..., Job]


@pytest.fixture
def archive(data: Dataset, tmp_path: Path) -> Path:
    """The images in an .npz file."""
    np.savez(tmp_path / "data.npz", x=data.images, y=data.labels, idx=data.idx)
    return tmp_path / "data.npz"


@pytest.fixture
def asked(archive: Path, recipe: Recipe, tmp_path: Path) -> Asked:
    """A job of one epoch on them; arguments replace what it says."""

    def job_of(**other: Any) -> Job:
        short = dataclasses.replace(recipe, epochs=1)
        usual = Job((archive,), tmp_path / "made", tmp_path / "run", (), "made", "", None, None, short)
        return dataclasses.replace(usual, **other)

    return job_of


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training fails the test: what is refused is refused before it."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(job, "train", fail)


def test_it_makes_a_bundle_a_log_a_plot_and_the_held_out_images(asked: Asked, data: Dataset, tmp_path: Path) -> None:
    made = run(asked())
    assert (made.name, made.labels, made.shape, made.sigmas) == ("made", ("0", "1"), (1, 8, 8), (0.25,))
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"log.tsv", "log.png", "held_out.npz"}
    with Image.open(tmp_path / "run" / "log.png") as picture:
        assert picture.format == "PNG"
    held_out = datasets.read([tmp_path / "run" / "held_out.npz"])
    kept = np.isin(data.idx, held_out.idx)
    assert kept.sum() == 12
    training = data.where(~kept)
    assert digest(held_out) == digest(data.where(kept))
    assert held_out.idx.tolist() == data.idx[kept].tolist()
    assert made.provenance["training_images"] == f"48, SHA-256 {digest(training)}"
    assert made.provenance["held_out_images"] == f"12, SHA-256 {digest(held_out)}"
    network = load(made.file("model.safetensors"))
    assert (network.description.mean, network.description.std) == mean_and_std(training)


def test_what_it_was_made_of_is_recorded(asked: Asked, tmp_path: Path) -> None:
    wanted = asked()
    made = run(wanted)
    recorded = json.loads(made.provenance["recipe"])
    assert Recipe(**{**recorded, "widths": tuple(recorded["widths"])}) == wanted.recipe
    accuracy = float((tmp_path / "run" / "log.tsv").read_text(encoding="utf-8").split("\n")[1].split("\t")[2])
    assert float(made.provenance["held_out_accuracy_under_noise"]) == pytest.approx(accuracy, abs=1e-4)
    assert made.provenance["started_from"] == "random weights"
    weights = load(made.file("model.safetensors")).parameters()
    assert int(made.provenance["weights"]) == sum(weight.numel() for weight in weights)


@pytest.mark.parametrize(("side", "stride"), [(16, 1), (17, 2), (48, 2), (49, 4)])
def test_larger_images_are_made_smaller_by_the_stem(recipe: Recipe, side: int, stride: int) -> None:
    images = np.zeros((2, 3, side, side + 9), np.uint8)
    found = job._architecture(Dataset(images, np.arange(2), np.arange(2)), 7, recipe)
    assert (found.shape, found.classes, found.stride) == ((3, side, side + 9), 7, stride)
    assert [(stage.width, stage.blocks) for stage in found.stages] == [(4, 1), (6, 1)]


def test_what_a_recipe_leaves_out_is_what_is_fast_here() -> None:
    filled = fill_recipe(sigma=0.25)
    assert filled.threads == cores()
    assert filled.precision == "bfloat16" or not multiplies_bfloat16()
    assert fill_recipe(sigma=0.25, threads=1, precision="float32") == Recipe(0.25)
    with pytest.raises(RecipeError, match="threads must be a number, positive, not 0"):
        fill_recipe(sigma=0.25, threads=0)


def test_labels_name_the_classes(asked: Asked) -> None:
    assert run(asked(labels=("dark", "bright"))).labels == ("dark", "bright")


@pytest.mark.usefixtures("untrained")
class TestRefusedBeforeTheWork:
    """One sentence each."""

    def test_an_output_that_is_not_empty(self, asked: Asked, tmp_path: Path) -> None:
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "mine.txt").write_text("kept", encoding="utf-8")
        with pytest.raises(BundleError, match="made is not empty; choose another directory"):
            run(asked())
        assert (tmp_path / "made" / "mine.txt").read_text(encoding="utf-8") == "kept"
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("labels", "said"),
        [
            ([0] * 30 + [2] * 30, r"the class 1 \(1\) has 0 images"),
            ([0] * 59 + [1], r"the class 1 \(1\) has 1 images"),
            ([-1] + [0] * 29 + [1] * 30, "image 59 has the label -1, but labels go from 0 to 1"),
            ([0] * 30 + [10**9] * 30, "the largest label is 1000000000, but there are only 60 images"),
            ([0] * 30 + [60] * 30, "the largest label is 60, but there are only 60 images"),
        ],
    )
    def test_labels_that_no_classes_have(
        self, asked: Asked, data: Dataset, archive: Path, labels: list[int], said: str
    ) -> None:
        np.savez(archive, x=data.images, y=labels, idx=data.idx)
        with pytest.raises(DatasetError, match=said):
            run(asked())

    @pytest.mark.parametrize("names", [(), ("a", "b")])
    def test_no_images(self, asked: Asked, data: Dataset, archive: Path, names: tuple[str, ...]) -> None:
        np.savez(archive, x=data.images[:0], y=data.labels[:0])
        with pytest.raises(DatasetError, match="there are none"):
            run(asked(labels=names))

    def test_one_class(self, asked: Asked, data: Dataset, archive: Path) -> None:
        np.savez(archive, x=data.images, y=0 * data.labels)
        with pytest.raises(BundleError, match="2 to 1,000,000 classes, not 1"):
            run(asked())

    def test_a_start_without_weights_for_torch(self, asked: Asked, tmp_path: Path) -> None:
        linear = tmp_path / "linear"
        write_linear(
            linear,
            name="linear",
            weights=np.ones((2, 64)),
            bias=np.zeros(2),
            shape=(1, 8, 8),
            labels=("a", "b"),
            sigmas=(0.25,),
        )
        with pytest.raises(BundleError, match="linear has no weights for torch"):
            run(asked(start_from=linear))


def test_a_job_begins_with_the_weights_of_another(asked: Asked, tmp_path: Path) -> None:
    """With steps too small to change a float, it ends with them."""
    first = run(asked())
    still = dataclasses.replace(asked().recipe, learning_rate=1e-30, ema_decay=0.0, seed=9)
    there = {"output": tmp_path / "second", "folder": tmp_path / "second run", "recipe": still}
    second = run(asked(**there, start_from=tmp_path / "made"))

    def weights(made: Bundle) -> list[bytes]:
        return [weight.detach().numpy().tobytes() for weight in load(made.file("model.safetensors")).parameters()]

    assert weights(second) == weights(first)
    assert second.provenance["started_from"] == f"weights with SHA-256 {first.digests['model.safetensors']}"


@pytest.mark.parametrize("differing", ["classes", "shape"])
def test_a_start_for_other_images_or_classes_is_refused(
    asked: Asked, data: Dataset, archive: Path, tmp_path: Path, differing: str
) -> None:
    run(asked())
    images, labels = data.images, data.labels
    if differing == "classes":
        labels = np.repeat([0, 1, 2], 20)
    else:
        images = np.repeat(images, 2, axis=2)
    np.savez(archive, x=images, y=labels)
    other = asked(output=tmp_path / "second", folder=tmp_path / "second run", start_from=tmp_path / "made")
    with pytest.raises(RecipeError, match=r"made is a model of 2 classes and images of \(1, 8, 8\), the data have"):
        run(other)
    assert not (tmp_path / "second run").exists()


@pytest.mark.usefixtures("untrained")
def test_what_no_bundle_could_hold_is_refused_before_the_work(asked: Asked, recipe: Recipe, tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", x=np.zeros((8, 2, 4, 4), np.uint8), y=np.arange(8) % 2)
    with pytest.raises(DatasetError, match=r"1 \(grey\) or 3 \(rgb\) channels, not 2"):
        run(asked(paths=(tmp_path / "two.npz",)))
    with pytest.raises(RecipeError, match="at most 10, not 11"):
        run(asked(recipe=dataclasses.replace(recipe, sigma=11.0)))


def test_two_jobs_do_not_share_a_folder(asked: Asked) -> None:
    """A second job that goes on in the folder of one that is at work, or one that its end leaves locked, fails."""
    refused = []

    def begin_another(_: object) -> None:
        with pytest.raises(RecipeError, match="another training is at work there"):
            run(asked())
        refused.append(True)

    assert run(asked(), on_progress=begin_another).executions
    assert refused


def test_a_bundle_half_made_when_the_run_was_killed_is_made_again(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "add_int8", killed)
        with pytest.raises(KeyboardInterrupt):
            run(asked())
    assert not (tmp_path / "made").exists()
    made = run(asked())
    assert not list(tmp_path.glob(".made*"))
    undisturbed = run(asked(output=tmp_path / "other", folder=tmp_path / "undisturbed"))
    assert made.digests == undisturbed.digests
