"""Tables of certificates, a row an image, with the columns of the published ones.

Cohen et al. (2019) publish tab-separated `idx label predict radius correct time`; `predict` is -1 and `radius` 0
where the procedure abstained.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ABSTAINED", "COLUMNS", "Row", "TableError", "append_row", "drop_unfinished", "read_table"]

ABSTAINED = -1
COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")


class TableError(ValueError):
    """A table that cannot be used; one sentence that says what was expected."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image.

    Attributes:
        idx: its position in the data set. label: its true class. predict: the certified class, or -1.
        radius: certified radius in input units, 0 where abstained. seconds: what the answer took.
    """

    idx: int
    label: int
    predict: int
    radius: float
    seconds: float = 0.0

    @property
    def correct(self) -> bool:
        """Whether the certified class is the true one."""
        return self.predict == self.label != ABSTAINED

    def certified_at(self, radius: float) -> bool:
        """Whether the image counts as certified at `radius`: right, and at least that far."""
        return self.correct and self.radius >= radius


def read_table(path: Path) -> list[Row]:
    """The rows of a table, ours or a published one: separated by tabs or commas, `time` optional.

    Raises:
        TableError: columns are missing, a value is not understood, or an idx occurs twice.
        OSError: the file cannot be read.
    """
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    reader = csv.DictReader(lines, delimiter="\t" if lines and "\t" in lines[0] else ",")
    missing = set(COLUMNS[:4]) - set(reader.fieldnames or ())
    if missing:
        raise TableError(f"{path}: expected the columns {', '.join(COLUMNS)}; {', '.join(sorted(missing))} missing")
    rows = []
    for number, fields in enumerate(reader, 2):
        try:
            row = Row(int(fields["idx"]), int(fields["label"]), int(fields["predict"]), float(fields["radius"]))
        except (TypeError, ValueError) as error:
            raise TableError(f"{path}, line {number}: {error}") from error
        if None in fields.values() or not 0.0 <= row.radius < math.inf:
            raise TableError(f"{path}, line {number}: expected a value a column, and a finite radius of at least 0")
        rows.append(row)
    _check_unique(path, rows)
    return rows


def append_row(path: Path, row: Row) -> None:
    """Add a row to a table, which is begun with its header; complete on disk when this returns."""
    begin = not path.exists() or path.stat().st_size == 0
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        if begin:
            writer.writerow(COLUMNS)
        writer.writerow([row.idx, row.label, row.predict, repr(row.radius), int(row.correct), f"{row.seconds:.3f}"])


def drop_unfinished(path: Path) -> None:
    """Cut off a last line without its end, left by a run that was killed within it; nothing for a whole table."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


def _check_unique(path: Path, rows: Iterable[Row]) -> None:
    seen: set[int] = set()
    for row in rows:
        if row.idx in seen:
            raise TableError(f"{path}: the image {row.idx} occurs twice")
        seen.add(row.idx)
