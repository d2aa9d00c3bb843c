"""ONNX Runtime, on the CPU or by its CUDA provider: any ONNX classifier whose batch axis is free."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from certserve.backends.checks import count_classes
from certserve.backends.failures import failure
from certserve.backends.graph import refuse_coupled_rows
from certserve.backends.processor import cores_each, instruction_set
from certserve.errors import BundleError, ModelRefused

__all__ = ["OnnxBackend", "OnnxCudaBackend", "OnnxNetwork"]

# Kernels that round alike for every number of rows: float32 that is not shortened, and no search by stopwatch.
_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})


class OnnxNetwork:
    """Any network of images in an ONNX file, on the CPU: float32 (rows, channels, height, width) to one array.

    Args:
        path: the file. precision: as the bundle states it.
        parallel, threads: how many batches run at once, and on how many threads each; default: all cores, see
            `certserve.backends.processor.cores_each`.

    Raises:
        BundleError: the file cannot be loaded.
        ModelRefused: its inputs are not images, or its graph couples rows.
    """

    def __init__(self, path: Path, precision: str, *, parallel: int | None = None, threads: int | None = None) -> None:
        most, each = cores_each()
        self.parallel, threads = parallel or most, threads or each
        self._session = _session(path, threads, "CPUExecutionProvider")
        self._input, self.shape = _input_of(self._session, path)
        self._output = self._session.get_outputs()[0].name
        self.identity: Mapping[str, str] = {
            **_identity(precision),
            "device": "cpu",
            "threads": str(threads),
            "instructions": instruction_set(),
        }

    def run(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The first output for pixels of shape (rows, *shape)."""
        try:
            (output,) = self._session.run([self._output], {self._input: pixels})
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            raise failure("ONNX Runtime", len(pixels), error) from error
        return np.asarray(output, dtype=np.float32)


class OnnxBackend:
    """A classifier from an ONNX file that takes noisy [0, 1] pixels, normalisation included in its graph; on the CPU.

    Args:
        The same as of `OnnxNetwork`.

    Raises:
        BundleError, ModelRefused: as `OnnxNetwork`, or its output is not that of a classifier.
    """

    def __init__(self, path: Path, precision: str, *, parallel: int | None = None, threads: int | None = None) -> None:
        self._network = OnnxNetwork(path, precision, parallel=parallel, threads=threads)
        self.parallel, self.shape, self.identity = self._network.parallel, self._network.shape, self._network.identity
        self.num_classes = count_classes(self)

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of shape (rows, num_classes) for pixels of shape (rows, *shape)."""
        return self._network.run(pixels)


class OnnxCudaBackend:
    """The same on a CUDA device, with inputs and outputs bound to its memory. Not yet verified on a GPU.

    Args:
        path: the file. precision: as the bundle states it.

    Raises:
        BundleError: the file cannot be loaded, or ONNX Runtime cannot use CUDA here: the CPU never takes its place.
        ModelRefused: as `OnnxBackend`.
    """

    parallel = 1

    def __init__(self, path: Path, precision: str) -> None:
        self._session = _session(path, 1, _CUDA)
        self._input, self.shape = _input_of(self._session, path)
        self._output = self._session.get_outputs()[0].name
        self._own = threading.local()  # each thread's binding, by number of rows
        self.num_classes = count_classes(self)
        self.identity: Mapping[str, str] = {**_identity(precision), "device": "cuda"}

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of shape (rows, num_classes) for pixels of shape (rows, *shape)."""
        try:
            rows, binding = self._bound(pixels)
            rows.update_inplace(np.ascontiguousarray(pixels))
            self._session.run_with_iobinding(binding)
            return np.array(binding.get_outputs()[0].numpy(), dtype=np.float32)
        except Exception as error:  # as above
            raise failure("ONNX Runtime on CUDA", len(pixels), error) from error

    def _bound(self, pixels: npt.NDArray[np.float32]) -> tuple[Any, Any]:
        """This thread's input on the device for so many rows, and the binding that holds it."""
        bound: dict[int, tuple[Any, Any]] = self._own.__dict__.setdefault("bound", {})
        if len(pixels) not in bound:
            rows = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(pixels), "cuda", 0)
            binding = self._session.io_binding()
            binding.bind_ortvalue_input(self._input, rows)
            binding.bind_output(self._output, "cuda", 0)
            bound[len(pixels)] = rows, binding
        return bound[len(pixels)]


def _session(path: Path, threads: int, provider: str | tuple[str, dict[str, str]]) -> onnxruntime.InferenceSession:
    """A session by that provider, and by no other in its place."""
    refuse_coupled_rows(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised here, in words of our own
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[provider])
    except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
        raise BundleError(f"{path}: ONNX Runtime cannot load it: {error}") from error
    session.disable_fallback()
    wanted = provider if isinstance(provider, str) else provider[0]
    if wanted not in session.get_providers():
        raise BundleError(
            f"{path}: ONNX Runtime's {wanted} does not load on this machine (no device, or CUDA and cuDNN libraries "
            "of another version than it was built for); nothing else takes its place: name another execution"
        )
    return session


def _identity(precision: str) -> dict[str, str]:
    return {"runtime": "onnxruntime", "version": onnxruntime.__version__, "precision": precision}


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
