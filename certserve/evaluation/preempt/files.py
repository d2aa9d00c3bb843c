"""A report on robustified images as files: CSV, JSON, a picture and a page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certserve.datasets import Dataset
from certserve.evaluation.preempt.figures import stages_of
from certserve.evaluation.preempt.page import page, triples_of
from certserve.evaluation.preempt.report import Report, document
from certserve.evaluation.preempt.rows import Row, Rows, whole
from certserve.noise.grid import LEVELS

if TYPE_CHECKING:
    from certserve.evaluation.preempt.picture import Point
    from certserve.evaluation.preempt.stages import Stages

__all__ = ["write"]


def write(report: Report, rows: Mapping[str, Rows], data: Dataset, stages: Stages, folder: Path) -> None:
    """Write `preempt.csv`, `.json`, `.png` and `.html`, each whole or not at all.

    Raises:
        ModuleNotFoundError: matplotlib is not installed (`pip install 'certserve[evaluate]'`).
    """
    from certserve.evaluation.preempt.picture import draw  # needs matplotlib

    text = json.dumps(document(report), indent=2, ensure_ascii=False) + "\n"
    whole(folder / "preempt.csv", _table(rows, data).encode())
    whole(folder / "preempt.json", text.encode())
    radii, points = _pictured(report, rows, data)
    if not radii:
        return
    title = f"{report.bundle.name}: moved by at most {report.question.delta:g} in L2"
    png = draw(radii, report.figures.images, points, report.question.delta, report.facts.cap, title)
    whole(folder / "preempt.png", png)
    whole(folder / "preempt.html", page(report, png, triples_of(rows, data, stages)).encode())


def _pictured(report: Report, rows: Mapping[str, Rows], data: Dataset) -> tuple[dict[str, list[float]], list[Point]]:
    """Radii of the images certified for their true label, by kind, and a point an image."""
    stages = stages_of(report.question)
    kinds = {each.kind: stages[each.kind] for each in report.figures.certified}
    labels = {int(each): int(label) for each, label in zip(data.idx, data.labels, strict=True) if each in rows["clean"]}
    radii = {
        kind: [row["radius"] for each, label in labels.items() if _certain(row := rows[stage][each], label)]
        for kind, stage in kinds.items()
    }
    points: list[Point] = []
    for each, label in labels.items() if {"before", "after"} <= set(kinds) else ():
        answer = rows["clean"][each]["answer"]
        one, other = (
            row["radius"] if _certain(row := rows[kinds[kind]][each], answer) else 0.0 for kind in ("before", "after")
        )
        points.append((one, other, answer == label))
    return radii, points


def _certain(row: Row, label: int) -> bool:
    return row["answer"] == label and not row["abstained"]


def _table(rows: Mapping[str, Rows], data: Dataset) -> str:
    """A line an image, in the data's order; columns named stage.field, lists left out; empty where there is no row."""
    lines: list[dict[str, Any]] = []
    columns: dict[str, None] = {"idx": None, "label": None}
    for each in data.idx.tolist():
        if each not in rows["clean"]:
            continue
        line: dict[str, Any] = {"idx": each, "label": rows["clean"][each]["label"]}
        for stage, made in rows.items():
            if each in made:
                line |= _cells(stage, made[each])
        columns |= dict.fromkeys(line)
        lines.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _cells(stage: str, row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name == "squared_steps":
            found[f"{stage}.l2"] = repr(math.sqrt(value) / LEVELS)
        elif name not in ("idx", "label", "pixels", "attempts"):
            found[f"{stage}.{name}"] = int(value) if isinstance(value, bool) else value
    return found
