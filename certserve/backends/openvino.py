"""OpenVINO on the CPU: float32, bfloat16, and int8 from a quantised ONNX file; the fast way to serve without a GPU."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# With its telemetry package, merely importing OpenVINO leaves an identifier in the home directory, and its converter
# sends usage data. Where that package cannot be imported, OpenVINO takes a stub of its own that does nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino

from certserve.backends.checks import count_classes
from certserve.backends.failures import failure
from certserve.backends.graph import refuse_coupled_rows
from certserve.backends.processor import cores_each, instruction_set
from certserve.errors import BundleError, ModelRefused

__all__ = ["OpenVinoBackend", "OpenVinoNetwork"]

_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32", "int8-7bit": "f32"}  # of what is not quantised
_MOST_COPIES_BYTES = 64 << 20  # of a file, times the threads that have a compiled network of their own


class OpenVinoNetwork:
    """Any network of images in an ONNX file: float32 (rows, channels, height, width) to one array.

    It is compiled anew for each number of rows, the first time that so many come. A small network that runs on one
    thread a batch runs in the thread that asks, which saves waking another and waiting for it: each thread that asks
    at the same time has a compiled network of its own. A large one, whose copies would cost too much memory, is run
    by threads of OpenVINO's.

    Args:
        path: the file. precision: "float32", "bfloat16", or "int8" or "int8-7bit" for a file that is quantised.
        shape: (channels, height, width) of its input.
        parallel, threads: how many batches run at once, and on how many threads each; default: all cores, see
            `certserve.backends.processor.cores_each`.

    Raises:
        BundleError: the file cannot be loaded, or the precision is unknown.
        ModelRefused: its input is not of that shape, or its graph couples rows.
    """

    def __init__(
        self,
        path: Path,
        precision: str,
        shape: tuple[int, int, int],
        *,
        parallel: int | None = None,
        threads: int | None = None,
    ) -> None:
        if precision not in _HINTS:
            raise BundleError(f"{path}: unknown precision {precision!r}; OpenVINO has {', '.join(_HINTS)}")
        refuse_coupled_rows(path)
        most, each = cores_each()
        self.parallel, threads = parallel or most, threads or each
        self.shape = shape
        self._in_callers = threads == 1 and path.stat().st_size * self.parallel <= _MOST_COPIES_BYTES
        self._options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": threads if self._in_callers else threads * self.parallel,
            "NUM_STREAMS": 0 if self._in_callers else self.parallel,
        }
        self._core = openvino.Core()
        try:
            self._model = self._core.read_model(path)
        except RuntimeError as error:
            raise BundleError(f"{path}: OpenVINO cannot read it: {error}") from error
        self._compiled: dict[int, Any] = {}  # what all threads share
        self._compiling = threading.Lock()
        self._idle: dict[int, list[_Request]] = {}  # by number of rows
        self._check_input()
        self.identity: Mapping[str, str] = {
            "runtime": "openvino",
            "version": openvino.__version__.partition("-")[0],
            "precision": precision,
            "device": "cpu",
            "threads": str(threads),
            "instructions": instruction_set(),
        }

    def run(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The first output for pixels of shape (rows, *shape)."""
        try:
            idle = self._idle.setdefault(len(pixels), [])
            request = _taken(idle, pixels) or self._request(len(pixels))
            found = request.run(pixels)
            idle.append(request)
            return found
        except RuntimeError as error:
            raise failure("OpenVINO", len(pixels), error) from error

    def _request(self, rows: int) -> _Request:
        with self._compiling:
            if self._in_callers:
                return _Request(self._compile(rows))
            if rows not in self._compiled:
                self._compiled[rows] = self._compile(rows)
            return _Request(self._compiled[rows])

    def _compile(self, rows: int) -> Any:
        model = self._model.clone()
        model.reshape([rows, *self.shape])
        return self._core.compile_model(model, "CPU", self._options)

    def _check_input(self) -> None:
        found = [i.get_partial_shape() for i in self._model.inputs]
        wanted = openvino.PartialShape([-1, *self.shape])
        if len(found) != 1 or found[0].rank != wanted.rank or found[0][0].is_static or not found[0].compatible(wanted):
            expected = f"one input (rows, {', '.join(map(str, self.shape))})"
            raise ModelRefused(f"expected {expected} with free rows, found {[str(shape) for shape in found]}")


class OpenVinoBackend:
    """A classifier from an ONNX file that takes noisy [0, 1] pixels, normalisation included in its graph.

    Args:
        The same as of `OpenVinoNetwork`.

    Raises:
        BundleError, ModelRefused: as `OpenVinoNetwork`, or its output is not that of a classifier.
    """

    def __init__(
        self,
        path: Path,
        precision: str,
        shape: tuple[int, int, int],
        *,
        parallel: int | None = None,
        threads: int | None = None,
    ) -> None:
        self._network = OpenVinoNetwork(path, precision, shape, parallel=parallel, threads=threads)
        self.parallel, self.shape, self.identity = self._network.parallel, shape, self._network.identity
        self.num_classes = count_classes(self)

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of shape (rows, num_classes) for pixels of shape (rows, *shape)."""
        return self._network.run(pixels)


class _Request:
    """A compiled network's inferences, for one thread at a time."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        static = compiled.output(0).partial_shape.is_static
        self._found = self._request.get_output_tensor(0).data if static else None  # it always puts it there
        self._read: Callable[[], npt.NDArray[np.float32] | None] = lambda: None  # the array that it reads, if alive

    def reads(self, pixels: npt.NDArray[np.float32]) -> bool:
        return self._read() is pixels

    def run(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if not self.reads(pixels):
            read = np.ascontiguousarray(pixels, np.float32)
            self._request.set_input_tensor(openvino.Tensor(read, shared_memory=True))  # does not keep it alive
            self._read = weakref.ref(read)
        self._request.start_async()  # `infer` does the same, and then makes a dictionary of the outputs
        self._request.wait()
        found = self._request.get_output_tensor(0).data if self._found is None else self._found
        return np.array(found, dtype=np.float32)


def _taken(idle: list[_Request], pixels: npt.NDArray[np.float32]) -> _Request | None:
    """One of them, which no other thread has then: that which read the array before, if may be."""
    try:
        return idle.pop(next((i for i, request in enumerate(idle) if request.reads(pixels)), -1))
    except IndexError:
        return None
