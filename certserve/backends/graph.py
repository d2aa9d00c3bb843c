"""Refuses, from the graph alone, ONNX models whose rows influence each other or that draw random numbers.

What the graph does not show, `certserve.backends.checks` finds by running the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from certserve.errors import BundleError, ModelRefused

__all__ = ["refuse_coupled_rows"]

_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_BATCH_SCALED = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})


def refuse_coupled_rows(path: Path) -> None:
    """Return if no node of the graph is known to couple rows.

    Raises:
        BundleError: the file is no ONNX model.
        ModelRefused: a node draws random numbers, normalises by batch statistics, quantises by a scale taken
            from the whole batch, or reduces over the batch axis; the node is named.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's and onnx's exceptions share no base but Exception
        raise BundleError(f"{path}: not a readable ONNX model: {error}") from error
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in (node for body in (model.graph, *model.functions) for node in _nodes(body)):
        reason = _objection(node, constants)
        if reason:
            raise ModelRefused(f"{path}: node {node.name or node.op_type!r} ({node.op_type}) {reason}")


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _objection(node: Any, constants: dict[str, Any]) -> str | None:
    """Why the node may not be part of a base classifier, or None."""
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
    if node.op_type in _RANDOM:
        return "draws random numbers: a base classifier is a fixed function"
    if node.op_type in _BATCH_SCALED:
        return "takes its scale from the whole batch: quantise the model statically"
    if node.op_type == "BatchNormalization" and values.get("training_mode", 0):
        return "is in training mode: export the model in evaluation mode"
    if node.op_type == "Dropout" and len(node.input) > 2 and _is_true(constants.get(node.input[2])):
        return "is in training mode: export the model in evaluation mode"
    if node.op_type in {"Softmax", "LogSoftmax", "Hardmax"} and values.get("axis") == 0:
        return "normalises over the batch axis"
    if node.op_type.startswith("Reduce") and node.op_type != "ReduceProd" and 0 in _axes(node, values, constants):
        return "reduces over the batch axis"
    return None


def _axes(node: Any, values: dict[str, Any], constants: dict[str, Any]) -> list[int]:
    if "axes" in values:
        return list(values["axes"])
    if len(node.input) > 1 and node.input[1] in constants:
        return [int(axis) for axis in onnx.numpy_helper.to_array(constants[node.input[1]])]
    return []  # all axes, or computed ones: left to the checks by running


def _is_true(tensor: Any) -> bool:
    return tensor is not None and bool(onnx.numpy_helper.to_array(tensor).any())
