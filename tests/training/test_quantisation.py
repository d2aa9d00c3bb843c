"""An int8 execution: as good as the float one, or refused; and not served where it has changed."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from certserve import backends, bundle
from certserve.backends.openvino import OpenVinoBackend
from certserve.backends.probes import probe_labels
from certserve.bundle import Bundle
from certserve.bundle.graph import precision
from certserve.datasets import Dataset
from certserve.training import quantisation
from certserve.training.quantisation import Comparison, add_int8, compare, quantise
from certserve.training.recipe import RecipeError

SHAPE = (3, 8, 8)
LABELS = ("red", "green", "blue")


def file_of(folder: Path) -> Path:
    """A network that tells which colour is brightest: a convolution that blurs, ReLU, the average, a dense layer."""
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    for channel in range(3):
        kernel[channel, channel] = 1.0 / 9.0
    arrays = {"kernel": kernel, "dense": np.eye(3, dtype=np.float32), "bias": np.zeros(3, np.float32)}
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["map"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["map"], ["bright"]),
        helper.make_node("GlobalAveragePool", ["bright"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense", "bias"], ["logits"], transB=1),
    ]
    inputs = [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", *SHAPE])]
    outputs = [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 3])]
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "brightest", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def images_of(count: int) -> Dataset:
    """Images that are brightest in one colour each, in turn, more or less clearly."""
    labels = np.arange(count) % 3
    images = np.full((count, *SHAPE), 90, np.uint8)
    images[np.arange(count), labels] += (10 + np.arange(count) % 60).astype(np.uint8)[:, None, None]
    return Dataset(images, labels, np.arange(count))


@pytest.fixture
def made(tmp_path: Path) -> Bundle:
    """The bundle of that network."""
    return bundle.create(
        file_of(tmp_path), tmp_path / "brightest", name="brightest", labels=LABELS, sigmas=[0.25], colour="rgb"
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer draws to compare with."""
    monkeypatch.setattr(quantisation, "_DRAWS", 100)


