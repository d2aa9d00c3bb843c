"""Attacked images on disk, each file under the digest of its question, so that an attack is made once."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from certserve.attacks.magnet import Attacked

__all__ = ["load", "path_of", "save"]


def path_of(folder: Path, name: str, question: Mapping[str, Any]) -> Path:
    """Where the attack of that question is, or goes. Another question has another file."""
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
    word = "".join(letter if letter.isalnum() else "-" for letter in name.lower().replace(",", ""))
    return folder / f"{word}.{digest[:12]}.npz"


def load(path: Path) -> Attacked | None:
    """What is in the file; None where there is none, or it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Attacked(arrays["images"], arrays["attained"], float(arrays["seconds"]))
    except (FileNotFoundError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def save(path: Path, attacked: Attacked) -> None:
    """Write the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        np.savez_compressed(file, images=attacked.images, attained=attacked.attained, seconds=attacked.seconds)
    os.replace(beside, path)
