"""What this machine has, in words, for whoever runs it: hardware, runtimes, and what is wrong with them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from pathlib import Path

from certserve.backends.processor import cores, fast_in, instruction_set, processor_name
from certserve.noise import grid

__all__ = ["hardware", "runtimes", "warnings"]

_ONNX_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")


def hardware() -> dict[str, str]:
    """The processor and what it multiplies fast, the GPU's driver, the system."""
    fast = [precision for precision in ("int8", "int8-7bit", "bfloat16", "float32") if fast_in(precision)]
    driver = Path("/proc/driver/nvidia/version")
    return {
        "processor": processor_name(),
        "instructions": instruction_set(),
        "cores": str(cores()),
        "fast in": ", ".join(fast),
        "NVIDIA driver": driver.read_text(encoding="utf-8").splitlines()[0] if driver.exists() else "none",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def runtimes() -> dict[str, str]:
    """What is installed, who owns the module onnxruntime and what that says it can run on, and what makes noise."""
    found = {name: _version(name) for name in ("openvino", "torch", "triton", "onnx", "safetensors")}
    owners = [f"{name} {_version(name)}" for name in _owners()]
    found["onnxruntime"] = " and ".join(owners) or "not installed"
    if owners:
        found["onnxruntime providers"] = _providers()
    found["noise"] = (
        "compiled" if grid.COMPILED else "numpy (it could not be compiled, or needs AES instructions; slower)"
    )
    return found


def _providers() -> str:
    try:
        import onnxruntime

        return ", ".join(onnxruntime.get_available_providers()) + " (built in, not tried)"
    except Exception as error:  # a broken installation fails in many ways, and this command is to say how
        return f"cannot be imported: {error}"


def warnings() -> list[str]:
    """What should be put right; a sentence each, without its end."""
    owners = _owners()
    if len(owners) > 1:
        return [f"{' and '.join(owners)} own one module, onnxruntime; keep one of them and install it again"]
    return []


def _owners() -> list[str]:
    return [name for name in _ONNX_RUNTIMES if _version(name) != _ABSENT]


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return _ABSENT


_ABSENT = "not installed"
