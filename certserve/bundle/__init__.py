"""A model on disk: a directory with `model.toml`, weights, and the SHA-256 of every file.

`read` trusts nothing: unknown keys, values out of range, paths that leave the directory and files that do not match
their digest are refused. `create` turns a user's ONNX classifier into a bundle that takes pixels in [0, 1]. No
runtime is imported here, and nothing is ever unpickled.
"""

from __future__ import annotations

from certserve.bundle.creation import create, write_linear
from certserve.bundle.description import Bundle, Defaults, Execution
from certserve.bundle.storage import read, write

__all__ = ["Bundle", "Defaults", "Execution", "create", "read", "write", "write_linear"]
