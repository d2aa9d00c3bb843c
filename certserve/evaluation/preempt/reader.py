"""Rows -> what they say of chosen images: shares with exact intervals, radii, and radii gained.

Right is an answer that is the true label and no abstention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import norm

from certserve.evaluation.preempt.question import Question
from certserve.evaluation.preempt.rows import Row, Rows
from certserve.smoothing.bounds import clopper_pearson_lower, clopper_pearson_upper

__all__ = ["Certified", "Facts", "Reader", "Share", "mean_and_error"]

_LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Share:
    """A share of images with its exact 95 % interval (Clopper and Pearson), were they drawn independently."""

    count: int
    total: int

    @property
    def value(self) -> float:
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        low = clopper_pearson_lower(self.count, self.total, _LEVEL / 2)
        return low, clopper_pearson_upper(self.count, self.total, _LEVEL / 2)

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        low, high = self.interval
        return {"count": self.count, "total": self.total, "share": self.value, "low": low, "high": high}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rows were made with. n, alpha: of every certificate. sigma: in input units."""

    sigma: float
    n: int
    alpha: float

    @property
    def cap(self) -> float:
        """The radius of a certificate all of whose draws voted for the label."""
        return float(self.sigma * norm.ppf(clopper_pearson_lower(self.n, self.n, self.alpha)))


@dataclass(frozen=True, slots=True)
class Certified:
    """Certified accuracy at each radius, of one kind of image."""

    kind: str
    images: int
    at: tuple[tuple[float, Share], ...]

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"images": self.images, "at": [{"radius": radius, **share.document()} for radius, share in self.at]}


class Reader:
    """The rows of the images in question, by stage."""

    def __init__(self, rows: Mapping[str, Rows], idx: Sequence[int], question: Question, facts: Facts) -> None:
        self.rows, self.question, self.facts = rows, question, facts
        self.idx = [each for each in idx if each in rows["clean"]]
        self._labels = {each: rows["clean"][each]["label"] for each in self.idx}

    def have(self, *stages: str) -> list[int]:
        """The images that have rows of all these stages."""
        return [each for each in self.idx if all(stage in self.rows and each in self.rows[stage] for stage in stages)]

    def right(self, each: int, row: Row) -> bool:
        """Whether the row answers rightly."""
        return bool(row["answer"] == self._labels[each] and not row["abstained"])

    def share(self, chosen: Iterable[int], right: Callable[[int], bool]) -> Share:
        """The share of these images."""
        found = [right(each) for each in chosen]
        return Share(sum(found), len(found))

    def answered(self, stage: str) -> Share | None:
        """The share that a stage answers rightly; None while images lack their row."""
        chosen = self.have(stage)
        return self.share(chosen, lambda each: self.right(each, self.rows[stage][each])) if self.whole(chosen) else None

    def whole(self, chosen: Sequence[int]) -> bool:
        """Whether these are all images, and any: shares of different images are not to be compared."""
        return bool(chosen) and len(chosen) == len(self.idx)

    def certified(self, kind: str, stage: str, chosen: Sequence[int]) -> Certified:
        """Certified accuracy of a stage's certificates."""
        radii = self.question.radii
        at = tuple((radius, self.share(chosen, partial(self._reaches, stage, radius))) for radius in radii)
        return Certified(kind, len(chosen), at)

    def _reaches(self, stage: str, radius: float, each: int) -> bool:
        row = self.rows[stage][each]
        return self.right(each, row) and row["radius"] >= radius

    def radius(self, stage: str, each: int) -> float:
        """The certified radius for the label that was predicted of the image as it came; 0 for another."""
        row = self.rows[stage][each]
        return float(row["radius"]) if row["answer"] == self.rows["clean"][each]["answer"] else 0.0

    def at_cap(self, stage: str, each: int) -> bool:
        """Whether every draw voted for the class."""
        return bool(self.rows[stage][each]["votes"] == self.facts.n)

    def gain(self, stage: str, each: int) -> float:
        """The radius gained, in units of delta."""
        return (self.radius(stage, each) - self.radius("certified-before", each)) / self.question.delta

    def highest_before(self, each: int) -> float:
        """What the radius before is at most, with probability 1 - alpha."""
        row, n = self.rows["certified-before"][each], self.facts.n
        same = row["answer"] == self.rows["clean"][each]["answer"]
        share = clopper_pearson_upper(row["votes"] if same else n - row["votes"], n, self.facts.alpha)
        return max(0.0, float(self.facts.sigma * norm.ppf(share)))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    if not values:
        return math.nan, math.nan
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)), error
