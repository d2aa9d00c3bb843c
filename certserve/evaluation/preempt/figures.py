"""Rows -> figures: accuracy, radii gained, and what encoding, attacks and adversaries left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from certserve.evaluation.preempt.question import Question
from certserve.evaluation.preempt.reader import Certified, Facts, Reader, Share, mean_and_error
from certserve.evaluation.preempt.rows import Rows
from certserve.noise.grid import LEVELS

__all__ = ["Figures", "Uplift", "figures_of", "name_of", "stages_of"]

_CERTIFICATES = {"before": "certified-before", "after": "certified-default", "unrounded": "unrounded"}
_NAMES = {"before": "as they came", "after": "robustified (PNG)", "unrounded": "robustified, not rounded to 8 bits"}


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
    rounding: Mapping[str, Any]
    jpeg: Mapping[str, Mapping[str, Any]]
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
            "rounding": dict(self.rounding),
            "jpeg": {kind: dict(told) for kind, told in self.jpeg.items()},
            "adversary": dict(self.adversary),
        }


def name_of(kind: str) -> str:
    """A kind of image as a reader is told."""
    if kind in _NAMES:
        return _NAMES[kind]
    file, aware, qualities = kind.partition("aware-")
    encoding = f"JPEG {file.strip('-').removeprefix('jpeg-')}" if file else "PNG"
    return f"robustified for JPEG {qualities} ({encoding})" if aware else f"robustified ({encoding})"


def stages_of(question: Question) -> dict[str, str]:
    """The kinds of images, and the stage that certifies each."""
    encoded = [f"jpeg-{quality}" for quality in question.qualities]
    found = _CERTIFICATES | {kind: kind for kind in encoded}
    if aware := question.aware_search:
        found |= {aware: f"certified-{aware}"} | {kind: kind for kind in (f"{each}-{aware}" for each in encoded)}
    return found


def figures_of(rows: Mapping[str, Rows], idx: Sequence[int], question: Question, facts: Facts) -> Figures:
    """The figures of the images with these positions, by what is there of their rows.

    A share is told once all the images have their rows.
    """
    read = Reader(rows, idx, question, facts)
    attacks = {name: share for name in rows if name.startswith(("pgd-", "apgd-")) and (share := read.answered(name))}
    certified = tuple(
        read.certified(kind, stage, chosen)
        for kind, stage in stages_of(question).items()
        if read.whole(chosen := read.have(stage))
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
        rounding=_lost(read, "unrounded", "certified-default"),
        jpeg=_jpeg(read),
        adversary=_adversary(read),
    )


def _uplift(read: Reader) -> Uplift | None:
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
    mean, error = mean_and_error(below)
    every, largest = list(gains.values()), max(gains.values())
    return Uplift(
        len(below), mean, error, len(chosen), mean_and_error(every)[0], largest, sum(g > 1 for g in every), beyond, lost
    )


def _moved(read: Reader) -> dict[str, Any]:
    chosen = read.have("robustified-default")
    if not chosen:
        return {}
    rows = [read.rows["robustified-default"][each] for each in chosen]
    squared = [row["squared_steps"] for row in rows]
    most = (Fraction(read.question.delta) * LEVELS) ** 2
    return {
        "images": len(chosen),
        "largest_l2": math.sqrt(max(squared)) / LEVELS,
        "mean_l2": mean_and_error([math.sqrt(each) / LEVELS for each in squared])[0],
        "beyond_delta": sum(each > most for each in squared),
        "judged_safe": sum(row["judged_safe"] for row in rows),
        "png_changed": sum(not row["png_unchanged"] for row in rows),
        "mean_passes": mean_and_error([row["passes"] for row in rows])[0],
    }


def _searches(read: Reader) -> dict[str, dict[str, Any]]:
    """Every other search beside the default, on the images that both were made for."""
    found = {}
    for name in ("ten-times", "bilevel"):
        stages = ("certified-before", "certified-default", f"robustified-{name}", f"certified-{name}")
        if chosen := read.have(*stages):
            found[name] = _beside(read, name, chosen)
    return found


def _beside(read: Reader, name: str, chosen: Sequence[int]) -> dict[str, Any]:
    default, other = "certified-default", f"certified-{name}"
    both = [each for each in chosen if not read.at_cap(default, each) and not read.at_cap(other, each)]
    difference, error = mean_and_error([read.gain(other, each) - read.gain(default, each) for each in both])
    told: dict[str, Any] = {"images": len(chosen)}
    for key, stage in ((name, name), ("default", "default")):
        told[key] = {
            "passes": mean_and_error([read.rows[f"robustified-{stage}"][each]["passes"] for each in chosen])[0],
            "mean_uplift": mean_and_error([read.gain(f"certified-{stage}", each) for each in both])[0],
            "mean_uplift_all": mean_and_error([read.gain(f"certified-{stage}", each) for each in chosen])[0],
            "certified": read.certified(key, f"certified-{stage}", chosen).document()["at"],
        }
    return {**told, "below_the_cap": len(both), "uplift_difference": difference, "difference_error": error}


def _jpeg(read: Reader) -> dict[str, dict[str, Any]]:
    """What every kind of JPEG file lost of the PNG file that it is made of."""
    found = {}
    for kind in stages_of(read.question):
        file, _, search = kind.partition("aware-")
        of = f"-aware-{search}" if search else ""
        if file.startswith("jpeg-") and (told := _encoded(read, kind, f"after{of}", f"certified{of or '-default'}")):
            found[kind] = told
    return found


def _encoded(read: Reader, stage: str, after: str, certified: str) -> dict[str, Any]:
    chosen = read.have(stage, after)
    lost = _lost(read, certified, stage)
    if not (lost and read.whole(chosen)):
        return {}
    rows = read.rows[stage]

    def predicted(each: int) -> bool:
        row = rows[each]
        return read.right(each, {"answer": row["predicted_answer"], "abstained": row["predicted_abstained"]})

    before = read.share(chosen, lambda each: read.right(each, read.rows[after][each]))
    share = read.share(chosen, predicted)
    distances = [math.sqrt(rows[each]["squared_steps"]) / LEVELS for each in chosen]
    return {
        "mean_l2": mean_and_error(distances)[0],
        "predicted": share.document(),
        "points_lost": 100 * (before.value - share.value),
        **lost,
    }


def _lost(read: Reader, before: str, after: str) -> dict[str, Any]:
    """How much less the second stage certifies than the first: points at each radius, and radius on average."""
    chosen = read.have(before, after)
    if not read.whole(chosen):
        return {}
    one, other = (read.certified(stage, stage, chosen).at for stage in (before, after))
    radius, error = mean_and_error([read.radius(before, each) - read.radius(after, each) for each in chosen])
    return {
        "certified_points_lost": [
            {"radius": radius, "points": 100 * (share.value - left.value)}
            for (radius, share), (_, left) in zip(one, other, strict=True)
        ],
        "mean_radius_lost": radius,
        "radius_error": error,
    }


def _adversary(read: Reader) -> dict[str, Any]:
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
    guesses = [math.sqrt(rows[each]["squared_steps"]) / LEVELS for each in attacked]
    return {
        "held": held.document(),
        "attacked": len(attacked),
        "mean_guess_l2": mean_and_error(guesses)[0],
        "by_share": by_share,
    }
