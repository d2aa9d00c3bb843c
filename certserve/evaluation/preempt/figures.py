"""Rows -> figures: shares with exact intervals, radii gained, and what encoding, attacks and adversaries left.

Right is an answer that is the true label and no abstention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import norm

from certserve.evaluation.preempt.question import Question
from certserve.evaluation.preempt.rows import Row, Rows
from certserve.smoothing.bounds import clopper_pearson_lower, clopper_pearson_upper

__all__ = ["CERTIFICATES", "Certified", "Facts", "Figures", "Share", "Uplift", "figures_of", "name_of"]

_LEVEL = 0.05
_LEVELS = 255
CERTIFICATES = {"before": "certified-before", "after": "certified-default", "unrounded": "unrounded"}
"""The stage that certifies each kind of image."""
_NAMES = {"before": "as they came", "after": "robustified (PNG)", "unrounded": "robustified, not rounded to 8 bits"}


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


@dataclass(frozen=True, slots=True)
class Uplift:
    """Radii gained, in units of delta, for the label that was predicted of the image as it came.

    Attributes:
        images: whose radius stays below the cap afterwards. mean, error: theirs and its standard error.
        all_images, all_mean: with those at the cap. largest: of all.
        above_one: images above 1. beyond_error: of those whose bounds, at alpha each, do not allow an uplift of 1.
        label_lost: images not certified for that label afterwards, though they were before.
    """

    images: int
    mean: float
    error: float
    all_images: int
    all_mean: float
    largest: float
    above_one: int
    beyond_error: int
    label_lost: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that the rows so far tell; None or empty where there are none."""

    images: int
    cap: float
    clean: Share | None
    after: Share | None
    attacked: Mapping[str, Share]
    certified: tuple[Certified, ...]
    uplift: Uplift | None
    moved: Mapping[str, Any]
    searches: Mapping[str, Mapping[str, Any]]
    jpeg: Mapping[int, Mapping[str, Any]]
    adversary: Mapping[str, Any]

    def ratio(self, attack: str) -> float | None:
        """The share right under an attack over the share right without, on the same images; None where unknown."""
        share = self.attacked.get(attack)
        return None if share is None or not self.clean or not self.clean.count else share.value / self.clean.value

    def certified_of(self, kind: str) -> Certified | None:
        """The certified accuracy of images of a kind; None where unknown."""
        return next((found for found in self.certified if found.kind == kind), None)

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "images": self.images,
            "cap": self.cap,
            "clean": self.clean and self.clean.document(),
            "robustified": self.after and self.after.document(),
            "attacked": {
                name: {**share.document(), "of_clean": self.ratio(name)} for name, share in self.attacked.items()
            },
            "certified": {each.kind: each.document() for each in self.certified},
            "uplift": self.uplift and asdict(self.uplift),
            "moved": dict(self.moved),
            "searches": {name: dict(told) for name, told in self.searches.items()},
            "jpeg": {str(quality): dict(told) for quality, told in self.jpeg.items()},
            "adversary": dict(self.adversary),
        }


class _Reader:
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


def name_of(kind: str) -> str:
    """A kind of image as a reader is told."""
    return _NAMES.get(kind) or f"robustified ({kind.replace('jpeg-', 'JPEG ')})"


def figures_of(rows: Mapping[str, Rows], idx: Sequence[int], question: Question, facts: Facts) -> Figures:
    """The figures of the images with these positions, by what is there of their rows.

    A share is told once all the images have their rows.
    """
    read = _Reader(rows, idx, question, facts)
    attacks = {name: share for name in rows if name.startswith(("pgd-", "apgd-")) and (share := read.answered(name))}
    stages = CERTIFICATES | {f"jpeg-{quality}": f"jpeg-{quality}" for quality in question.qualities}
    certified = tuple(
        read.certified(kind, stage, chosen) for kind, stage in stages.items() if read.whole(chosen := read.have(stage))
    )
    return Figures(
        images=len(read.idx),
        cap=facts.cap,
        clean=read.answered("clean"),
        after=read.answered("after"),
        attacked=attacks,
        certified=certified,
        uplift=_uplift(read),
        moved=_moved(read),
        searches=_searches(read),
        jpeg={q: told for q in question.qualities if (told := _jpeg(read, f"jpeg-{q}"))},
        adversary=_adversary(read),
    )


def _uplift(read: _Reader) -> Uplift | None:
    chosen = read.have("certified-before", "certified-default")
    if not read.whole(chosen):
        return None
    stage = "certified-default"
    gains = {each: read.gain(stage, each) for each in chosen}
    below = [gains[each] for each in chosen if not read.at_cap(stage, each)]
    beyond = sum(
        read.radius(stage, each) > read.highest_before(each) + read.question.delta for each in chosen if gains[each] > 1
    )
    lost = sum(read.radius(stage, each) == 0.0 < read.radius("certified-before", each) for each in chosen)
    mean, error = _mean(below)
    every, largest = list(gains.values()), max(gains.values())
    return Uplift(
        len(below), mean, error, len(chosen), _mean(every)[0], largest, sum(g > 1 for g in every), beyond, lost
    )


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    if not values:
        return math.nan, math.nan
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)), error


