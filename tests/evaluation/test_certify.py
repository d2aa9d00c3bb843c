"""A data set becomes a table; an interrupted run goes on; two questions or secrets never share a table."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certserve.datasets import Dataset
from certserve.endpoints.local import LocalModel
from certserve.errors import CertserveError
from certserve.evaluation.certify import Question, certify_dataset, secret_of
from certserve.evaluation.tables import ABSTAINED, Row, TableError, append_row, read_table
from certserve.noise.keystream import Secret
from certserve.smoothing.outcomes import Abstention, Certificate

SECRET = Secret(bytes(range(32)))  # what `opener` opens its models with


def timeless(rows: list[Row]) -> list[Row]:
    """The rows without what their answers took."""
    return [dataclasses.replace(row, seconds=0.0) for row in rows]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The pixels of every image that was asked about, in no particular order."""
    seen: list[bytes] = []
    lock = threading.Lock()
    original = LocalModel.certify

    def counting(self: LocalModel, image: Any, **options: Any) -> Any:
        with lock:
            seen.append(image.tobytes())
        return original(self, image, **options)

    monkeypatch.setattr(LocalModel, "certify", counting)
    return seen


def test_the_table_is_what_asking_one_by_one_gives(model: LocalModel, dataset: Dataset, table: Path) -> None:
    rows = certify_dataset(model, dataset, Question(), table)
    assert [row.idx for row in rows] == dataset.idx.tolist()
    assert [row.label for row in rows] == dataset.labels.tolist()
    for row, image in zip(rows, dataset.images, strict=True):
        outcome = model.certify(image)
        if isinstance(outcome, Certificate):
            assert (row.predict, row.radius) == (outcome.label, outcome.radius)
        else:
            assert isinstance(outcome, Abstention)
            assert (row.predict, row.radius) == (ABSTAINED, 0.0)
    assert timeless(read_table(table)) == timeless(rows)
    assert all(row.seconds > 0.0 for row in rows)


def test_an_image_on_the_boundary_abstains_and_a_clear_one_does_not(
    model: LocalModel, dataset: Dataset, table: Path
) -> None:
    by_idx = {row.idx: row for row in certify_dataset(model, dataset, Question(alpha=1e-9), table)}
    assert (by_idx[50].predict, by_idx[50].radius, by_idx[50].correct) == (ABSTAINED, 0.0, False)
    assert by_idx[30].certified_at(0.25)
    assert by_idx[7].predict == 1
    assert by_idx[7].radius > 0.25
    assert not by_idx[7].certified_at(0.0)


def test_the_question_reaches_the_model_and_the_record(model: LocalModel, dataset: Dataset, table: Path) -> None:
    (row,) = certify_dataset(model, dataset.where(dataset.idx == 30), Question(0.25, 10, 120, 0.01), table)
    outcome = model.certify(dataset.images[0], sigma=0.25, n0=10, n=120, alpha=0.01)
    assert isinstance(outcome, Certificate)
    assert row.radius == outcome.radius
    record = json.loads(table.with_name("table.tsv.json").read_text(encoding="utf-8"))
    assert [record[name] for name in ("model", "sigma", "n0", "n", "alpha")] == ["half", 0.25, 10, 120, 0.01]
    assert record["fingerprint"] == model.get_model().execution.fingerprint
    assert record["commitment"] == SECRET.commitment


@pytest.mark.parametrize("unfinished", ["", "40\t0", "40\t0\t0\t0.1", "40\t0\t0\t0.12345678\t1\t0.0"])
def test_an_interrupted_run_asks_only_for_what_is_missing(
    model: LocalModel, dataset: Dataset, table: Path, asked: list[bytes], unfinished: str
) -> None:
    whole = timeless(certify_dataset(model, dataset, Question(), table))
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.split("\t")[0] not in ("40", "7")]
    table.write_text("".join(kept) + unfinished, encoding="utf-8")
    asked.clear()
    told: list[tuple[int, int]] = []
    again = certify_dataset(model, dataset, Question(), table, lambda done, of: told.append((done, of)))
    assert timeless(again) == whole
    assert sorted(asked) == sorted(image.tobytes() for image in dataset.images[4:])
    assert told == [(5, 6), (6, 6)]
    assert len(read_table(table)) == 6
    asked.clear()
    assert timeless(certify_dataset(model, dataset, Question(), table)) == whole
    assert asked == []


@pytest.mark.parametrize("left", ["", "idx\tlab", "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"])
def test_a_run_killed_before_its_first_row_goes_on(model: LocalModel, dataset: Dataset, table: Path, left: str) -> None:
    whole = timeless(certify_dataset(model, dataset, Question(), table))
    table.write_text(left, encoding="utf-8")
    assert timeless(certify_dataset(model, dataset, Question(), table)) == whole
    assert table.read_text(encoding="utf-8").count("idx") == 1


