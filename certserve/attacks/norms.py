"""The norms that an attack is bounded in."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Norm"]


class Norm(StrEnum):
    """Of an image's change, over all its pixels and channels."""

    L2 = "L2"
    LINF = "Linf"
