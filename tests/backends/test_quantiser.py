"""What the quantiser puts into 8 bits, what it leaves in float32, and over which ranges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from certserve.backends.openvino import OpenVinoBackend
from certserve.backends.quantiser import quantise
from certserve.errors import BackendFailed

SHAPE = (2, 4, 4)
FEATURES = SHAPE[0] * SHAPE[1] * SHAPE[2]


def saved(folder: Path, nodes: Sequence[Any], arrays: dict[str, npt.NDArray[np.float32]]) -> Path:
    """A network from `input` to `logits`, of opset 17."""
    inputs = [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", *SHAPE])]
    outputs = [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 3])]
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(list(nodes), "network", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def normal(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.Generator(np.random.PCG64(seed)).normal(size=shape).astype(np.float32)


def residual(folder: Path) -> Path:
    """Two convolutions with a branch around the second, each with a ReLU after it, then a dense layer."""
    nodes = [
        helper.make_node("Conv", ["input", "first"], ["one"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["one"], ["one.out"]),
        helper.make_node("Conv", ["one.out", "second"], ["two"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["two", "one.out"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["two.out"]),
        helper.make_node("Flatten", ["two.out"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense", "bias"], ["logits"]),
    ]
    arrays = {
        "first": normal(2, 2, 3, 3, seed=1),
        "second": normal(2, 2, 3, 3, seed=2),
        "dense": normal(FEATURES, 3, seed=3),
        "bias": normal(3, seed=4),
    }
    return saved(folder, nodes, arrays)


def batches(count: int = 4, rows: int = 64) -> list[npt.NDArray[np.float32]]:
    return [normal(rows, *SHAPE, seed=10 + i) for i in range(count)]


def graph_of(contents: bytes) -> Any:
    return onnx.load_from_string(contents).graph


def logits(contents: bytes, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What the graph says, with nothing fused."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(contents, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": pixels})[0])


def test_a_relu_is_the_end_of_its_range(tmp_path: Path) -> None:
    """A value that is rounded before its ReLU and after it, or a ReLU that is lost, fails."""
    path = residual(tmp_path)
    contents = quantise(path, batches())
    nodes = graph_of(contents).node
    assert "Relu" not in {node.op_type for node in nodes}
    rounded = [node.input[0] for node in nodes if node.op_type == "QuantizeLinear"]
    assert rounded == ["input", "one.out", "two", "two.out"]
    pixels = normal(256, *SHAPE, seed=5)
    exact = logits(path.read_bytes(), pixels)
    assert np.abs(logits(contents, pixels) - exact).mean() < 0.02 * exact.std()


@pytest.mark.parametrize("after", [[], ["Softmax"], ["Add", "LogSoftmax"], ["Flatten", "Softmax"]])
def test_the_layer_that_makes_the_logits_stays_in_float32(tmp_path: Path, after: list[str]) -> None:
    """A dense layer among others is quantised; the last is not, whatever merely follows it."""
    chain = ["scores", "shifted", "logits"][-len(after) - 1 :]
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "hidden"], ["values"]),
        helper.make_node("Relu", ["values"], ["features"]),
        helper.make_node("MatMul", ["features", "dense"], [chain[0]]),
        *(
            helper.make_node(kind, [a, "bias"] if kind == "Add" else [a], [b])
            for kind, a, b in zip(after, chain, chain[1:], strict=False)
        ),
    ]
    arrays = {"hidden": normal(FEATURES, 8, seed=1), "dense": normal(8, 3, seed=2), "bias": normal(3, seed=3)}
    graph = graph_of(quantise(saved(tmp_path, nodes, arrays), batches()))
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    layers = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    assert [layer.input[1] in floats for layer in layers] == [False, True]


def test_a_network_of_one_layer_is_quantised(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense", "bias"], ["logits"]),
    ]
    arrays = {"dense": normal(FEATURES, 3, seed=1), "bias": normal(3, seed=2)}
    graph = graph_of(quantise(saved(tmp_path, nodes, arrays), batches()))
    (layer,) = [node for node in graph.node if node.op_type == "Gemm"]
    assert layer.input[1] in {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}


@pytest.mark.parametrize("opset", [8, 11, 12])
def test_an_older_opset_is_raised(tmp_path: Path, opset: int) -> None:
    """Scales by channel came with 13: a file that no runtime reads fails. Its weights may be inputs too, as of old."""
    nodes = [
        helper.make_node("Conv", ["input", "first"], ["one"], pads=[1, 1, 1, 1]),
        helper.make_node("Flatten", ["one"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense", "bias"], ["logits"]),
    ]
    arrays = {
        "first": normal(2, 2, 3, 3, seed=1),
        "dense": normal(FEATURES, 3, seed=3),
        "bias": normal(3, seed=4),
    }
    model = onnx.load(saved(tmp_path, nodes, arrays))
    model.opset_import[0].version, model.ir_version = opset, 3
    image = model.graph.input[0]
    weights = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape) for name, array in arrays.items()
    ]
    del model.graph.input[:]
    model.graph.input.extend([*weights, image])
    onnx.save(model, tmp_path / "old.onnx")
    contents = quantise(tmp_path / "old.onnx", batches())
    (tmp_path / "quantised.onnx").write_bytes(contents)
    pixels = normal(64, *SHAPE, seed=5)
    exact = logits((tmp_path / "old.onnx").read_bytes(), pixels)
    found = OpenVinoBackend(tmp_path / "quantised.onnx", "int8-7bit", SHAPE).logits(pixels)
    assert np.abs(found - exact).mean() < 0.1 * exact.std()


def test_a_product_of_activations_stays_in_float32(tmp_path: Path) -> None:
    """It has no weights to make smaller; rounded, attention gets coarser and slower."""
    nodes = [
        helper.make_node("Reshape", ["input", "as rows"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "query"], ["queries"]),
        helper.make_node("Transpose", ["tokens"], ["keys"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["queries", "keys"], ["attention"]),
        helper.make_node("Flatten", ["attention"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense"], ["logits"]),
    ]
    arrays: dict[str, Any] = {
        "as rows": np.array([0, 2, 16], np.int64),
        "query": normal(16, 16, seed=1),
        "dense": normal(4, 3, seed=2),
    }
    graph = graph_of(quantise(saved(tmp_path, nodes, arrays), batches()))
    made = {name: node.op_type for node in graph.node for name in node.output}
    layer, product = (
        [made.get(name) for name in node.input].count("DequantizeLinear")
        for node in graph.node
        if node.op_type == "MatMul"
    )
    assert layer == 2
    assert product < 2


def test_a_network_without_layers_that_can_be_quantised_is_refused(tmp_path: Path) -> None:
    """Called int8 although everything is computed in float32, it would say something untrue."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Einsum", ["flat", "dense"], ["logits"], equation="bi,ij->bj"),
    ]
    path = saved(tmp_path, nodes, {"dense": normal(2, 3, seed=1)})
    with pytest.raises(BackendFailed, match="has no layer that can be quantised"):
        quantise(path, batches())


def test_a_range_is_the_mean_of_the_batches_ranges(tmp_path: Path) -> None:
    """Taken over all values, one far one would double it."""
    given = [np.full((2, *SHAPE), 0.5, np.float32) for _ in range(10)]
    for batch in given:
        batch[0], batch[1] = -1.0, 1.0
    given[3][0, 0, 0, 0], given[3][1, 0, 0, 0] = -3.0, 3.0
    graph = graph_of(quantise(residual(tmp_path), given))
    (scale,) = [numpy_helper.to_array(t) for t in graph.initializer if t.name == "input_scale"]
    assert float(scale) * 255 == pytest.approx(2.4, rel=1e-3)
