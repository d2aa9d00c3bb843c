"""Tiny models that tests share: a good ONNX classifier, spoilt ones, a residual network, linear ones of known radius.

Test folders get this module as the fixture `models`. ONNX and torch are imported when a model of theirs is built, so
the linear models need no runtime.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from certserve.backends.linear import LinearBackend

SHAPE = (3, 8, 8)
CLASSES = 4

_OPSET = 17
_IR_VERSION = 8

Arrays = dict[str, npt.NDArray[Any]]


def waves(*shape: int, phase: float = 0.0) -> npt.NDArray[np.float32]:
    """Weights without a random generator: sines of incommensurable frequency."""
    sines: npt.NDArray[np.float64] = np.sin(phase + 1.7 * np.arange(math.prod(shape)))
    return sines.astype(np.float32).reshape(shape)


def linear(shape: tuple[int, int, int] = SHAPE, classes: int = CLASSES) -> LinearBackend:
    """A linear classifier whose weights touch every pixel."""
    return LinearBackend(waves(classes, math.prod(shape)).astype(np.float64), np.linspace(0.0, 1.0, classes), shape)


def half_space(shape: tuple[int, int, int], steps: Mapping[int, int], threshold: int) -> LinearBackend:
    """Class 1 where the sum of steps[j] * pixel j, in 1/255, is above threshold + 1/2; else class 0.

    On the grid that sum is an integer, so half a step of slack makes every label exact.
    """
    weights = np.zeros((2, math.prod(shape)))
    for pixel, step in steps.items():
        weights[1, pixel] = 255.0 * step
    return LinearBackend(weights, np.array([0.0, -(threshold + 0.5)]), shape)


def classifier_arrays() -> Arrays:
    """The weights of `classifier`."""
    return {
        "kernel": waves(5, SHAPE[0], 3, 3),
        "offset": waves(5, phase=1.0),
        "dense": waves(CLASSES, 5, phase=2.0),
        "bias": waves(CLASSES, phase=3.0),
    }


def classifier(path: Path) -> Path:
    """Convolution, ReLU, average over the image, dense layer: a good base classifier of SHAPE and CLASSES."""
    return save(path, _classifier_nodes("logits"), classifier_arrays())


def inference_only(path: Path) -> Path:
    """A good classifier with nodes that look like coupling: batch normalisation, reductions, a shape's product."""
    arrays = classifier_arrays() | {
        "one": np.ones(SHAPE[0], np.float32),
        "mean": np.full(SHAPE[0], 0.5, np.float32),
        "columns": np.array([-1, 5], np.int64),
    }
    nodes = [
        node("BatchNormalization", ["x", "one", "mean", "mean", "one"], ["normal"]),
        node("Conv", ["normal", "kernel", "offset"], ["map"], pads=[1, 1, 1, 1]),
        node("ReduceMean", ["map"], ["mean_map"], axes=[2, 3], keepdims=0),
        node("Shape", ["mean_map"], ["sizes"]),
        node("ReduceProd", ["sizes"], ["size"], axes=[0], keepdims=1),
        node("Reshape", ["mean_map", "size"], ["flat"]),
        node("Reshape", ["flat", "columns"], ["features"]),
        node("Gemm", ["features", "dense", "bias"], ["logits"], transB=1),
    ]
    return save(path, nodes, arrays)


def spoilt(path: Path, kind: str) -> Path:
    """The classifier with a tail that makes it unfit for smoothing, named in `_tails`."""
    extra: Arrays = {
        "ones": np.ones(CLASSES, np.float32),
        "zeros": np.zeros(CLASSES, np.float32),
        "axis": np.array(0, np.int64),
    }
    return save(path, [*_classifier_nodes("base"), *_tails()[kind]], classifier_arrays() | extra)


