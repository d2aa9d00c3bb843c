"""What a runtime's exception means: out of memory, after which fewer rows may run, or another failure."""

from __future__ import annotations

from certserve.errors import BackendFailed, OutOfMemory

__all__ = ["failure"]

# Runtimes raise one class for everything, so their words are what there is to go by.
_NO_MEMORY = (
    "out of memory",  # CUDA, in torch and ONNX Runtime
    "failed to allocate memory",  # ONNX Runtime's arena
    "can't allocate memory",  # torch on a CPU
    "bad_alloc",  # OpenVINO and ONNX Runtime, from C++
    "could not allocate",
    "unable to allocate",  # numpy
)


def failure(runtime: str, rows: int, error: Exception) -> BackendFailed:
    """The error to raise when `runtime` raised `error` on a batch of so many rows."""
    words = str(error).lower()
    no_memory = isinstance(error, MemoryError) or any(phrase in words for phrase in _NO_MEMORY)
    kind = OutOfMemory if no_memory else BackendFailed
    return kind(f"{runtime} failed on a batch of {rows} rows: {error}")
