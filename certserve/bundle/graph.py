"""A user's ONNX classifier, checked, and its normalisation made the first nodes of its graph.

Noise is added to pixels in [0, 1], so what a bundle stores must take those: the normalisation belongs inside f.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from certserve.errors import BundleError

__all__ = ["bake", "check_output", "load", "precision", "serialised", "settle_shape"]

_OLDEST_OPSET = 7  # since then Sub and Div broadcast as numpy does
_SEPARATE_INITIALISERS = 4  # the IR version since which initialisers need not be inputs too
_FLOAT = 1  # TensorProto.FLOAT
_FLOAT16 = 10  # TensorProto.FLOAT16
_BYTES = (2, 3)  # TensorProto.UINT8 and .INT8
_LAYERS = ("Conv", "Gemm", "MatMul")
_REFUSED = (
    "has {found}; a classifier has one float32 input [batch, channels, height, width] and logits [batch, classes]"
)


def load(path: Path) -> tuple[Any, str]:
    """The model, external data folded in, and the SHA-256 of its file.

    Raises:
        BundleError: no valid ONNX model, or its external data is missing.
    """
    onnx = _onnx()
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"cannot be read ({error.strerror}); give the path of an ONNX file") from error
    if _is_pickle(path):
        raise BundleError("is a pickle, which can run any code when it is opened, so it never is; export the model "
                          "to ONNX, or to a .pt2 file with torch.export.save")  # fmt: skip
    try:
        model = onnx.load(path)
        _add_output_shape(model)
        onnx.checker.check_model(model)
    except Exception as error:  # onnx's, protobuf's and the system's exceptions share no base but Exception
        raise BundleError(f"is not a valid ONNX model ({_first_line(error)}); export it again") from error
    return model, digest


def settle_shape(model: Any, shape: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """(channels, height, width) from the graph, or from `shape` where the graph is symbolic, and into the graph.

    Raises:
        BundleError: the input is not a classifier's, its batch axis is fixed, or it contradicts `shape`.
    """
    tensor = _source(model).type.tensor_type
    dims = tensor.shape.dim
    if tensor.elem_type != _FLOAT or len(dims) != 4:
        found = f"an input of element type {tensor.elem_type} and {len(dims)} axes"
        raise BundleError(_REFUSED.format(found=found))
    if dims[0].HasField("dim_value"):
        raise BundleError(
            f"has its batch axis fixed at {dims[0].dim_value}; export it again with a free one, for example "
            "torch.onnx.export(..., input_names=['input'], dynamic_axes={'input': {0: 'batch'}})"
        )
    known = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims[1:]]
    if shape is None and None in known:
        raise BundleError(f"leaves the input's axes {known} open; say the shape (channels, height, width)")
    settled = shape or (dims[1].dim_value, dims[2].dim_value, dims[3].dim_value)
    if any(length not in (None, said) for length, said in zip(known, settled, strict=True)):
        raise BundleError(f"takes inputs of shape {known}, which contradicts the shape {settled} that was given")
    for dim, length in zip(dims[1:], settled, strict=True):
        dim.dim_value = length
    return settled


def check_output(model: Any, classes: int) -> None:
    """Return if the graph's first output can be logits of so many classes; unknown axes are left to the backend.

    Raises:
        BundleError: it cannot.
    """
    tensor = model.graph.output[0].type.tensor_type
    if tensor.elem_type != _FLOAT:
        raise BundleError(_REFUSED.format(found=f"a first output of element type {tensor.elem_type}"))
    dims = tensor.shape.dim
    if len(dims) != 2:
        raise BundleError(_REFUSED.format(found=f"a first output of {len(dims)} axes"))
    if dims[1].HasField("dim_value") and dims[1].dim_value != classes:
        raise BundleError(f"has {dims[1].dim_value} outputs, but {classes} labels were given; name every class once")


def bake(model: Any, mean: Sequence[float], std: Sequence[float]) -> None:
    """Make (x - mean) / std, per channel, the graph's first nodes; its input keeps its name.

    Raises:
        BundleError: the model's opset is too old for it.
    """
    onnx = _onnx()
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST_OPSET:
        raise BundleError(f"is of opset {opset}, too old for a normalisation; export it with opset 13 or later")
    graph, source = model.graph, _source(model).name
    taken = set(_names(graph))
    names = {part: _fresh(f"certserve_{part}", taken) for part in ("mean", "std", "centred", "normalised")}
    for node in _nodes(graph):
        node.input[:] = [names["normalised"] if name == source else name for name in node.input]
    for part, values in (("mean", mean), ("std", std)):
        array = np.asarray(values, dtype=np.float32).reshape(1, -1, 1, 1)
        graph.initializer.append(onnx.numpy_helper.from_array(array, names[part]))
        if model.ir_version < _SEPARATE_INITIALISERS:
            graph.input.append(onnx.helper.make_tensor_value_info(names[part], _FLOAT, array.shape))
    first = [
        onnx.helper.make_node("Sub", [source, names["mean"]], [names["centred"]], name=names["centred"]),
        onnx.helper.make_node("Div", [names["centred"], names["std"]], [names["normalised"]], name=names["normalised"]),
    ]
    nodes = [*first, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def precision(model: Any) -> str:
    """In what most of the graph computes.

    Where it is quantised "int8", or "int8-7bit" if the weights of all its quantised layers are found and lie in
    -64..64; else "float16" where weights are, else "float32".
    """
    tensors = [tensor for graph in _graphs(model.graph) for tensor in graph.initializer]
    if any("QuantizeLinear" in node.op_type or node.op_type.startswith("QLinear") for node in _nodes(model.graph)):
        return "int8-7bit" if _has_7bit_weights(model, tensors) else "int8"
    if any(tensor.data_type == _FLOAT16 for tensor in tensors):
        return "float16"
    return "float32"


def _has_7bit_weights(model: Any, tensors: list[Any]) -> bool:
    floats = {t.name for t in tensors if t.data_type == _FLOAT}
    layers = sum(
        any(kind in node.op_type for kind in _LAYERS) and not (node.op_type in _LAYERS and node.input[1] in floats)
        for node in _nodes(model.graph)
    )
    weights = [_onnx().numpy_helper.to_array(t) for t in tensors if t.data_type in _BYTES and len(t.dims) > 1]
    return 0 < layers <= len(weights) and all(-64 <= w.min(initial=0) <= w.max(initial=0) <= 64 for w in weights)


def serialised(model: Any) -> bytes:
    """The model as one file's contents.

    Raises:
        BundleError: it is no longer valid, or larger than the 2 GiB that one ONNX file can hold.
    """
    try:
        _onnx().checker.check_model(model)
        return bytes(model.SerializeToString())
    except Exception as error:  # as in `load`
        raise BundleError(f"cannot be stored as one ONNX file ({_first_line(error)})") from error


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise BundleError("needs the package onnx to be read; install certserve[server]") from error
    return onnx


def _add_output_shape(model: Any) -> None:
    """Logits have two axes; the checker wants that said, and some exporters do not say it."""
    for value in model.graph.output[:1]:
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.dim.add()
            value.type.tensor_type.shape.dim.add()


def _source(model: Any) -> Any:
    """The graph's one input that is no initialiser."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    if len(inputs) != 1:
        found = f"the inputs {[value.name for value in inputs]}"
        raise BundleError(_REFUSED.format(found=found))
    return inputs[0]


def _graphs(graph: Any) -> Iterator[Any]:
    """The graph and every one nested in its nodes; those see the outer graph's names."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for nested in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _graphs(nested)


def _nodes(graph: Any) -> Iterator[Any]:
    for each in _graphs(graph):
        yield from each.node


def _names(graph: Any) -> Iterator[str]:
    """Every name of a value or node."""
    for each in _graphs(graph):
        for named in (*each.input, *each.output, *each.initializer, *each.value_info):
            yield named.name
        for node in each.node:
            yield from (node.name, *node.input, *node.output)


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _is_pickle(path: Path) -> bool:
    """Whether it is what pickle or torch.save writes."""
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                return any(Path(name).name == "data.pkl" for name in archive.namelist())
        except zipfile.BadZipFile:
            return False
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
