"""One contract for every backend that is installed: a deterministic function of each row alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from certserve.backends import Backend
from certserve.backends.checks import check_rows, probe_pixels

SIGMA = 0.5


@dataclass(frozen=True)
class Subject:
    """A backend, and its logits worked out again in plain float64."""

    backend: Backend
    again: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]]


@pytest.fixture(params=["linear", "onnx"])
def subject(request: pytest.FixtureRequest, models: ModuleType, tmp_path: Path) -> Subject:
    if request.param == "linear":
        return _linear(models)
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return _onnx(models, tmp_path)


def _linear(models: ModuleType) -> Subject:
    weights = models.waves(models.CLASSES, int(np.prod(models.SHAPE))).astype(np.float64)
    bias = np.linspace(0.0, 1.0, models.CLASSES)
    return Subject(models.linear(), lambda x: x.reshape(len(x), -1).astype(np.float64) @ weights.T + bias)


def _onnx(models: ModuleType, folder: Path) -> Subject:
    from certserve.backends.onnx import OnnxBackend

    arrays = {name: array.astype(np.float64) for name, array in models.classifier_arrays().items()}
    backend = OnnxBackend(models.classifier(folder / "model.onnx"), "float32")
    return Subject(backend, lambda x: _classify(x.astype(np.float64), arrays))


def _classify(x: npt.NDArray[np.float64], arrays: dict[str, Any]) -> npt.NDArray[np.float64]:
    """`models.classifier` in numpy: convolution, ReLU, average over the image, dense layer."""
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = [padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    kernel = arrays["kernel"].reshape(*arrays["kernel"].shape[:2], 9)
    maps = np.einsum("wnchv,fcw->nfhv", np.stack(windows), kernel) + arrays["offset"][:, None, None]
    pooled = np.maximum(maps, 0.0).mean(axis=(2, 3))
    return np.asarray(pooled @ arrays["dense"].T + arrays["bias"])


def test_describes_its_input_and_its_classes(subject: Subject, models: ModuleType) -> None:
    assert subject.backend.shape == models.SHAPE
    assert subject.backend.num_classes == models.CLASSES


@pytest.mark.parametrize("rows", [1, 2, 7, 33])
def test_gives_float32_logits_for_any_number_of_rows(subject: Subject, rows: int) -> None:
    logits = subject.backend.logits(probe_pixels(subject.backend.shape, rows, SIGMA))
    assert logits.shape == (rows, subject.backend.num_classes)
    assert logits.dtype == np.float32


def test_agrees_with_the_same_sums_in_numpy(subject: Subject) -> None:
    pixels = probe_pixels(subject.backend.shape, 40, SIGMA)
    np.testing.assert_allclose(subject.backend.logits(pixels), subject.again(pixels), rtol=1e-4, atol=1e-4)


def test_leaves_its_input_alone(subject: Subject) -> None:
    pixels = probe_pixels(subject.backend.shape, 8, SIGMA)
    before = pixels.copy()
    subject.backend.logits(pixels)
    np.testing.assert_array_equal(pixels, before)


def test_earlier_logits_survive_later_calls(subject: Subject) -> None:
    pixels = probe_pixels(subject.backend.shape, 16, SIGMA)
    first = subject.backend.logits(pixels[:8])
    before = first.copy()
    subject.backend.logits(pixels[8:])
    np.testing.assert_array_equal(first, before)


def test_is_deterministic_to_the_last_bit(subject: Subject) -> None:
    pixels = probe_pixels(subject.backend.shape, 32, SIGMA)
    assert subject.backend.logits(pixels).tobytes() == subject.backend.logits(pixels).tobytes()


def test_every_row_is_alone_in_every_shape_that_is_kept(subject: Subject) -> None:
    shapes = check_rows(subject.backend, SIGMA).shapes
    assert shapes[0] == 1
    pixels = probe_pixels(subject.backend.shape, shapes[-1], SIGMA)
    alone = np.concatenate([subject.backend.logits(row[None]) for row in pixels])
    for rows in shapes:
        batches = [subject.backend.logits(pixels[i : i + rows]) for i in range(0, shapes[-1], rows)]
        np.testing.assert_array_equal(np.concatenate(batches), alone)


def test_a_permutation_of_rows_permutes_logits(subject: Subject) -> None:
    rows = check_rows(subject.backend, SIGMA).shapes[-1]
    pixels = probe_pixels(subject.backend.shape, rows, SIGMA)
    order = (np.arange(rows) * 5 + 3) % rows
    np.testing.assert_array_equal(subject.backend.logits(pixels[order]), subject.backend.logits(pixels)[order])


@pytest.mark.parametrize("mate", [0.0, 1.0, -30.0, 1e6])
def test_other_mates_change_nothing(subject: Subject, mate: float) -> None:
    rows = check_rows(subject.backend, SIGMA).shapes[-1]
    pixels = probe_pixels(subject.backend.shape, rows, SIGMA)
    mixed = pixels.copy()
    mixed[::2] = mate
    np.testing.assert_array_equal(subject.backend.logits(mixed)[1::2], subject.backend.logits(pixels)[1::2])


def test_a_mate_that_is_not_finite_changes_nothing(subject: Subject) -> None:
    pixels = probe_pixels(subject.backend.shape, 8, SIGMA)
    before = subject.backend.logits(pixels)
    pixels[3] = np.nan
    np.testing.assert_array_equal(np.delete(subject.backend.logits(pixels), 3, 0), np.delete(before, 3, 0))


def test_its_identity_names_what_the_logits_depend_on(subject: Subject) -> None:
    assert {"runtime", "version", "precision", "device"} <= set(subject.backend.identity)
    assert all(isinstance(value, str) and value for value in subject.backend.identity.values())