def _tails() -> dict[str, list[Any]]:
    """From "base" to "logits"; the first group is visible in the graph, the second only when run."""
    return {
        "batch_norm": [
            node(
                "BatchNormalization", ["base", "ones", "zeros", "zeros", "ones"], ["logits", "m", "v"], training_mode=1
            )
        ],
        "reduce_mean": [
            node("ReduceMean", ["base"], ["mean"], axes=[0], keepdims=1),
            node("Sub", ["base", "mean"], ["logits"]),
        ],
        "softmax": [node("Softmax", ["base"], ["logits"], axis=0)],
        "dynamic_quantise": [
            node("DynamicQuantizeLinear", ["base"], ["q", "scale", "zero"]),
            node("DequantizeLinear", ["q", "scale", "zero"], ["logits"]),
        ],
        "random": [
            node("RandomNormalLike", ["base"], ["noise"]),
            node("Add", ["base", "noise"], ["logits"]),
        ],
        "transposed_mean": [
            node("Transpose", ["base"], ["columns"], perm=[1, 0]),
            node("ReduceMean", ["columns"], ["means"], axes=[1], keepdims=1),
            node("Transpose", ["means"], ["row"], perm=[1, 0]),
            node("Sub", ["base", "row"], ["logits"]),
        ],
        "ones_row": [
            node("Transpose", ["base"], ["columns"], perm=[1, 0]),
            node("Gather", ["columns", "axis"], ["first"], axis=0),
            node("Sub", ["first", "first"], ["nought"]),
            node("Exp", ["nought"], ["row_of_ones"]),
            node("MatMul", ["row_of_ones", "base"], ["sum"]),
            node("Sub", ["base", "sum"], ["logits"]),
        ],
        "attention": [
            node("Gemm", ["base", "base"], ["likeness"], transB=1),
            node("Softmax", ["likeness"], ["share"], axis=1),
            node("MatMul", ["share", "base"], ["logits"]),
        ],
        "running_sum": [node("CumSum", ["base", "axis"], ["logits"])],
        "nan": [
            node("Exp", ["base"], ["positive"]),
            node("Neg", ["positive"], ["negative"]),
            node("Log", ["negative"], ["logits"]),
        ],
    }


def _classifier_nodes(output: str) -> list[Any]:
    return [
        node("Conv", ["x", "kernel", "offset"], ["map"], pads=[1, 1, 1, 1]),
        node("Relu", ["map"], ["active"]),
        node("GlobalAveragePool", ["active"], ["pooled"]),
        node("Flatten", ["pooled"], ["features"]),
        node("Gemm", ["features", "dense", "bias"], [output], transB=1),
    ]


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    """An ONNX node, named after its first output."""
    import onnx

    return onnx.helper.make_node(op, inputs, outputs, name=f"the_{outputs[0]}", **attributes)


def save(
    path: Path,
    nodes: Sequence[Any],
    arrays: Arrays,
    *,
    batch: str | int = "batch",
    inputs: Sequence[str] = ("x",),
    dtype: type[np.generic] = np.float32,
    output: Sequence[str | int] = ("batch", "classes"),
    functions: Sequence[Any] = (),
) -> Path:
    """Write a graph from `inputs`, each (batch, *SHAPE), to "logits", of shape `output`."""
    import onnx
    from onnx import helper

    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, element, [batch, *SHAPE]) for name in inputs],
        [helper.make_tensor_value_info("logits", element, output)],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    imports = [helper.make_opsetid("", _OPSET), helper.make_opsetid("local", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION, functions=functions)
    onnx.save(model, path)
    return path


def residual(
    shape: tuple[int, int, int] = SHAPE, stride: int = 1, stages: Sequence[tuple[int, int]] = ((8, 1), (16, 2))
) -> Any:
    """A residual network of CLASSES whose weights and batch statistics are all different, in evaluation mode."""
    import torch

    from certserve.backends.architectures import Residual, ResidualNetwork, Stage

    mean, std = (tuple(np.linspace(*ends, shape[0]).tolist()) for ends in ((0.4, 0.5), (0.2, 0.3)))
    described = Residual(shape, CLASSES, mean, std, stride, tuple(Stage(*stage) for stage in stages))
    network = ResidualNetwork(described)
    for index, (name, value) in enumerate(network.state_dict().items()):
        if value.is_floating_point():
            value.copy_(torch.from_numpy(_filling(name, tuple(value.shape), float(index))))
    return network.eval()


def _filling(name: str, shape: tuple[int, ...], phase: float) -> npt.NDArray[np.float32]:
    """Positive variances and scales, kernels that keep the size of what goes through them, other small numbers."""
    sines = waves(*shape, phase=phase)
    if name.endswith(("norm.weight", "running_var")):
        return np.float32(1) + sines / np.float32(2)
    return sines * np.float32(1.5 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.5)


def program(path: Path, function: Any = None, *, batch: int | None = None, shape: Sequence[int] = SHAPE) -> Path:
    """A file of torch.export.save: the residual network or another function, for any number of rows or for `batch`."""
    import torch

    class Wrapped(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return (function or network)(x)

    network = residual()
    free = None if batch else {"x": {0: torch.export.Dim("rows")}}
    exported = torch.export.export(Wrapped().eval(), (torch.zeros(batch or 2, *shape),), dynamic_shapes=free)
    torch.export.save(exported, path)
    return path
