"""What is handed around: which draws of which job."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["DrawSet", "Slice"]


class DrawSet(StrEnum):
    """The two disjoint sets of draws. The value names the domain of the key's stream."""

    SELECTION = "selection"
    ESTIMATION = "estimation"


@dataclass(frozen=True, slots=True)
class Slice:
    """A run of one job's draws: small, picklable, idempotent."""

    job: int
    draws: DrawSet
    first: int
    count: int
