"""ONNX Runtime on the CPU: any ONNX classifier whose batch axis is free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from certserve.backends.checks import count_classes
from certserve.backends.graph import refuse_coupled_rows
from certserve.backends.processor import cores, instruction_set
from certserve.errors import BackendFailed, BundleError, ModelRefused

__all__ = ["OnnxBackend"]


class OnnxBackend:
    """A classifier from an ONNX file that takes noisy [0, 1] pixels, normalisation included in its graph.

    Args:
        path: the file. precision: as the bundle states it. threads: compute threads; default all cores.

    Raises:
        BundleError: the file cannot be loaded.
        ModelRefused: its inputs or outputs are not those of a classifier, or its graph couples rows.
    """

    def __init__(self, path: Path, precision: str, threads: int | None = None) -> None:
        refuse_coupled_rows(path)
        threads = threads or cores()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            raise BundleError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        session.disable_fallback()
        self._session = session
        self._input, self.shape = _input_of(session, path)
        self._output = session.get_outputs()[0].name
        self.num_classes = count_classes(self)
        self.identity: Mapping[str, str] = {
            "runtime": "onnxruntime",
            "version": onnxruntime.__version__,
            "precision": precision,
            "device": "cpu",
            "threads": str(threads),
            "instructions": instruction_set(),
        }

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of shape (rows, num_classes) for pixels of shape (rows, *shape)."""
        try:
            (logits,) = self._session.run([self._output], {self._input: pixels})
        except Exception as error:  # as above
            raise BackendFailed(f"ONNX Runtime failed on a batch of {len(pixels)} rows: {error}") from error
        return np.asarray(logits, dtype=np.float32)


def _input_of(session: onnxruntime.InferenceSession, path: Path) -> tuple[str, tuple[int, int, int]]:
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
        found = [(i.name, i.type, i.shape) for i in inputs]
        raise ModelRefused(f"{path}: expected one float32 input [batch, channels, height, width], found {found}")
    batch, *rest = inputs[0].shape
    if isinstance(batch, int):
        raise ModelRefused(f"{path}: the batch axis is fixed at {batch}; export the model with a free batch axis")
    if not all(isinstance(length, int) and length > 0 for length in rest):
        raise ModelRefused(f"{path}: channels, height and width must be numbers, found {rest}")
    channels, height, width = rest
    return inputs[0].name, (channels, height, width)
