"""Which execution of a bundle serves: a fixed rule, never a stopwatch that a noisy neighbour can tip.

    on a CUDA device:  torch, bfloat16 before float32; else ONNX Runtime's CUDA provider
    on a CPU:          int8, where the processor multiplies bytes; else int8-7bit, whose weights have 7 bits, where it
                       has AVX2; else bfloat16, where it multiplies those; else float32;
                       by OpenVINO, else by ONNX Runtime, else by torch

Whatever the machine has no instructions for comes last; whatever is not installed, not at all.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from certserve.backends.processor import fast_in
from certserve.bundle import Bundle, Execution
from certserve.errors import BundleError

__all__ = ["has_cuda", "has_module", "how_to_install", "installed", "ranked"]

# What each runtime of a bundle needs, a module and the extra that brings it; the preferred runtime on a CPU first.
_NEEDS = {
    "openvino": ("openvino", "server"),
    "onnx": ("onnxruntime", "server"),
    "linear": ("numpy", "server"),
    "onnx-cuda": ("onnxruntime", "server"),
    "torch": ("torch", "torch"),
    "torch-export": ("torch", "torch"),
}
_NVIDIA = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), Path("/dev/dxg"))  # the last: Linux in Windows
_PRECISIONS = ("int8", "int8-7bit", "bfloat16", "float32", "float64")


def ranked(bundle: Bundle) -> list[Execution]:
    """The bundle's executions that can run on this machine, the one that should serve first.

    Raises:
        BundleError: there is none; what to install.
    """
    there = [e for e in bundle.executions if e.runtime != "onnx-cuda" or _has_driver()]
    found = [execution for execution in there if installed(execution)]
    if not found:
        raise BundleError(f"{bundle.path}: {how_to_install(there or bundle.executions)}")
    by_torch = any(execution.runtime == "torch" for execution in found) and has_cuda()
    return sorted(found, key=lambda execution: _rank(execution, by_torch))


def installed(execution: Execution) -> bool:
    """Whether the runtime is there; true for an unknown one, which the loader refuses."""
    module, _ = _NEEDS.get(execution.runtime, ("numpy", ""))
    return has_module(module)


def has_module(name: str) -> bool:
    """Whether a module can be imported; it is not."""
    return importlib.util.find_spec(name) is not None


def how_to_install(executions: Sequence[Execution]) -> str:
    """A sentence that says what any of the executions needs."""
    modules = sorted({_NEEDS[execution.runtime][0] for execution in executions})
    extras = sorted({_NEEDS[execution.runtime][1] for execution in executions})
    return f"needs {' or '.join(modules)}, which is not installed; install certserve[{' or '.join(extras)}]"


def has_cuda() -> bool:
    """Whether there is an NVIDIA device that torch can use; torch is not imported where there is no driver."""
    if not _has_driver() or importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.version.cuda) and torch.cuda.is_available()


def _has_driver() -> bool:
    return any(path.exists() for path in _NVIDIA)


def _rank(execution: Execution, by_torch: bool) -> tuple[int, bool, int, int]:
    runtimes, precision = list(_NEEDS), execution.precision
    device = {"torch": 0 if by_torch else 2, "onnx-cuda": 1}.get(execution.runtime, 2)
    order = _PRECISIONS.index(precision) if precision in _PRECISIONS else len(_PRECISIONS)
    runtime = runtimes.index(execution.runtime) if execution.runtime in runtimes else len(runtimes)
    return (device, not (device < 2 or fast_in(precision)), order, runtime)
