"""Certified accuracy with exact intervals, and two tables compared on the same images.

Abstentions and wrong labels count as failures. Nothing here is a point estimate alone: every share comes with an
interval that holds at its level for any distribution of images drawn independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from certserve.evaluation.tables import Row, TableError
from certserve.smoothing.bounds import clopper_pearson_lower, clopper_pearson_upper

__all__ = ["Comparison", "Share", "certified_accuracy", "compare"]


@dataclass(frozen=True, slots=True)
class Share:
    """A certified accuracy: `count` of `total` images, and an interval.

    `high` bounds the share of the population that would be certified; `low` bounds the share that is truly robust at
    the radius, which abstentions can only make larger than the share certified.
    """

    radius: float
    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.count / self.total


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two tables on the same images at one radius.

    Attributes:
        total: images in both. only_ours, only_theirs: certified in one table alone.
        low, high: an interval for the difference of the shares, ours less theirs.
    """

    radius: float
    total: int
    only_ours: int
    only_theirs: int
    low: float
    high: float

    @property
    def difference(self) -> float:
        return (self.only_ours - self.only_theirs) / self.total


def certified_accuracy(rows: Sequence[Row], radius: float, *, alpha: float, level: float = 0.05) -> Share:
    """The share of images certified at `radius`, with an interval of confidence 1 - level.

    The interval is Clopper-Pearson's. Each certificate is false with probability at most `alpha`, so the share of
    images whose *true* radius is that large may be lower than the share certified: the lower end is corrected to
    (low - alpha) / (1 - alpha).

    Raises:
        ValueError: there are no rows.
    """
    total = len(rows)
    if not total:
        raise ValueError("expected at least one row")
    count = sum(row.certified_at(radius) for row in rows)
    low = clopper_pearson_lower(count, total, level / 2)
    high = clopper_pearson_upper(count, total, level / 2)
    return Share(radius, count, total, max(0.0, (low - alpha) / (1.0 - alpha)), high)


def compare(ours: Sequence[Row], theirs: Sequence[Row], radius: float, *, level: float = 0.05) -> Comparison:
    """The paired difference in certified accuracy at `radius`, on the images that both tables hold.

    The images certified by one table alone are two binomial counts; each gets Clopper-Pearson bounds at a quarter
    of `level`, so that the interval of the difference holds with confidence at least 1 - level (union bound).

    Raises:
        TableError: the tables share no image, or disagree about an image's true label.
    """
    theirs_by_idx = {row.idx: row for row in theirs}
    pairs = [(row, theirs_by_idx[row.idx]) for row in ours if row.idx in theirs_by_idx]
    if not pairs:
        raise TableError("the two tables have no image in common")
    differing = [mine.idx for mine, other in pairs if mine.label != other.label]
    if differing:
        raise TableError(f"the two tables give other true labels to the images {differing[:5]}: not the same data set")
    only_ours = sum(mine.certified_at(radius) and not other.certified_at(radius) for mine, other in pairs)
    only_theirs = sum(other.certified_at(radius) and not mine.certified_at(radius) for mine, other in pairs)
    total, part = len(pairs), level / 4
    return Comparison(
        radius,
        total,
        only_ours,
        only_theirs,
        clopper_pearson_lower(only_ours, total, part) - clopper_pearson_upper(only_theirs, total, part),
        clopper_pearson_upper(only_ours, total, part) - clopper_pearson_lower(only_theirs, total, part),
    )
