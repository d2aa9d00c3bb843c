"""The models that come with the package, and sample images for each."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["DEFAULT", "packaged", "path_of", "samples"]

DEFAULT = "fashion-mnist"
"""The model that is used where none is named."""

_HERE = Path(__file__).parent


def packaged() -> tuple[str, ...]:
    """The names of the packaged models."""
    return tuple(sorted(entry.parent.name for entry in _HERE.glob("*/model.toml")))


def path_of(bundle: str | os.PathLike[str] | None) -> Path:
    """The directory of a bundle: None is the default model, a packaged name its own, anything else a path."""
    if bundle is None:
        return _HERE / DEFAULT
    if isinstance(bundle, str) and bundle in packaged():
        return _HERE / bundle
    return Path(bundle)


def samples(name: str = DEFAULT) -> tuple[Path, ...]:
    """The sample images that come with a packaged model, in order; named index_label.png."""
    return tuple(sorted((_HERE / "samples" / name).glob("*.png")))
