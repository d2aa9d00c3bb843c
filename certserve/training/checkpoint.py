"""A run's state on disk: written all or nothing, so that a kill at any moment loses minutes, not the run."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from certserve.training.recipe import RecipeError

__all__ = ["read", "write"]


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `path`; a reader finds the old one or the new one."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read(path: Path) -> dict[str, Any] | None:
    """The state that was written; None where there is none. Nothing but tensors and plain values is unpickled.

    Raises:
        RecipeError: the file is damaged.
    """
    if not path.exists():
        return None
    contents = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(contents)) as parts:  # torch.load compares no checksums
            if parts.testzip() is not None:
                raise zipfile.BadZipFile("a checksum does not match")
        state: dict[str, Any] = torch.load(io.BytesIO(contents), map_location="cpu", weights_only=True)
        return state
    except (pickle.UnpicklingError, RuntimeError, EOFError, OverflowError, zipfile.BadZipFile, ValueError) as error:
        raise RecipeError(f"{path}: the checkpoint is damaged ({error}); remove it to begin again") from error