@pytest.fixture
def vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies bytes."""
    monkeypatch.setattr("certserve.backends.processor.instruction_set", lambda: "x86_64+avx2+avx512_vnni")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ("x86_64+avx2+avx512_vnni", ("int8", "int8-7bit")),
        ("x86_64+avx2", ("int8-7bit",)),
        ("x86_64", ("int8-7bit",)),
    ],
)
def test_a_bundle_gets_the_int8_executions_that_can_be_compared_here(
    made: Bundle, instructions: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("certserve.backends.processor.instruction_set", lambda: instructions)
    before = {execution.name for execution in made.executions}
    comparisons = add_int8(made.path, images_of(90))
    found = bundle.read(made.path)
    assert {execution.name for execution in found.executions} == before | set(expected)
    assert tuple(comparisons) == expected
    for name, comparison in comparisons.items():
        assert comparison.acceptable
        assert len(set(found.execution(name).probe_labels)) == 3
        assert f"{comparison.agreement:.1%} of the draws get the same label" in found.provenance[name]
        assert f"certified accuracy of float32 and {name} " in found.provenance[name]
    loaded = backends.load(found)
    assert loaded.name == (expected[0] if "avx2" in instructions else "float32")
    others = [backends.load(found, e).fingerprint for e in found.executions if e.runtime == "openvino"]
    assert len(set(others)) == len(others)
    assert not list(made.path.parent.glob(".brightest*"))


@pytest.mark.parametrize(("bits", "largest", "expected"), [(8, 127, "int8"), (7, 64, "int8-7bit")])
def test_the_weights_have_so_many_bits(made: Bundle, bits: int, largest: int, expected: str, tmp_path: Path) -> None:
    """Weights beyond 64, whose sums saturate in 16 bits, fail where they are to have 7 bits."""
    contents = quantise(made.file("model.onnx"), images_of(64).images, 0.25, weight_bits=bits)
    model = onnx.load_from_string(contents)
    weights = [numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert max(int(np.abs(w.astype(int)).max()) for w in weights if w.ndim > 1) == largest
    (tmp_path / "quantised.onnx").write_bytes(contents)
    other = bundle.create(
        tmp_path / "quantised.onnx", tmp_path / "other", name="other", labels=LABELS, sigmas=[0.25], colour="rgb"
    )
    assert {execution.precision for execution in other.executions} == {expected}


def test_weights_that_are_not_all_found_are_not_taken_to_have_7_bits(made: Bundle) -> None:
    """A layer with weights of its own making, which may saturate, called int8-7bit fails."""
    model = onnx.load_from_string(quantise(made.file("model.onnx"), images_of(64).images, 0.25, weight_bits=7))
    assert precision(model) == "int8-7bit"
    tensor = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1)
    model.graph.initializer.remove(tensor)
    model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    assert precision(model) == "int8"


def test_a_layer_in_float32_does_not_hide_that_the_others_have_7_bits(made: Bundle) -> None:
    """The dense layer, which stays in float32, taken for one whose bytes are not known fails."""
    model = onnx.load_from_string(quantise(made.file("model.onnx"), images_of(64).images, 0.25, weight_bits=7))
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    bytes_of = [tensor for tensor in model.graph.initializer if tensor.name.endswith("_quantized")]
    assert (len(layers), sum(len(tensor.dims) > 1 for tensor in bytes_of)) == (2, 1)
    assert precision(model) == "int8-7bit"


@pytest.mark.usefixtures("quick", "vnni")
def test_one_that_is_no_good_does_not_cost_the_other(
    made: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A good int8 execution left out, or a bad one served, fails."""
    measured = quantisation.compare

    def worse_in_7_bits(exact: Any, quantised: Any, *rest: Any) -> Comparison:
        found = measured(exact, quantised, *rest)
        return found if quantised.identity["precision"] == "int8" else dataclasses.replace(found, agreement=0.5)

    monkeypatch.setattr(quantisation, "compare", worse_in_7_bits)
    assert list(add_int8(made.path, images_of(60))) == ["int8"]
    assert "int8-7bit" not in {execution.name for execution in bundle.read(made.path).executions}
    assert "the int8-7bit classifier is not as good as the float one: 50.0% of the draws" in caplog.text


class _Clocked:
    """A backend whose batches take the given seconds in turn, by the clock of this test."""

    def __init__(self, clock: list[float], *seconds: float) -> None:
        self._clock, self._seconds = clock, itertools.cycle(seconds)

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self._clock[0] += next(self._seconds)
        return np.zeros((len(pixels), 3), np.float32)


def test_the_speed_is_that_of_the_first_beside_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each at its best: a mean over the batches, or the inverse, fails."""
    clock = [0.0]
    monkeypatch.setattr("certserve.training.quantisation.time.perf_counter", lambda: clock[0])
    one, other = _Clocked(clock, 1.0, 4.0), _Clocked(clock, 2.0, 9.0, 2.5)
    pixels = np.zeros((1, *SHAPE), np.float32)
    assert quantisation._speed(one, other, pixels) == 2.0  # type: ignore[arg-type]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("speed", "told"), [(0.8, True), (1.0, False)])
def test_one_that_is_slower_is_told(
    made: Bundle, speed: float, told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is chosen before the float one: an operator who does not learn of it serves slower than before."""
    monkeypatch.setattr(quantisation, "_speed", lambda *_: speed)
    add_int8(made.path, images_of(60))
    assert ("0.8 times its speed here; serve the other by its name (--execution float32)" in caplog.text) is told


@pytest.mark.usefixtures("quick")
def test_quantising_again_replaces_it(made: Bundle) -> None:
    add_int8(made.path, images_of(60))
    first = bundle.read(made.path)
    add_int8(made.path, images_of(60))
    assert bundle.read(made.path) == first


