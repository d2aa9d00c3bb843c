"""ONNX files: which are refused and why, and the published models that must load and give their own logits."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from certserve.backends.checks import check_rows
from certserve.errors import BackendFailed, BundleError, ModelRefused

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from certserve.backends.onnx import OnnxBackend  # noqa: E402  after the runtime is known to be there

SIGMA = 0.25


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("batch_norm", r"the_logits.*training mode"),
        ("reduce_mean", r"the_mean.*over the batch"),
        ("softmax", r"the_logits.*over the batch"),
        ("dynamic_quantise", r"the_q.*whole batch"),
        ("random", r"the_noise.*random"),
    ],
)
def test_faults_that_the_graph_shows_are_refused_before_running(
    kind: str, reason: str, models: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(ModelRefused, match=reason):
        OnnxBackend(models.spoilt(tmp_path / "model.onnx", kind), "float32")


@pytest.mark.parametrize("kind", ["transposed_mean", "ones_row", "attention", "running_sum"])
def test_coupling_that_only_running_shows_is_refused(kind: str, models: ModuleType, tmp_path: Path) -> None:
    backend = OnnxBackend(models.spoilt(tmp_path / "model.onnx", kind), "float32")
    with pytest.raises(ModelRefused, match="rows are not independent"):
        check_rows(backend, SIGMA)


def test_logits_that_are_not_finite_are_refused(models: ModuleType, tmp_path: Path) -> None:
    backend = OnnxBackend(models.spoilt(tmp_path / "model.onnx", "nan"), "float32")
    with pytest.raises(ModelRefused, match="not finite"):
        check_rows(backend, SIGMA)


def test_what_only_looks_like_coupling_is_served(models: ModuleType, tmp_path: Path) -> None:
    backend = OnnxBackend(models.inference_only(tmp_path / "model.onnx"), "float32")
    assert check_rows(backend, SIGMA).shapes[0] == 1


def test_a_fixed_batch_axis_is_refused(models: ModuleType, tmp_path: Path) -> None:
    nodes = [models.node("Flatten", ["x"], ["logits"])]
    with pytest.raises(ModelRefused, match=r"fixed at 1; export the model with a free batch axis"):
        OnnxBackend(models.save(tmp_path / "model.onnx", nodes, {}, batch=1), "float32")


def test_a_batch_axis_fixed_inside_the_graph_is_refused(models: ModuleType, tmp_path: Path) -> None:
    arrays = {"one_row": np.array([1, 192], np.int64)}
    nodes = [models.node("Reshape", ["x", "one_row"], ["logits"])]
    with pytest.raises(ModelRefused, match="two rows"):
        OnnxBackend(models.save(tmp_path / "model.onnx", nodes, arrays), "float32")


def test_two_inputs_are_refused(models: ModuleType, tmp_path: Path) -> None:
    nodes = [models.node("Add", ["x", "y"], ["sum"]), models.node("Flatten", ["sum"], ["logits"])]
    with pytest.raises(ModelRefused, match="expected one float32 input"):
        OnnxBackend(models.save(tmp_path / "model.onnx", nodes, {}, inputs=("x", "y")), "float32")


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_inputs_of_another_type_are_refused(dtype: type[np.generic], models: ModuleType, tmp_path: Path) -> None:
    nodes = [models.node("Flatten", ["x"], ["logits"])]
    with pytest.raises(ModelRefused, match="expected one float32 input"):
        OnnxBackend(models.save(tmp_path / "model.onnx", nodes, {}, dtype=dtype), "float32")


def test_outputs_that_are_no_rows_of_logits_are_refused(models: ModuleType, tmp_path: Path) -> None:
    nodes = [models.node("Relu", ["x"], ["logits"])]
    with pytest.raises(ModelRefused, match=r"expected logits of shape \(rows, classes\)"):
        OnnxBackend(models.save(tmp_path / "model.onnx", nodes, {}, output=["batch", *models.SHAPE]), "float32")


def test_an_input_of_unknown_size_is_refused(models: ModuleType, tmp_path: Path) -> None:
    model = onnx.load(models.classifier(tmp_path / "model.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ModelRefused, match="height and width must be numbers"):
        OnnxBackend(tmp_path / "model.onnx", "float32")


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_file_that_is_no_model_is_a_damaged_bundle(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx"):
        OnnxBackend(tmp_path / "model.onnx", "float32")


def test_a_model_the_runtime_cannot_load_is_a_damaged_bundle(models: ModuleType, tmp_path: Path) -> None:
    nodes = [models.node("NoSuchOperator", ["x"], ["logits"])]
    with pytest.raises(BundleError, match="ONNX Runtime cannot load it"):
        OnnxBackend(models.save(tmp_path / "model.onnx", nodes, {}), "float32")


def test_a_failure_while_running_is_a_backend_failure(models: ModuleType, tmp_path: Path) -> None:
    backend = OnnxBackend(models.classifier(tmp_path / "model.onnx"), "float32")
    with pytest.raises(BackendFailed, match="batch of 2 rows"):
        backend.logits(np.zeros((2, 1, 8, 8), np.float32))


def test_threads_and_precision_are_part_of_the_identity(models: ModuleType, tmp_path: Path) -> None:
    path = models.classifier(tmp_path / "model.onnx")
    one, two = OnnxBackend(path, "float32", threads=1).identity, OnnxBackend(path, "int8", threads=2).identity
    assert (one["threads"], two["threads"]) == ("1", "2")
    assert (one["precision"], two["precision"]) == ("float32", "int8")
    assert (one["runtime"], one["instructions"]) == ("onnxruntime", two["instructions"])


@pytest.mark.parametrize("name", ["noise_w32_sigma0.25_cifar10", "resnet20_cifar10", "squeezenet1_1_imagenet"])
def test_published_models_are_base_classifiers(name: str, shared_data: Path) -> None:
    backend = OnnxBackend(shared_data / "models" / f"{name}.onnx", "float32")
    shapes = check_rows(backend, SIGMA).shapes
    assert shapes, f"{name} serves with batches of {shapes}"
    assert backend.num_classes == (1000 if "imagenet" in name else 10)


def test_resnet20_gives_its_reference_logits(shared_data: Path) -> None:
    backend = OnnxBackend(shared_data / "models" / "resnet20_cifar10.onnx", "float32")
    with np.load(shared_data / "cifar10" / "cifar10_test_a.npz") as images:
        pixels = images["x"][:16]
    with np.load(shared_data / "models" / "reference_logits.npz") as references:
        expected = references["resnet20_cifar10"]
    found = backend.logits(_normalised(pixels, _manifest(shared_data, "resnet20_cifar10")))
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_squeezenet_gives_its_reference_logits(shared_data: Path) -> None:
    backend = OnnxBackend(shared_data / "models" / "squeezenet1_1_imagenet.onnx", "float32")
    with np.load(shared_data / "models" / "reference_squeezenet1_1.npz") as references:
        pixels, expected = references["crop_uint8_nhwc"].transpose(0, 3, 1, 2), references["logits"]
    found = backend.logits(_normalised(pixels, _manifest(shared_data, "squeezenet1_1_imagenet")))
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_the_noise_trained_model_takes_plain_pixels(shared_data: Path) -> None:
    """Its normalisation is in the graph: the reference interpreter of ONNX, on plain pixels, agrees."""
    from onnx.reference import ReferenceEvaluator

    path = shared_data / "models" / "noise_w32_sigma0.25_cifar10.onnx"
    with np.load(shared_data / "cifar10" / "cifar10_test_a.npz") as images:
        pixels = (images["x"][:2] / np.float32(255)).astype(np.float32)
    expected = np.asarray(next(iter(ReferenceEvaluator(str(path)).run(None, {"x": pixels}))))
    np.testing.assert_allclose(OnnxBackend(path, "float32").logits(pixels), expected, atol=1e-3, rtol=0)


def _manifest(shared_data: Path, name: str) -> dict[str, Any]:
    models = json.loads((shared_data / "models" / "manifest.json").read_text(encoding="utf-8"))
    return next(dict(model) for model in models if model["name"] == name)


def _normalised(pixels: npt.NDArray[np.uint8], model: dict[str, Any]) -> npt.NDArray[np.float32]:
    mean, std = (np.array(model["normalise"][key])[:, None, None] for key in ("mean", "std"))
    normalised: npt.NDArray[np.float64] = (pixels / 255.0 - mean) / std
    return normalised.astype(np.float32)
