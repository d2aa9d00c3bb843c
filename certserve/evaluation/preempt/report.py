"""Figures and rows -> what a reader is told: sentences, CSV, JSON, a picture and a page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certserve.bundle import Bundle
from certserve.datasets import Dataset
from certserve.endpoints.requests import ExecutionInfo
from certserve.evaluation.preempt.figures import Facts, Figures
from certserve.evaluation.preempt.question import Question
from certserve.evaluation.preempt.rows import Row, Rows, whole

if TYPE_CHECKING:
    from certserve.evaluation.preempt.stages import Stages

__all__ = ["Report", "document", "write"]

_LEVELS = 255


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
    """The report as JSON has it."""
    return {
        "model": report.bundle.name,
        "version": report.bundle.version,
        "digests": dict(report.bundle.digests),
        "execution": asdict(report.execution),
        "question": asdict(report.question),
        "certificates": asdict(report.facts),
        **report.figures.document(),
    }


def write(report: Report, rows: Mapping[str, Rows], data: Dataset, stages: Stages, folder: Path) -> None:
    """Write `preempt.csv` and `preempt.json`, each whole or not at all."""
    text = json.dumps(_finite(document(report)), indent=2, ensure_ascii=False) + "\n"
    whole(folder / "preempt.csv", _table(rows, data).encode())
    whole(folder / "preempt.json", text.encode())


def _finite(value: Any) -> Any:
    """JSON has no NaN: null where there is no figure."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
            found[f"{stage}.l2"] = repr(math.sqrt(value) / _LEVELS)
        elif name not in ("idx", "label", "pixels", "attempts"):
            found[f"{stage}.{name}"] = int(value) if isinstance(value, bool) else value
    return found