def test_a_failure_leaves_a_table_that_can_be_gone_on_with(
    model: LocalModel, dataset: Dataset, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LocalModel.certify

    def failing(self: LocalModel, image: Any, **options: Any) -> Any:
        if np.array_equal(image, dataset.images[3]):
            raise CertserveError("no")
        return original(self, image, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LocalModel, "certify", failing)
        with pytest.raises(CertserveError, match="no"):
            certify_dataset(model, dataset, Question(), table)
    assert len(certify_dataset(model, dataset, Question(), table)) == len(read_table(table)) == 6


@pytest.mark.parametrize("other", [Question(n=201), Question(n0=21), Question(alpha=0.002)])
def test_a_table_of_another_question_is_refused_and_left_alone(
    model: LocalModel, dataset: Dataset, table: Path, asked: list[bytes], other: Question
) -> None:
    certify_dataset(model, dataset, Question(), table)
    files = [table, table.with_name("table.tsv.json")]
    before = [file.read_bytes() for file in files]
    asked.clear()
    with pytest.raises(TableError, match="another model, execution, question or secret"):
        certify_dataset(model, dataset, other, table)
    assert [file.read_bytes() for file in files] == before
    assert asked == []
    certify_dataset(model, dataset, Question(0.25, 20, 200, 0.001), table)  # the defaults, spelt out


def test_a_table_of_another_model_is_refused(
    model: LocalModel, opener: Callable[[str], LocalModel], dataset: Dataset, table: Path
) -> None:
    certify_dataset(model, dataset, Question(), table)
    with opener("other") as other, pytest.raises(TableError, match="another model"):
        certify_dataset(other, dataset, Question(), table)


def test_a_table_without_its_record_is_refused_unharmed(model: LocalModel, dataset: Dataset, table: Path) -> None:
    content = "idx\tlabel\tpredict\tradius\n30\t1\t1\t0.5"
    table.write_text(content, encoding="utf-8")
    with pytest.raises(TableError, match="another model"):
        certify_dataset(model, dataset, Question(), table)
    assert table.read_text(encoding="utf-8") == content


@pytest.mark.parametrize("stranger", [Row(99, 1, 1, 0.5), Row(30, 0, 0, 0.5)], ids=["idx", "label"])
def test_rows_of_another_data_set_are_refused(
    model: LocalModel, dataset: Dataset, table: Path, asked: list[bytes], stranger: Row
) -> None:
    certify_dataset(model, dataset.where(dataset.idx != 30), Question(), table)
    append_row(table, stranger)
    asked.clear()
    with pytest.raises(TableError, match=rf"\[{stranger.idx}\]"):
        certify_dataset(model, dataset, Question(), table)
    assert asked == []


def test_the_rows_are_in_the_data_sets_order_whichever_answer_comes_first(
    model: LocalModel, dataset: Dataset, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, third_is_done = LocalModel.certify, threading.Event()

    def late(self: LocalModel, image: Any, **options: Any) -> Any:
        if np.array_equal(image, dataset.images[0]):
            assert third_is_done.wait(30)
        outcome = original(self, image, **options)
        if np.array_equal(image, dataset.images[2]):
            third_is_done.set()
        return outcome

    monkeypatch.setattr(LocalModel, "certify", late)
    certify_dataset(model, dataset, Question(), table)
    assert [row.idx for row in read_table(table)] == dataset.idx.tolist()


@pytest.fixture
def any_mask() -> Iterator[None]:
    """A process that would let everybody read its files."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("any_mask")
def test_a_tables_secret_is_made_once_for_its_owner_only(table: Path) -> None:
    secret = secret_of(table)
    kept = table.with_name("table.tsv.secret")
    assert kept.read_text(encoding="ascii") == secret.secret_bytes.hex() + "\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [path.name for path in table.parent.iterdir()] == ["table.tsv.secret"]
    before = kept.stat()
    assert secret_of(table) == secret
    assert kept.stat() == before
    assert secret_of(table.with_name("other.tsv")) != secret


@pytest.mark.parametrize("content", ["", "5a" * 31, "5a" * 33, "no secret", "\u00fc"])
def test_a_file_that_is_no_secret_is_refused_and_left_alone(table: Path, content: str) -> None:
    kept = table.with_name("table.tsv.secret")
    kept.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"32 bytes|expected 64 hexadecimal digits"):
        secret_of(table)
    assert kept.read_text(encoding="utf-8") == content


def test_a_secret_is_there_as_a_whole_or_not_at_all(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a run killed at the wrong moment leaves half a secret, which stops every later one."""

    def fail(*_: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("os.link", fail)
        with pytest.raises(OSError, match="killed"):
            secret_of(table)
    assert not table.with_name("table.tsv.secret").exists()
    assert secret_of(table) == secret_of(table)


def test_a_table_gone_on_with_is_the_one_of_an_undisturbed_run(
    opener: Callable[..., LocalModel], dataset: Dataset, table: Path
) -> None:
    """Each run opens the model anew, with the secret that lies beside the table."""

    def run() -> list[str]:
        with opener("half", secret_of(table)) as model:
            certify_dataset(model, dataset, Question(), table)
        return [line.rpartition("\t")[0] for line in table.read_text(encoding="utf-8").splitlines()]

    whole, content = run(), table.read_bytes()
    for end in range(0, len(content), 17):
        table.write_bytes(content[:end])
        assert run() == whole


def test_a_table_of_another_secret_is_refused(
    model: LocalModel, opener: Callable[..., LocalModel], dataset: Dataset, table: Path
) -> None:
    certify_dataset(model, dataset, Question(), table)
    before = table.read_bytes()
    with opener("half", Secret(bytes(32))) as other, pytest.raises(TableError, match=r"another .* or secret"):
        certify_dataset(other, dataset, Question(), table)
    assert table.read_bytes() == before
