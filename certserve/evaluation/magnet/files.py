"""A report on a MagNet as files: CSV, JSON, a picture and a page."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from certserve.evaluation.magnet.lines import write_lines
from certserve.evaluation.magnet.page import page
from certserve.evaluation.magnet.report import Report, document

__all__ = ["write"]


def write(report: Report, folder: Path) -> None:
    """Write `magnet.csv`, `magnet.json`, `magnet.png` and `magnet.html`, each whole or not at all.

    Raises:
        ModuleNotFoundError: matplotlib is not installed (`pip install 'certserve[evaluate]'`).
    """
    from certserve.evaluation.magnet.picture import draw  # needs matplotlib

    text = json.dumps(document(report), indent=2, ensure_ascii=False) + "\n"
    _whole(folder / "magnet.csv", lambda path: write_lines(report.lines, path))
    _whole(folder / "magnet.json", lambda path: path.write_text(text, encoding="utf-8"))
    _whole(folder / "magnet.png", lambda path: draw(report.lines, path, report.bundle.name))
    html = page(report, (folder / "magnet.png").read_bytes())
    _whole(folder / "magnet.html", lambda path: path.write_text(html, encoding="utf-8"))


def _whole(path: Path, make: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"new-{path.name}")
    make(beside)
    os.replace(beside, path)
