"""Rows on disk, a line of JSON an image and stage, each complete as soon as it is made."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from certserve.evaluation.tables import TableError, drop_unfinished

__all__ = ["Row", "Rows", "check_record", "whole"]

Row: TypeAlias = Mapping[str, Any]
"""Of one image; its `idx` is the image's position in the data set."""


class Rows:
    """The rows of one stage. An unfinished last line, of a run that was killed within it or is writing it, is no row.

    Raises:
        TableError: a line holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[int, Row] = {}
        if path.exists():
            content = path.read_bytes()
            for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
                try:
                    row = json.loads(line)
                    self._rows[int(row["idx"])] = row
                except (KeyError, TypeError, ValueError) as error:
                    raise TableError(f"{path}, line {number}: expected a row with an idx; {error}") from error

    def __contains__(self, idx: int) -> bool:
        return idx in self._rows

    def __getitem__(self, idx: int) -> Row:
        return self._rows[idx]

    def mend(self) -> None:
        """Cut an unfinished last line off; to be done once, before the first is added."""
        if self._path.exists():
            drop_unfinished(self._path)

    def append(self, row: Row) -> None:
        """Add a row; complete on disk when this returns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._rows[row["idx"]] = row


def check_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write what the rows are about, or refuse if they are about something else.

    Raises:
        TableError: they were begun with another question, model or execution.
    """
    text = json.dumps(record, indent=2) + "\n"
    if not path.exists():
        whole(path, text.encode())
    elif path.read_text(encoding="utf-8") != text:
        raise TableError(f"{path}: was begun with another model, execution, question or secret; name another folder")


def whole(path: Path, content: bytes) -> None:
    """Write the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"new-{path.name}")
    beside.write_bytes(content)
    os.replace(beside, path)
