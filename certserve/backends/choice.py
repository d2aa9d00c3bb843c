"""Which execution of a bundle serves: a fixed rule, never a stopwatch that a noisy neighbour can tip.

    on a CUDA device:  torch, bfloat16 before float32
    on a CPU:          int8, where the processor multiplies bytes; else bfloat16, where it does; else float32;
                       by OpenVINO, else by ONNX Runtime, else by torch

Whatever the machine has no instructions for comes last; whatever is not installed, not at all.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from certserve.backends.processor import multiplies_bfloat16, multiplies_int8
from certserve.bundle import Bundle, Execution
from certserve.errors import BundleError

__all__ = ["MODULES", "ranked"]

MODULES = {"openvino": "openvino", "onnx": "onnxruntime", "linear": "numpy", "torch": "torch", "torch-export": "torch"}
"""The module that each runtime of a bundle needs, the preferred runtime on a CPU first."""

_PRECISIONS = ("int8", "bfloat16", "float32", "float64")


def ranked(bundle: Bundle) -> list[Execution]:
    """The bundle's executions that can run on this machine, the one that should serve first.

    Raises:
        BundleError: there is none; what to install.
    """
    found = [e for e in bundle.executions if importlib.util.find_spec(MODULES.get(e.runtime, "numpy"))]
    if not found:
        needed = ", ".join(sorted({MODULES[execution.runtime] for execution in bundle.executions}))
        raise BundleError(f"{bundle.path}: needs {needed}, which is not installed; install certserve[server]")
    cuda = _has_cuda() and any(execution.runtime == "torch" for execution in found)
    return sorted(found, key=lambda execution: _rank(execution, cuda))


def _rank(execution: Execution, cuda: bool) -> tuple[bool, bool, int, int]:
    runtimes, precision = list(MODULES), execution.precision
    native = {"int8": multiplies_int8, "bfloat16": multiplies_bfloat16}.get(precision, lambda: True)
    elsewhere = cuda and execution.runtime != "torch"
    order = _PRECISIONS.index(precision) if precision in _PRECISIONS else len(_PRECISIONS)
    runtime = runtimes.index(execution.runtime) if execution.runtime in runtimes else len(runtimes)
    return (elsewhere, not (cuda or native()), order, runtime)


def _has_cuda() -> bool:
    """Whether there is an NVIDIA device that torch can use; torch is not imported where there is no driver."""
    if not Path("/proc/driver/nvidia/version").exists() or importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()
