"""Refuses, from the graph alone, ONNX models whose rows influence each other or that draw random numbers.

What the graph does not show, `certserve.backends.checks` finds by running the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.shape_inference

from certserve.errors import BundleError, ModelRefused

__all__ = ["refuse_coupled_rows"]

_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_ALONG_AXIS = frozenset({"Softmax", "LogSoftmax", "Hardmax", "ArgMax", "ArgMin", "TopK", "LpNormalization"})
_BATCH_SCALED = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})


def refuse_coupled_rows(path: Path) -> None:
    """Return if no node of the graph is known to couple rows.

    Raises:
        BundleError: the file is no ONNX model, or not all of one.
        ModelRefused: a node draws random numbers, normalises by batch statistics, quantises by a scale taken
            from the whole batch, or reduces over the batch axis; the node is named.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's and onnx's exceptions share no base but Exception
        raise BundleError(f"{path}: not a readable ONNX model: {error}") from error
    nodes = [node for body in (model.graph, *model.functions) for node in _nodes(body)]
    if any(tensor.data_location == tensor.EXTERNAL for tensor in _tensors(model.graph, nodes)):
        raise BundleError(f"{path}: keeps weights in other files, which no digest covers; create the bundle again")
    known = _Known(_constants(model, nodes), _lengths(model))
    for node in nodes:
        reason = _objection(node, known)
        if reason:
            raise ModelRefused(f"{path}: node {node.name or node.op_type!r} ({node.op_type}) {reason}")


def _tensors(graph: Any, nodes: list[Any]) -> Iterator[Any]:
    """Every stored tensor, those of nested graphs and of attributes included."""
    yield from graph.initializer
    for node in nodes:
        for attribute in node.attribute:
            yield from [attribute.t] if attribute.HasField("t") else attribute.tensors
            for nested in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from nested.initializer


@dataclass(frozen=True, slots=True)
class _Known:
    """What the graph tells of its values: constant tensors, and the lengths of axes (None: free)."""

    constants: dict[str, Any]
    lengths: dict[str, list[int | None]]


def _constants(model: Any, nodes: list[Any]) -> dict[str, Any]:
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in nodes:
        if node.op_type == "Constant":
            found.update((node.output[0], value.t) for value in node.attribute if value.name == "value")
    return found


def _lengths(model: Any) -> dict[str, list[int | None]]:
    """The axes of every value whose rank can be inferred."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # inference is a help, not a duty: what it cannot say is judged without it
        return {}
    tensors = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info, *graph.output)}
    return {
        name: [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
        for name, tensor in tensors.items()
        if tensor.HasField("shape")
    }


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _objection(node: Any, known: _Known) -> str | None:
    """Why the node may not be part of a base classifier, or None."""
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
    if node.op_type in _RANDOM:
        return "draws random numbers: a base classifier is a fixed function"
    if node.op_type in _BATCH_SCALED:
        return "takes its scale from the whole batch: quantise the model statically"
    if node.op_type == "BatchNormalization" and values.get("training_mode", 0):
        return "is in training mode: export the model in evaluation mode"
    if node.op_type == "Dropout" and len(node.input) > 2 and _is_true(known.constants.get(node.input[2])):
        return "is in training mode: export the model in evaluation mode"
    if node.op_type in _ALONG_AXIS and "axis" in values and _is_batch_axis(node, [values["axis"]], known):
        return "works over the batch axis"
    if (
        node.op_type.startswith("Reduce")
        and node.op_type != "ReduceProd"
        and _is_batch_axis(node, _axes(node, values, known), known)
    ):
        return "reduces over the batch axis"
    return None


def _axes(node: Any, values: dict[str, Any], known: _Known) -> list[int]:
    """The axes that a Reduce node names; [0] where it names none, which means all of them."""
    if "axes" in values:
        return list(values["axes"])
    if len(node.input) > 1 and node.input[1]:
        tensor = known.constants.get(node.input[1])
        if tensor is None:
            return []  # computed: left to the checks by running
        axes = [int(axis) for axis in onnx.numpy_helper.to_array(tensor).reshape(-1)]
        if axes:
            return axes
    return [] if values.get("noop_with_empty_axes", 0) else [0]


def _is_batch_axis(node: Any, axes: list[int], known: _Known) -> bool:
    """Whether one of the axes is the first one, and that one is not of a fixed length: the batch's is free."""
    if node.input[0] in known.constants:
        return False
    lengths = known.lengths.get(node.input[0])
    if lengths is None:
        return 0 in axes
    if not lengths or lengths[0] is not None:
        return False
    return any(axis % len(lengths) == 0 for axis in axes)


def _is_true(tensor: Any) -> bool:
    return tensor is not None and bool(onnx.numpy_helper.to_array(tensor).any())
