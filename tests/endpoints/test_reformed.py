"""A reformer inside the base classifier: noise, reform, classify; a radius about what was sent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import certserve
from certserve import errors
from certserve.endpoints.models import LoadedModel
from certserve.endpoints.verification import verify_by_drawing
from certserve.smoothing.outcomes import Certificate


@pytest.fixture(scope="module")
def path(harness: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a reformer that halves the contrast: "high" where a pixel is above 127.5 / 255, as without it."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    found: Path = harness.guarded(tmp_path_factory.mktemp("reformed") / "guarded").path
    return found


@pytest.fixture(scope="module")
def model(harness: ModuleType, path: Path) -> Iterator[Any]:
    with certserve.open(path, reform=True, key_source=harness.SECRET) as opened:
        yield opened


def test_it_has_a_name_and_a_fingerprint_of_its_own(model: Any, guarded: Any) -> None:
    """So that no certificate of one is taken for the other's, and their noise differs."""
    ours, plain = model.get_model().execution, guarded.get_model().execution
    assert ours.name == "reformed-float64"
    assert plain.name == "float64"
    assert ours.fingerprint != plain.fingerprint


def test_the_radius_is_about_what_was_sent(model: Any, harness: ModuleType) -> None:
    """x / 2 + 1/4 turns over where x does, at (180 - 127.5) / 255 from here; the reformed image is half as far."""
    image = harness.image(180)
    outcome = model.certify(image, n=4000)
    assert isinstance(outcome, Certificate)
    assert outcome.label_name == "high"
    assert 0.85 * 52.5 / 255 < outcome.radius <= 52.5 / 255
    (reformed,) = model.reform(image)
    assert outcome.radius > reformed.image.pixels.reshape(-1)[harness.PIXEL] - 0.5
    assert outcome.origin.space.description == "the raw tensor as sent"


def test_every_draw_is_reformed_after_the_noise(model: Any, guarded: Any, harness: ModuleType) -> None:
    """The sampler's labels are f's of the reformer's images of the noisy copies."""
    executor = model._service.models.get("").engine._executor
    backend, bare = executor._sampler._backend, guarded._service.models.get("").engine._executor._sampler._backend
    noisy = (3 * np.sin(np.arange(32 * 16.0)).reshape(32, 1, 4, 4)).astype(np.float32)
    assert np.array_equal(backend.logits(noisy), bare.logits(np.clip(noisy / 2 + np.float32(0.25), 0, 1)))


def test_detect_reform_and_verify_as_without(model: Any, guarded: Any, harness: ModuleType) -> None:
    """The detectors and the answers beside a reformed image are the bare classifier's; drawing again works."""
    image = harness.image()
    assert model.detect(image) == guarded.detect(image)
    assert model.reform(image) == guarded.reform(image)
    outcome = model.certify(image, guard=True)
    assert certserve.verify(outcome)
    assert verify_by_drawing(outcome, model, image).startswith("Drawn again")
    with pytest.raises(errors.VerificationFailed, match="fingerprint"):
        verify_by_drawing(outcome, guarded, image)


def test_the_name_of_the_execution_opens_it(path: Path, model: Any, harness: ModuleType) -> None:
    """As `verify --secret-file` does, with the name from the certificate."""
    with certserve.open(path, execution="reformed-float64", key_source=harness.SECRET) as same:
        assert same.certify(harness.image()) == model.certify(harness.image())


def test_in_a_process_of_its_own(path: Path, model: Any) -> None:
    """The same execution."""
    loaded = LoadedModel.read(path, reform=True, isolate=True)
    found = model.get_model().execution
    assert (loaded.execution.name, loaded.execution.fingerprint) == (found.name, found.fingerprint)
    with ThreadPoolExecutor(1) as device:
        loaded.executor(device).close()


def test_a_bundle_without_a_reformer(bundle: Path) -> None:
    """It is refused when it is opened."""
    with pytest.raises(errors.BundleError, match=r"has no reformer; make one with `certserve train magnet"):
        certserve.open(bundle, reform=True)
