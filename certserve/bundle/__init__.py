"""A model on disk: a directory with `model.toml`, weights, and the SHA-256 of every file.

`read` trusts nothing: unknown keys, values out of range, paths that leave the directory and files that do not match
their digest are refused. `create` turns a user's ONNX classifier into a bundle that takes pixels in [0, 1]. No
runtime is imported here, and nothing is ever unpickled.
"""

from __future__ import annotations

from certserve.bundle.creation import create, create_program, write_linear
from certserve.bundle.description import Bundle, Defaults, Execution, onnx_executions
from certserve.bundle.magnet import Autoencoder, Detector, Magnet
from certserve.bundle.storage import extend, read, write

__all__ = [
    "Autoencoder",
    "Bundle",
    "Defaults",
    "Detector",
    "Execution",
    "Magnet",
    "create",
    "create_program",
    "extend",
    "onnx_executions",
    "read",
    "write",
    "write_linear",
]
