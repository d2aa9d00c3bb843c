"""Figures -> what a reader is told: sentences and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from certserve.bundle import Bundle
from certserve.endpoints.requests import ExecutionInfo
from certserve.evaluation.preempt.figures import Figures, name_of
from certserve.evaluation.preempt.question import Question
from certserve.evaluation.preempt.reader import Facts, Share

__all__ = ["NO_GUARANTEE", "Report", "certified_table", "document", "summary"]

NO_GUARANTEE = (
    "Right under attack is about the attacks that were tried, and says nothing of another one; certified holds against "
    "all, for the PNG as it is. Abstentions and wrong labels count as failures."
)


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured so far.

    Attributes:
        execution: that answered. figures: of the rows that there are.
    """

    bundle: Bundle
    question: Question
    facts: Facts
    execution: ExecutionInfo
    figures: Figures

    def with_figures(self, figures: Figures) -> Report:
        """The report with the figures of more rows."""
        return replace(self, figures=figures)


def document(report: Report) -> dict[str, Any]:
    """The report as JSON has it; null where there is no figure."""
    found = {
        "model": report.bundle.name,
        "version": report.bundle.version,
        "digests": dict(report.bundle.digests),
        "execution": asdict(report.execution),
        "question": asdict(report.question),
        "certificates": asdict(report.facts),
        **report.figures.document(),
    }
    return {name: _finite(value) for name, value in found.items()}


def summary(report: Report) -> list[tuple[str, str, str]]:
    """The other figures as a reader is told: what, how much, and the 95 % interval or what stands beside it."""
    figures = report.figures
    told = [
        _line("predicted rightly, as they came", figures.clean),
        _line("predicted rightly, robustified", figures.after),
    ]
    for name, share in figures.attacked.items():
        attack, when = name.split("-")
        ratio = figures.ratio(name)
        beside = "" if ratio is None else f"; {ratio:.3f} of the clean"
        what, much, interval = _line(f"under {_attack(attack, report.question)}, {name_of(when)}", share)
        told.append((what, much, interval + beside))
    return [line for line in told if line[1]] + _uplifts(figures) + _searches(figures) + _losses(figures)


def certified_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: certified accuracy at each radius, a row a kind of image, with 95 % intervals."""
    rows = []
    for certified in report.figures.certified:
        shares = [share for _, share in certified.at]
        cells = [f"{share.value:.1%} ({share.interval[0]:.1%} to {share.interval[1]:.1%})" for share in shares]
        rows.append([name_of(certified.kind), *cells])
    return ["certified accuracy", *(f"at {radius:g}" for radius in report.question.radii)], rows


def _attack(name: str, question: Question) -> str:
    return f"PGD-{question.steps} x {question.draws} draws" if name == "pgd" else "the APGD ensemble"


def _line(what: str, share: Share | None) -> tuple[str, str, str]:
    if share is None:
        return what, "", ""
    low, high = share.interval
    return what, f"{share.value:.1%} ({share.count} of {share.total})", f"{low:.1%} to {high:.1%}"


def _plus_minus(mean: float, error: float) -> str:
    """A mean and its standard error, where there are any."""
    if not math.isfinite(mean):
        return "-"
    return f"{mean:.3f}" + (f" +- {error:.3f}" if math.isfinite(error) else "")


def _uplifts(figures: Figures) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    if uplift := figures.uplift:
        beside = f"{uplift.images} images below the cap of {figures.cap:.4f}; of all {uplift.all_mean:.3f}"
        found.append(("mean uplift efficiency", _plus_minus(uplift.mean, uplift.error), beside))
        beside = f"largest {uplift.largest:.3f}; {uplift.beyond_error} beyond sampling error"
        found.append(("efficiency above 1", f"{uplift.above_one} of {uplift.all_images}", beside))
        beside = "certified before, but not afterwards, for the label predicted at first"
        found.append(("label lost", f"{uplift.label_lost} of {uplift.all_images}", beside))
    if moved := figures.moved:
        beside = f"largest {moved['largest_l2']:.6f}, mean {moved['mean_l2']:.4f}"
        found.append(("moved beyond delta", f"{moved['beyond_delta']} of {moved['images']}", beside))
        found.append(("changed by writing the PNG", f"{moved['png_changed']} of {moved['images']}", "pixel by pixel"))
    return found


def _searches(figures: Figures) -> list[tuple[str, str, str]]:
    found = []
    for name, told in figures.searches.items():
        other, default = told[name], told["default"]
        at = ", ".join(
            f"{a['radius']:g}: {a['count']} and {b['count']}"
            for a, b in zip(other["certified"], default["certified"], strict=True)
        )
        passes = f"{other['passes']:.0f} passes, default {default['passes']:.0f}"
        beside = f"efficiency less the default's: {_plus_minus(told['uplift_difference'], told['difference_error'])}"
        found.append((f"{name}, {told['images']} images", passes, f"{beside}; certified at {at}"))
    return found


def _losses(figures: Figures) -> list[tuple[str, str, str]]:
    found = []
    if figures.rounding:
        found.append(("lost by rounding to 8 bits", *_lost(figures.rounding)))
    for kind, told in figures.jpeg.items():
        what = f"lost by JPEG (mean L2 {told['mean_l2']:.3f}), {name_of(kind)}"
        much, beside = _lost(told)
        found.append((what, much, f"predicted rightly: {told['points_lost']:+.1f} points; {beside}"))
    if told := figures.adversary:
        held = told["held"]
        beside = f"{held['low']:.1%} to {held['high']:.1%}; its guess is {told['mean_guess_l2']:.3f} from the original"
        much = f"{held['share']:.1%} ({held['count']} of {held['total']})"
        found.append(("right, against the adversary who knows the method", much, beside))
    return found


def _lost(told: Mapping[str, Any]) -> tuple[str, str]:
    """The mean radius, and the points of certified accuracy."""
    points = ", ".join(f"{each['points']:+.1f} at {each['radius']:g}" for each in told["certified_points_lost"])
    return f"radius {_plus_minus(told['mean_radius_lost'], told['radius_error'])}", f"points certified: {points}"


def _finite(value: Any) -> Any:
    """JSON has no NaN, and no tuples."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
