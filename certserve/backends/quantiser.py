"""ONNX Runtime's quantiser: a float32 ONNX file -> the same network in int8 (QDQ, static, per channel)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from certserve.errors import BackendFailed

__all__ = ["quantise"]

# A ReLU is the lower end of its output's range: with it, one rounding in place of two, and no pass of its own.
_QUANTISED = ("Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "AveragePool", "MaxPool")
_LAYERS = ("Conv", "Gemm", "MatMul")
_OPSET = 13  # the oldest in which scales may differ by channel
_SEPARATE_INITIALISERS = 4  # the IR version since which initialisers need not be inputs too
_AFTER_LOGITS = ("Flatten", "Reshape", "Softmax", "LogSoftmax")  # a bias is in the layer by then


def quantise(model: Path, batches: Iterable[npt.NDArray[np.float32]], *, weight_bits: int = 8) -> bytes:
    """An int8 ONNX file of a float32 one: unsigned activations, signed weights, ranges from the given inputs.

    A range is the mean of the batches' own, so that a single far value does not coarsen all the others. A dense layer
    that makes the logits stays in float32: it costs little, and its rounding would move every label.

    Args:
        batches: inputs such as those it will be served, (rows, channels, height, width) each.
        weight_bits: 8, or 7, whose products with bytes can be added two at a time in 16 bits.

    Raises:
        BackendFailed: the quantiser cannot do it.
    """
    root = logging.getLogger()
    root.addFilter(_is_error)  # the quantiser advises on the root logger
    try:
        with tempfile.TemporaryDirectory() as folder:
            raised, ready, done = (Path(folder) / name for name in ("raised.onnx", "ready.onnx", "int8.onnx"))
            onnx.save(_raised(onnx.load(model)), raised)
            quant_pre_process(raised, ready, skip_symbolic_shape=True)
            graph = _named(ready)
            left_out = [*_dense_logits(graph), *_of_activations(graph)]
            if not any(node.op_type in _LAYERS and node.name not in left_out for node in graph.node):
                raise BackendFailed(f"{model}: has no layer that can be quantised: {', '.join(_LAYERS)} with weights")
            quantize_static(
                ready,
                done,
                _Calibration(graph.input[0].name, batches),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTISED),
                nodes_to_exclude=left_out,
                per_channel=True,
                reduce_range=weight_bits == 7,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"CalibMovingAverage": True},
            )
            return done.read_bytes()
    except BackendFailed:
        raise
    except Exception as error:  # the quantiser's exceptions share no base but Exception
        raise BackendFailed(f"{model}: ONNX Runtime cannot quantise it: {error}") from error
    finally:
        root.removeFilter(_is_error)


def _raised(model: Any) -> Any:
    """The model in an opset that has scales by channel, with its input the only one."""
    stored = {tensor.name for tensor in model.graph.initializer}
    for value in [each for each in model.graph.input if each.name in stored]:
        model.graph.input.remove(value)
    model.ir_version = max(model.ir_version, _SEPARATE_INITIALISERS)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), _OPSET)
    return onnx.version_converter.convert_version(model, _OPSET) if opset < _OPSET else model


def _of_activations(graph: Any) -> list[str]:
    """The names of the products of two activations (attention's): no weights to make smaller, and slower in bytes."""
    made = {graph.input[0].name, *(name for node in graph.node if node.op_type != "Constant" for name in node.output)}
    return [node.name for node in graph.node if node.op_type == "MatMul" and made.issuperset(node.input)]


def _named(path: Path) -> Any:
    """The file's graph, after giving each of its nodes a name, by which the quantiser tells them apart."""
    model = onnx.load(path)
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}/{i}"
    onnx.save(model, path)
    return model.graph


def _dense_logits(graph: Any) -> list[str]:
    """The name of the dense layer whose output the logits are; none where it is the network's only layer."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in _AFTER_LOGITS:
        node = makers.get(node.input[0])
    others = [each for each in graph.node if each.op_type in _LAYERS and each is not node]
    return [node.name] if others and node is not None and node.op_type in ("Gemm", "MatMul") else []


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """The inputs under the name that the graph gives them."""

    def __init__(self, name: str, batches: Iterable[npt.NDArray[np.float32]]) -> None:
        self._name = name
        self._batches: Iterator[npt.NDArray[np.float32]] = iter(batches)

    def get_next(self) -> Mapping[str, npt.NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}
