"""A MagNet in a bundle: from images to calibrated detectors, and what is refused before the work."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")
pytest.importorskip("onnxruntime")

from certserve import bundle as bundles
from certserve.backends.torch import differentiable_autoencoder
from certserve.bundle import Bundle
from certserve.datasets import Dataset
from certserve.defences.magnet import load_magnet
from certserve.errors import BundleError
from certserve.training import job as classifier_job
from certserve.training import magnet
from certserve.training.examples import digest, divide, split
from certserve.training.magnet import MagnetJob, run
from certserve.training.plan import PLANS, Held, MagnetPlan, fill_plan
from certserve.training.recipe import Recipe, RecipeError

Asked: TypeAlias = Callable[..., MagnetJob]

PLAN = dataclasses.replace(
    PLANS["mnist"], recipe=dataclasses.replace(PLANS["mnist"].recipe, epochs=2, batch=16), rate=0.05, jsd_rate=0.02
)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Dark images and bright ones, 200 of each, all different."""
    random = np.random.Generator(np.random.PCG64(5))
    levels = np.repeat([40, 200], 200)[:, None, None, None]
    images = (levels + random.integers(0, 50, (400, 1, 8, 8))).astype(np.uint8)
    return Dataset(images, np.repeat([0, 1], 200), np.arange(400))


@pytest.fixture(scope="module")
def file(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, x=data.images, y=data.labels, idx=data.idx)
    return path