def test_the_file_computes_in_int8_and_is_the_same_each_time(made: Bundle) -> None:
    first = quantise(made.file("model.onnx"), images_of(64).images, 0.25)
    model = onnx.load_from_string(first)
    assert {tensor.data_type for tensor in model.graph.initializer} >= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    assert quantise(made.file("model.onnx"), images_of(64).images, 0.25) == first


class _Rule:
    """Labels by a rule on the images' sums."""

    parallel = 1

    def __init__(self, flip: bool) -> None:
        self.shape, self.num_classes, self.identity = SHAPE, 3, {"runtime": "none"}
        self._flip = flip

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        means = pixels.mean(axis=(2, 3))
        return np.asarray(-means if self._flip else means, dtype=np.float32)


def test_equal_classifiers_agree_and_opposite_ones_are_not_acceptable() -> None:
    data = images_of(12)
    same = compare(_Rule(False), _Rule(False), data, 0.25)
    assert same.agreement == 1.0
    assert same.exact == same.quantised
    assert same.acceptable
    other = compare(_Rule(False), _Rule(True), data, 0.25)
    assert other.agreement < 0.5
    assert other.quantised == (0.0, 0.0, 0.0, 0.0)
    assert not other.acceptable


@pytest.mark.parametrize(
    ("agreement", "quantised", "acceptable"),
    [(1.0, 0.5, True), (0.96, 0.48, True), (0.94, 0.5, False), (1.0, 0.46, False), (1.0, 0.9, True)],
)
def test_what_is_acceptable(agreement: float, quantised: float, acceptable: bool) -> None:
    assert Comparison(agreement, 200, (0.0, 0.1), (0.9, 0.5), (0.9, quantised)).acceptable is acceptable


@pytest.mark.usefixtures("quick")
def test_a_worse_classifier_is_refused_and_the_bundle_left_alone(made: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation, "_SMALLEST_AGREEMENT", 1.01)
    with pytest.raises(RecipeError, match=r"not as good as the float one: .* of the draws"):
        add_int8(made.path, images_of(60))
    assert bundle.read(made.path) == made


def test_too_few_images_are_refused(made: Bundle) -> None:
    with pytest.raises(RecipeError, match="needs 20 images at least, to calibrate and to compare, not 19"):
        add_int8(made.path, images_of(19))


def _with_broken_scale(contents: bytes) -> bytes:
    """The file, with the scale of one layer's weights a hundred times what it was, for one class only."""
    model = onnx.load_from_string(contents)
    for tensor in model.graph.initializer:
        array: Any = numpy_helper.to_array(tensor)
        if "dense" in tensor.name and array.dtype == np.float32:
            broken = np.array(array)
            broken.reshape(-1)[0] *= 100
            tensor.CopyFrom(numpy_helper.from_array(broken, tensor.name))
    changed: bytes = model.SerializeToString()
    assert changed != contents
    return changed


@pytest.mark.usefixtures("quick", "vnni")
def test_a_damaged_scale_is_not_served_the_float_classifier_is(made: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    add_int8(made.path, images_of(60))
    found = bundle.read(made.path)
    for name in ("int8", "int8-7bit"):
        broken = _with_broken_scale(found.file(f"model.{name}.onnx").read_bytes())
        bundle.extend(made.path, {f"model.{name}.onnx": broken}, [found.execution(name)], {})
    with caplog.at_level(logging.WARNING, "certserve.backends"):
        loaded = backends.load(bundle.read(made.path))
    assert loaded.name in ("bfloat16", "float32")
    assert "of the labels of its probes that it was accepted with" in caplog.text
    assert "another execution than int8 serves instead" in caplog.text
    assert "another execution than int8-7bit serves instead" in caplog.text


def test_probe_labels_do_not_depend_on_the_rows_at_once(made: Bundle) -> None:
    backend = OpenVinoBackend(made.file("model.onnx"), "float32", SHAPE)
    assert probe_labels(backend, 21, 0.25, 8) == probe_labels(backend, 21, 0.25, 1)
