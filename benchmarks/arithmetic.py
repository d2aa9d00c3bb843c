"""How many multiplications a network makes, and how many this processor can: large matrices, in each precision."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from certserve.backends.processor import cores

__all__ = ["multiplications", "products_per_second"]

_SIDE = 2048
_SECONDS = 1.5
_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32", "int8-7bit": "f32"}
_LARGEST = {"int8": 127, "int8-7bit": 64}  # of the weights


def multiplications(path: Path, shape: tuple[int, int, int]) -> int:
    """Multiply-adds of the convolutions and matrix products for one row of the model in an ONNX file."""
    model = onnx.load(path)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, length in zip(dims, (1, *shape), strict=True):
        dim.dim_value = length
    inferred = shape_inference.infer_shapes(model)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info}
    shapes |= {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.output}
    shapes |= {t.name: list(t.dims) for t in model.graph.initializer}
    total = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            total += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("Gemm", "MatMul"):
            total += math.prod(shapes[node.input[1]])
    return total


def products_per_second(precision: str) -> float:
    """Multiply-adds a second in the product of two large matrices, by OpenVINO on all cores: the best of several."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        onnx.save(_product(_LARGEST.get(precision)), path)
        options = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "INFERENCE_NUM_THREADS": cores(), "NUM_STREAMS": 1}
        request = openvino.Core().compile_model(path, "CPU", options).create_infer_request()
    rows = np.random.default_rng(0).standard_normal((_SIDE, _SIDE), dtype=np.float32)
    best, end = math.inf, time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        request.infer([rows], share_inputs=True)
        best = min(best, time.perf_counter() - start)
    return float(_SIDE**3 / best)


def _product(largest: int | None) -> onnx.ModelProto:
    """x W, quantised to bytes where a largest weight is given; of each row the largest, so that little is written."""
    weights = np.random.default_rng(1).standard_normal((_SIDE, _SIDE), dtype=np.float32)
    nodes, values = [], [numpy_helper.from_array(weights, "w")]
    left, right = "x", "w"
    if largest is not None:
        values = [
            numpy_helper.from_array(np.clip(np.rint(weights * largest / 4), -largest, largest).astype(np.int8), "w8"),
            numpy_helper.from_array(np.array(0.03, np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
            numpy_helper.from_array(np.array(128, np.uint8), "middle"),
        ]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "middle"], ["x8"]),
            helper.make_node("DequantizeLinear", ["x8", "scale", "middle"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w8", "scale", "zero"], ["wd"]),
        ]
        left, right = "xd", "wd"
    nodes += [
        helper.make_node("MatMul", [left, right], ["product"]),
        helper.make_node("ReduceMax", ["product"], ["y"], axes=[1], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [_SIDE, _SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [_SIDE])],
        values,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
