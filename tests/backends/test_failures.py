"""Out of memory is told from other failures by the runtimes' own words."""

from __future__ import annotations

import numpy as np
import pytest

from certserve.backends.failures import failure
from certserve.errors import BackendFailed, OutOfMemory

TORCH = (
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"
)
CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.81 GiB"
ONNX = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bfc_arena.cc:376 Failed to allocate memory for requested buffer"
OPENVINO = "Exception from src/inference/src/cpp/infer_request.cpp:223: std::bad_alloc"


@pytest.mark.parametrize("words", [TORCH, CUDA, ONNX, OPENVINO])
def test_a_lack_of_memory_is_told(words: str) -> None:
    found = failure("torch", 64, RuntimeError(words))
    assert isinstance(found, OutOfMemory)
    assert str(found) == f"torch failed on a batch of 64 rows: {words}"


def test_numpy_s_own_is_one() -> None:
    with pytest.raises(MemoryError) as caught:
        np.zeros(1 << 60, np.int8)
    assert isinstance(failure("numpy", 1, caught.value), OutOfMemory)


def test_torch_s_own_is_one() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(1 << 58, dtype=torch.int8)
    assert isinstance(failure("torch", 1, caught.value), OutOfMemory)


def test_another_failure_is_not() -> None:
    found = failure("OpenVINO", 8, RuntimeError("the shape does not fit"))
    assert type(found) is BackendFailed
