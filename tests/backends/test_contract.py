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
from certserve.backends.checks import check_rows
from certserve.backends.probes import probe_pixels

SIGMA = 0.5


@dataclass(frozen=True)
class Subject:
    """A backend, its logits worked out again in plain float64, and how far its own arithmetic may be from those.

    A runtime may round a row that comes alone in another way (`alone` is false): the shape of one row is not kept then.
    """

    backend: Backend
    again: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]]
    tolerance: float = 1e-4
    alone: bool = True


@pytest.fixture(params=["linear", "onnx", "openvino float32", "openvino bfloat16", "torch float32", "torch bfloat16"])
def subject(request: pytest.FixtureRequest, models: ModuleType, tmp_path: Path) -> Subject:
    if request.param == "linear":
        return _linear(models)
    runtime, _, precision = request.param.partition(" ")
    if runtime == "torch":
        return _torch(models, tmp_path, precision)
    return _onnx(models, tmp_path, precision)


def _linear(models: ModuleType) -> Subject:
    weights = models.waves(models.CLASSES, int(np.prod(models.SHAPE))).astype(np.float64)
    bias = np.linspace(0.0, 1.0, models.CLASSES)
    return Subject(models.linear(), lambda x: x.reshape(len(x), -1).astype(np.float64) @ weights.T + bias)


def _onnx(models: ModuleType, folder: Path, openvino_precision: str) -> Subject:
    """By ONNX Runtime; or by OpenVINO, where a precision is given."""
    from certserve.backends.onnx import OnnxBackend
    from certserve.backends.openvino import OpenVinoBackend

    arrays = {name: array.astype(np.float64) for name, array in models.classifier_arrays().items()}
    path = models.classifier(folder / "model.onnx")
    backend: Backend
    if openvino_precision:
        backend = OpenVinoBackend(path, openvino_precision, models.SHAPE)
    else:
        backend = OnnxBackend(path, "float32")
    # bfloat16 has 8 bits: both layers round their sums and their weights by up to 2^-9 of themselves.
    tolerance = 2 * 2 * 2**-9 if openvino_precision == "bfloat16" else 1e-4
    return Subject(backend, lambda x: _classify(x.astype(np.float64), arrays), tolerance)


def _torch(models: ModuleType, folder: Path, precision: str) -> Subject:
    from certserve.backends.architectures import save
    from certserve.backends.torch import TorchBackend

    network = models.residual()
    path = folder / "model.safetensors"
    path.write_bytes(save(network))
    arrays = {name: value.numpy().astype(np.float64) for name, value in network.state_dict().items()}
    for name in ("mean", "std"):
        arrays[name] = np.array(getattr(network.description, name)).reshape(1, -1, 1, 1)
    backend = TorchBackend.read(path, precision)
    # bfloat16 has 8 bits: each of the six layers rounds its sums and its kernels by up to 2^-9 of themselves.
    tolerance = {"float32": 1e-4, "bfloat16": 6 * 2 * 2**-9}[precision]
    return Subject(backend, lambda x: _residual(x.astype(np.float64), arrays), tolerance, alone=False)


def _residual(x: npt.NDArray[np.float64], arrays: dict[str, Any]) -> npt.NDArray[np.float64]:
    """`models.residual` in numpy, batch normalisation not folded; every shortcut convolution is one of stride 2."""

    def normed(x: npt.NDArray[np.float64], name: str, stride: int = 1) -> npt.NDArray[np.float64]:
        kernel = arrays[f"{name}.conv.weight"]
        side = kernel.shape[-1]
        padded = np.pad(x, ((0, 0), (0, 0), (side // 2, side // 2), (side // 2, side // 2)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (2, 3))[:, :, ::stride, ::stride]
        y = np.einsum("nchvij,fcij->nfhv", windows, kernel)
        scale = arrays[f"{name}.norm.weight"] / np.sqrt(arrays[f"{name}.norm.running_var"] + 1e-5)
        offset = arrays[f"{name}.norm.bias"] - arrays[f"{name}.norm.running_mean"] * scale
        return np.asarray(y * scale[:, None, None] + offset[:, None, None])

    x = np.maximum(normed((x - arrays["mean"]) / arrays["std"], "stem"), 0.0)
    for block in (f"blocks.{index}" for index in range(3)):
        halves = f"{block}.shortcut.conv.weight" in arrays
        inner = normed(np.maximum(normed(x, f"{block}.first", 1 + halves), 0.0), f"{block}.second")
        x = np.maximum(inner + (normed(x, f"{block}.shortcut", 2) if halves else x), 0.0)
    return np.asarray(x.mean(axis=(2, 3)) @ arrays["head.weight"].T + arrays["head.bias"])


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
    logits, again = subject.backend.logits(pixels), subject.again(pixels)
    np.testing.assert_allclose(logits, again, rtol=subject.tolerance, atol=subject.tolerance)


def test_leaves_its_input_alone(subject: Subject) -> None:
    pixels = probe_pixels(subject.backend.shape, 8, SIGMA)
    before = pixels.copy()
    subject.backend.logits(pixels)
    np.testing.assert_array_equal(pixels, before)


def test_takes_rows_that_do_not_lie_together(subject: Subject) -> None:
    apart = probe_pixels(subject.backend.shape, 16, SIGMA)[::2]
    assert subject.backend.logits(apart).tobytes() == subject.backend.logits(apart.copy()).tobytes()


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
    assert shapes[0] == 1 or not subject.alone
    pixels = probe_pixels(subject.backend.shape, shapes[-1], SIGMA)
    together = subject.backend.logits(pixels)
    for rows in shapes:
        batches = [subject.backend.logits(pixels[i : i + rows]) for i in range(0, shapes[-1], rows)]
        np.testing.assert_array_equal(np.concatenate(batches), together)


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