@pytest.fixture(scope="module")
def classifier(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle made from the same images, 160 of which were held out."""
    folder = tmp_path_factory.mktemp("classifier")
    recipe = Recipe(0.25, epochs=1, batch=16, shift=1, widths=(4,), blocks=1, held_out=0.4, seed=3)
    asked = classifier_job.Job((file,), folder / "made", folder / "run", (), "made", "", None, None, recipe)
    return classifier_job.run(asked).path


@pytest.fixture
def made(classifier: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    for entry in classifier.iterdir():
        (tmp_path / "made").mkdir(exist_ok=True)
        (tmp_path / "made" / entry.name).write_bytes(entry.read_bytes())
    return tmp_path / "made"


@pytest.fixture
def asked(made: Path, file: Path, tmp_path: Path) -> Asked:
    def job(**other: Any) -> MagnetJob:
        facts: dict[str, Any] = {"bundle": made, "paths": (file,), "folder": tmp_path / "run", "plan": PLAN}
        return MagnetJob(**{**facts, **other})

    return job


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the work begins."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(magnet, "train", fail)


def test_the_bundle_gets_autoencoders_and_calibrated_detectors(asked: Asked, data: Dataset, tmp_path: Path) -> None:
    before = bundles.read(asked().bundle)
    found = run(asked())
    assert found.magnet is not None
    assert found.executions == before.executions
    assert [entry.name for entry in found.magnet.autoencoders] == ["I", "II"]
    assert [(d.name, d.rate) for d in found.magnet.detectors] == [
        ("l2-I", 0.05), ("l1-II", 0.05), ("jsd10-I", 0.02), ("jsd40-I", 0.02),
    ]  # fmt: skip
    assert (found.magnet.reformer, found.magnet.precision) == ("I", "float32")
    _, held_out = split(data, "01", Held(0.4, 3))
    validation, calibration = divide(held_out, PLAN.recipe)
    assert (len(validation), len(calibration)) == (16, 144)
    assert found.provenance["magnet_calibration_images"] == f"144, SHA-256 {digest(calibration)}"
    verdicts = load_magnet(found).detect(calibration.images.astype(np.float32) / np.float32(255))
    for column, detector in enumerate(found.magnet.detectors):
        stored = np.load(io.BytesIO(found.file(detector.scores).read_bytes()))
        again = np.sort([verdict.detectors[column].score for verdict in verdicts])
        assert stored.dtype == np.float32
        assert again == pytest.approx(stored, rel=1e-5, abs=1e-12)
    for name in ("I", "II"):
        assert (tmp_path / "run" / f"autoencoder-{name}" / "log.png").exists()
        assert differentiable_autoencoder(found, name).description.shape == (1, 8, 8)
    plan = json.loads(found.provenance["magnet_plan"])
    assert (plan["rate"], plan["recipe"]["epochs"]) == (0.05, 2)


def test_the_classifier_saw_none_of_the_images_that_calibrate(
    asked: Asked, data: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = run(asked())
    assert caplog.messages == []
    kept, held_out = split(data, "01", Held(0.4, 3))
    assert found.provenance["training_images"].endswith(digest(kept))
    assert found.provenance["magnet_training_images"].endswith(digest(kept))
    assert found.provenance["held_out_images"].endswith(digest(held_out))


def test_a_split_that_is_not_the_classifier_s_is_warned_of(asked: Asked, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run(asked(held_out=0.5))
    assert any("will flag more of the new images than their rate says" in message for message in caplog.messages)


def test_a_run_that_was_interrupted_makes_the_same_bytes(asked: Asked, tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def stop(name: str, progress: Any) -> None:
        if (name, progress.step) == ("II", 17):
            raise Interrupted

    with pytest.raises(Interrupted):
        run(asked(), on_progress=stop)
    assert bundles.read(asked().bundle).magnet is None
    told: list[tuple[str, int]] = []
    first = run(asked(), on_progress=lambda name, progress: told.append((name, progress.step)))
    assert {name for name, _ in told} == {"II"}
    files = {path.name: path.read_bytes() for path in first.path.iterdir()}
    again = run(asked(folder=tmp_path / "another"))
    assert {path.name: path.read_bytes() for path in again.path.iterdir()} == files


def test_a_second_one_takes_the_first_one_s_place(asked: Asked) -> None:
    run(asked())
    other = dataclasses.replace(PLAN, name="cifar", designs=("II",), errors=(("l1", "II"),), temperatures=(),
                                reformer=False)  # fmt: skip
    found = run(asked(plan=other))
    assert found.magnet is not None
    assert [detector.name for detector in found.magnet.detectors] == ["l1-II"]
    assert found.magnet.reformer == ""
    assert {p.name for p in found.path.glob("magnet-*")} == {
        "magnet-II.onnx",
        "magnet-II.safetensors",
        "magnet-l1-II.npy",
    }
    assert load_magnet(found).reformer is None


@pytest.mark.usefixtures("untrained")
class TestRefusedBeforeTheWork:
    """One sentence each."""

    def test_a_rate_that_the_images_are_too_few_for(self, asked: Asked) -> None:
        few = dataclasses.replace(PLAN, jsd_rate=0.0068)
        with pytest.raises(RecipeError) as caught:
            run(asked(plan=few))
        said = str(caught.value)
        assert said.startswith("a false-positive rate of 0.0068 needs 147 images to calibrate with, and there are 144 ")
        assert said.endswith("or ask for a rate of 0.0069 or more (--rate, --jsd-rate)")

    def test_images_of_another_size(self, asked: Asked, tmp_path: Path) -> None:
        np.savez(tmp_path / "other.npz", x=np.zeros((9, 1, 9, 8), np.uint8), y=np.arange(9) % 2)
        with pytest.raises(ValueError, match=r"expected images \(channels, height, width\) of \(1, 8, 8\)"):
            run(asked(paths=(tmp_path / "other.npz",)))

    def test_no_bundle(self, asked: Asked, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="no such directory"):
            run(asked(bundle=tmp_path / "nowhere"))

    def test_a_size_that_cannot_be_halved(self, asked: Asked, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        odd: Bundle = dataclasses.replace(bundles.read(made), shape=(1, 7, 8))
        monkeypatch.setattr(bundles, "read", lambda _: odd)
        with pytest.raises(RecipeError, match="7 x 8 pixels do not allow; choose another plan: --plan cifar"):
            run(asked())


def test_plans_are_the_published_ones() -> None:
    assert (fill_plan(None, 1).name, fill_plan(None, 3).name, fill_plan("cifar", 1).name) == (
        "mnist",
        "cifar-bn",
        "cifar",
    )
    assert [d.name for d in PLANS["mnist"].detectors] == ["l2-I", "l1-II", "jsd10-I", "jsd40-I"]
    assert [d.name for d in PLANS["cifar-bn"].detectors] == ["l1-III", "jsd10-III", "jsd40-III"]
    assert [d.rate for d in PLANS["cifar"].detectors] == [0.005, 0.01, 0.01]
    with pytest.raises(RecipeError, match="one of mnist, cifar, cifar-bn, not 'x'"):
        fill_plan("x", 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rate": 0.0}, "rate must lie"),
        ({"jsd_rate": 1.0}, "jsd_rate must lie"),
        ({"temperatures": (0.0,)}, "must be positive numbers"),
        ({"temperatures": (10.0, 10.0)}, "must differ"),
    ],
)
def test_a_plan_out_of_range_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        MagnetPlan("mnist", ("I",), 3, PLAN.recipe, (("l2", "I"),), **change)
    with pytest.raises(RecipeError, match="held_out must lie"):
        Held(1.0, 0)