def _moved(read: _Reader) -> dict[str, Any]:
    chosen = read.have("robustified-default")
    if not chosen:
        return {}
    rows = [read.rows["robustified-default"][each] for each in chosen]
    squared = [row["squared_steps"] for row in rows]
    most = (Fraction(read.question.delta) * _LEVELS) ** 2
    return {
        "images": len(chosen),
        "largest_l2": math.sqrt(max(squared)) / _LEVELS,
        "mean_l2": _mean([math.sqrt(each) / _LEVELS for each in squared])[0],
        "beyond_delta": sum(each > most for each in squared),
        "judged_safe": sum(row["judged_safe"] for row in rows),
        "png_changed": sum(not row["png_unchanged"] for row in rows),
        "mean_passes": _mean([row["passes"] for row in rows])[0],
    }


def _searches(read: _Reader) -> dict[str, dict[str, Any]]:
    """Every other search beside the default, on the images that both were made for."""
    found = {}
    for name in ("ten-times", "bilevel"):
        stages = ("certified-before", "certified-default", f"robustified-{name}", f"certified-{name}")
        if chosen := read.have(*stages):
            found[name] = _beside(read, name, chosen)
    return found


def _beside(read: _Reader, name: str, chosen: Sequence[int]) -> dict[str, Any]:
    default, other = "certified-default", f"certified-{name}"
    both = [each for each in chosen if not read.at_cap(default, each) and not read.at_cap(other, each)]
    difference, error = _mean([read.gain(other, each) - read.gain(default, each) for each in both])
    told: dict[str, Any] = {"images": len(chosen)}
    for key, stage in ((name, name), ("default", "default")):
        told[key] = {
            "passes": _mean([read.rows[f"robustified-{stage}"][each]["passes"] for each in chosen])[0],
            "mean_uplift": _mean([read.gain(f"certified-{stage}", each) for each in both])[0],
            "mean_uplift_all": _mean([read.gain(f"certified-{stage}", each) for each in chosen])[0],
            "certified": read.certified(key, f"certified-{stage}", chosen).document()["at"],
        }
    return {**told, "below_the_cap": len(both), "uplift_difference": difference, "difference_error": error}


def _jpeg(read: _Reader, stage: str) -> dict[str, Any]:
    chosen = read.have(stage, "after", "certified-default")
    if not read.whole(chosen):
        return {}
    rows = read.rows[stage]

    def predicted(each: int) -> bool:
        row = rows[each]
        return read.right(each, {"answer": row["predicted_answer"], "abstained": row["predicted_abstained"]})

    before = read.share(chosen, lambda each: read.right(each, read.rows["after"][each]))
    after = read.share(chosen, predicted)
    distances = [math.sqrt(rows[each]["squared_steps"]) / _LEVELS for each in chosen]
    plain = read.certified("after", "certified-default", chosen).at
    encoded = read.certified(stage, stage, chosen).at
    return {
        "mean_l2": _mean(distances)[0],
        "predicted": after.document(),
        "points_lost": 100 * (before.value - after.value),
        "certified_points_lost": [
            {"radius": radius, "points": 100 * (one.value - other.value)}
            for (radius, one), (_, other) in zip(plain, encoded, strict=True)
        ],
    }


def _adversary(read: _Reader) -> dict[str, Any]:
    chosen = read.have("adversary")
    if not read.whole(chosen):
        return {}
    rows = {each: read.rows["adversary"][each] for each in chosen}
    attacked = [each for each in chosen if rows[each]["attacked"]]

    def reached(each: int, attempt: Mapping[str, Any]) -> bool:
        return bool(attempt["within"]) and not read.right(each, attempt)

    held = read.share(
        chosen, lambda each: rows[each]["attacked"] and not any(reached(each, a) for a in rows[each]["attempts"])
    )
    by_share = [
        {
            "share": share,
            "within": sum(rows[each]["attempts"][k]["within"] for each in attacked),
            "reached": sum(reached(each, rows[each]["attempts"][k]) for each in attacked),
        }
        for k, share in enumerate(read.question.shares)
    ]
    guesses = [math.sqrt(rows[each]["squared_steps"]) / _LEVELS for each in attacked]
    return {
        "held": held.document(),
        "attacked": len(attacked),
        "mean_guess_l2": _mean(guesses)[0],
        "by_share": by_share,
    }
