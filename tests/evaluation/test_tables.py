"""Tables on disk: every digit kept, published ones read, and nothing half understood."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from certserve.evaluation.tables import ABSTAINED, COLUMNS, Row, TableError, append_row, drop_unfinished, read_table

PUBLISHED = sorted((Path(__file__).parents[1] / "smoothing" / "published").glob("*.csv"))
ROWS = [
    Row(0, 9, 9, 0.1 + 0.2),
    Row(20, 2, 3, math.nextafter(0.5, 0.0)),
    Row(5, 1, ABSTAINED, 0.0),
    Row(40, 4, 4, 5e-324),
    Row(10**9, 0, 0, 1.0 / 3.0),
]


def write(path: Path, *lines: str) -> Path:
    """A file of these lines."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_what_is_written_is_read_to_the_last_digit(tmp_path: Path) -> None:
    table = tmp_path / "table.tsv"
    for i, row in enumerate(ROWS):
        append_row(table, row)
        assert read_table(table) == ROWS[: i + 1]


def test_an_append_begun_twice_has_one_header(tmp_path: Path) -> None:
    table = write(tmp_path / "table.tsv")
    for row in ROWS:
        append_row(table, row)
    lines = table.read_text(encoding="utf-8").split("\n")
    assert lines[0].split("\t") == list(COLUMNS)
    assert lines[1:3] == ["0\t9\t9\t0.30000000000000004\t1\t0.000", "20\t2\t3\t0.49999999999999994\t0\t0.000"]
    assert len(lines) == 1 + len(ROWS) + 1
    assert lines[-1] == ""


def test_the_time_is_written(tmp_path: Path) -> None:
    append_row(tmp_path / "table.tsv", Row(1, 2, 2, 0.5, 1.23456))
    assert (tmp_path / "table.tsv").read_text(encoding="utf-8").endswith("\t1.235\n")


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_published_table_is_read(path: Path) -> None:
    rows = read_table(path)
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    assert len(rows) == len(lines) > 20
    for row, line in zip(rows, lines, strict=True):
        idx, label, predict, radius, correct = line.split(",")
        assert (row.idx, row.label, row.predict) == (int(idx), int(label), int(predict))
        assert row.radius == float(radius)
        assert row.correct == bool(int(correct))


def test_a_table_as_its_authors_print_it_is_read(tmp_path: Path) -> None:
    table = write(tmp_path / "theirs", "\t".join(COLUMNS), "0\t3\t3\t0.377\t1\t0:00:12.5", "1\t8\t-1\t0.0\t0\t0:00:01")
    assert read_table(table) == [Row(0, 3, 3, 0.377), Row(1, 8, ABSTAINED, 0.0)]
    table.write_text(table.read_text(encoding="utf-8").rstrip("\n"), encoding="utf-8")
    assert len(read_table(table)) == 2


def test_the_order_of_columns_is_the_headers(tmp_path: Path) -> None:
    assert read_table(write(tmp_path / "t.csv", "radius,predict,label,idx", "0.5,1,2,3")) == [Row(3, 2, 1, 0.5)]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((), "idx, label, predict, radius missing"),
        (("idx,label,predict", "1,2,3"), "radius missing"),
        (("idx label predict radius", "1 2 3 0.5"), "missing"),
        (("idx,label,predict,radius", "1,2,3,far"), "line 2: .*far"),
        (("idx,label,predict,radius", "1,2,3,0.5", "1.5,2,3,0.5"), "line 3"),
        (("idx,label,predict,radius", "1,2,3"), "line 2"),
        (("idx,label,predict,radius,correct", "1,2,3,0.3"), "line 2: expected a value a column"),
        (("idx,label,predict,radius", "1,2,2,nan"), "line 2.*finite"),
        (("idx,label,predict,radius", "1,2,2,inf"), "line 2.*finite"),
        (("idx,label,predict,radius", "1,2,2,-0.5"), "line 2.*at least 0"),
        (("idx,label,predict,radius", "1,2,2,0.5", "2,2,2,0.5", "1,2,2,0.5"), "image 1 occurs twice"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(TableError, match=said):
        read_table(write(tmp_path / "table.csv", *lines))


def test_an_unfinished_line_is_cut_off_wherever_it_ends(tmp_path: Path) -> None:
    table = tmp_path / "table.tsv"
    for row in ROWS[:2]:
        append_row(table, row)
    content = table.read_bytes()
    header = content.index(b"\n") + 1
    last = content.rindex(b"\n", 0, -1) + 1
    for end in range(header, len(content)):
        table.write_bytes(content[:end])
        drop_unfinished(table)
        whole = content[: last if end >= last else header]
        assert table.read_bytes() == whole
        append_row(table, ROWS[1] if end >= last else ROWS[0])
        assert read_table(table) == (ROWS[:2] if end >= last else ROWS[:1])
    for end in range(header):
        table.write_bytes(content[:end])
        drop_unfinished(table)
        assert table.read_bytes() == b""


@pytest.mark.parametrize(("predict", "label", "correct"), [(3, 3, True), (3, 4, False), (ABSTAINED, ABSTAINED, False)])
def test_an_abstention_is_never_correct(predict: int, label: int, correct: bool) -> None:
    row = Row(0, label, predict, 0.5)
    assert row.correct is correct
    assert row.certified_at(0.5) is correct
    assert not row.certified_at(math.nextafter(0.5, 1.0))
