"""ONNX Runtime's quantiser: a float32 ONNX file -> the same network in int8 (QDQ, static, per channel)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from certserve.errors import BackendFailed

__all__ = ["quantise"]

_QUANTISED = ("Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool", "AveragePool", "MaxPool")


def quantise(model: Path, batches: Iterable[npt.NDArray[np.float32]], *, weight_bits: int = 8) -> bytes:
    """An int8 ONNX file of a float32 one: unsigned activations, signed weights, ranges from the given inputs.

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
            ready, done = Path(folder) / "ready.onnx", Path(folder) / "int8.onnx"
            quant_pre_process(model, ready, skip_symbolic_shape=True)
            quantize_static(
                ready,
                done,
                _Calibration(onnx.load(ready).graph.input[0].name, batches),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTISED),
                per_channel=True,
                reduce_range=weight_bits == 7,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            return done.read_bytes()
    except Exception as error:  # the quantiser's exceptions share no base but Exception
        raise BackendFailed(f"{model}: ONNX Runtime cannot quantise it: {error}") from error
    finally:
        root.removeFilter(_is_error)


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
