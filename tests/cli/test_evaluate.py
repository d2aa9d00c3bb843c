"""`certserve evaluate certify`: a data set in, a table and a report out."""

from __future__ import annotations

import json
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from certserve import bundle as bundles
from certserve import zoo
from certserve.endpoints.local import LocalModel
from certserve.evaluation.accuracy import certified_accuracy
from certserve.evaluation.tables import Row, append_row, read_table

SMALL = ("--n0", "10", "--n", "100", "--alpha", "0.01")


def true_class(sample: Path) -> int:
    """The class that a packaged sample's name gives."""
    labels = tomllib.loads((zoo.path_of(None) / "model.toml").read_text(encoding="utf-8"))["labels"]
    names: list[str] = ["_".join(re.findall("[a-z]+", label.lower())) for label in labels]
    return names.index(sample.stem.split("_", 1)[1])


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first samples of the packaged model, under the positions that their names give."""
    paths = zoo.samples()[:4]
    path = tmp_path_factory.mktemp("data") / "samples.npz"
    np.savez(
        path,
        x=np.stack([np.asarray(Image.open(sample).convert("L")) for sample in paths]),
        y=[true_class(sample) for sample in paths],
        idx=[int(sample.stem.split("_")[0]) for sample in paths],
    )
    return path


@pytest.fixture(scope="session")
def certified(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of that data."""
    from click.testing import CliRunner

    from certserve.cli import main

    table = tmp_path_factory.mktemp("tables") / "certified.tsv"
    words = ["evaluate", "certify", "--data", str(data), "-o", str(table), *SMALL]
    result = CliRunner().invoke(main, words, catch_exceptions=False, prog_name="certserve")
    assert result.exit_code == 0, result.output
    assert "certified accuracy" in result.stdout
    assert "Abstentions and wrong labels count as failures" in result.stdout
    return table


@pytest.fixture
def table(certified: Path, tmp_path: Path) -> Path:
    """A copy of that table, with its record and its secret."""
    for name in ("table.tsv", "table.tsv.json", "table.tsv.secret"):
        source = certified.with_name(name.replace("table", "certified"))
        (tmp_path / name).write_bytes(source.read_bytes())
    return tmp_path / "table.tsv"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The images that the model is asked about."""
    seen: list[Any] = []
    original = LocalModel.certify

    def counting(self: LocalModel, image: Any, **options: Any) -> Any:
        seen.append(image)
        return original(self, image, **options)

    monkeypatch.setattr(LocalModel, "certify", counting)
    return seen


def ask(cli: Any, data: Path, table: Path, *more: object) -> Any:
    """The JSON that the command prints."""
    result = cli("evaluate", "certify", "--data", data, "-o", table, *SMALL, "--json", *more)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_report_is_about_the_table(cli: Any, data: Path, table: Path, one_line: Any) -> None:
    result = cli("evaluate", "certify", "--data", data, "-o", table, *SMALL, "--radius", "0.125")
    assert result.exit_code == 0
    rows = read_table(table)
    with np.load(data) as arrays:
        expected = dict(zip(arrays["idx"].tolist(), arrays["y"].tolist(), strict=True))
    assert {row.idx: row.label for row in rows} == expected
    share = certified_accuracy(rows, 0.125, alpha=0.01)
    said = one_line(result.stdout)
    assert f"0.125 │ {share.value:.3f} ({share.count} of 4) │ {share.low:.3f} to {share.high:.3f}" in said


def test_json_has_every_radius_and_every_digit(cli: Any, data: Path, table: Path) -> None:
    document = ask(cli, data, table)
    assert [share["radius"] for share in document["certified_accuracy"]] == [0.0, 0.25, 0.5, 0.75]
    assert document["compared_with"] == {}
    share = certified_accuracy(read_table(table), 0.25, alpha=0.01)
    found = document["certified_accuracy"][1]
    assert [found[name] for name in ("count", "total", "low", "high")] == [share.count, 4, share.low, share.high]


def test_a_whole_table_asks_nothing_and_a_shorter_one_what_is_missing(
    cli: Any, data: Path, table: Path, asked: list[Any]
) -> None:
    before = table.read_bytes()
    ask(cli, data, table)
    assert asked == []
    assert table.read_bytes() == before
    table.write_bytes(before[: before.rindex(b"\n", 0, -1) - 3])
    ask(cli, data, table)
    assert len(asked) == 2
    assert len(read_table(table)) == 4


def test_every_takes_the_positions_it_divides(cli: Any, data: Path, tmp_path: Path) -> None:
    with np.load(data) as arrays:
        idx = arrays["idx"].tolist()
    step = next(k for k in range(2, 10_000) if 0 < sum(i % k == 0 for i in idx) < len(idx))
    ask(cli, data, tmp_path / "some.tsv", "--every", step)
    assert sorted(row.idx for row in read_table(tmp_path / "some.tsv")) == sorted(i for i in idx if i % step == 0)


def test_a_table_compared_with_itself_differs_nowhere(cli: Any, data: Path, table: Path) -> None:
    compared = ask(cli, data, table, "--compare", table)["compared_with"]
    assert list(compared) == ["table"]
    for found in compared["table"]:
        assert (found["total"], found["only_ours"], found["only_theirs"]) == (4, 0, 0)
        assert found["low"] < 0.0 < found["high"]
    printed = cli("evaluate", "certify", "--data", data, "-o", table, *SMALL, "--compare", table).stdout
    assert "less table" in printed
    assert printed.count("+0.000 (-") == 4


def test_tables_of_one_name_are_told_apart(
    cli: Any, data: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from certserve.evaluation import plots

    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr(plots, "plot_certified_accuracy", lambda tables, _: drawn.append(tables))
    others = [tmp_path / place / "table.tsv" for place in ("a", "b")]
    for i, other in enumerate(others):
        other.parent.mkdir()
        for row in read_table(table)[i:]:
            append_row(other, row)
    comparing = [word for other in others for word in ("--compare", other)]
    compared = ask(cli, data, table, *comparing, "--plot", tmp_path / "x.png")["compared_with"]
    assert {name: found[0]["total"] for name, found in compared.items()} == {str(others[0]): 4, str(others[1]): 3}
    assert list(drawn[0]) == [str(table), *map(str, others)]


def test_a_plot_has_only_images_that_ours_has(
    cli: Any, data: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A curve over other images fails: two such curves say nothing of two models."""
    from certserve.evaluation import plots

    drawn: list[Any] = []
    monkeypatch.setattr(plots, "plot_certified_accuracy", lambda tables, _: drawn.append(tables))
    larger = tmp_path / "larger.tsv"
    larger.write_bytes(table.read_bytes())
    append_row(larger, Row(99_999, 0, 0, 0.5))
    ask(cli, data, table, "--compare", larger, "--plot", tmp_path / "x.png")
    ours, theirs = drawn[0].values()
    assert [row.idx for row in theirs] == [row.idx for row in ours]


def test_a_plot_is_written(cli: Any, data: Path, table: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ask(cli, data, table, "--compare", table, "--plot", tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.format == "PNG"


def test_a_folder_of_pictures_is_decoded_for_the_model(cli: Any, tmp_path: Path) -> None:
    sample = zoo.samples()[0]
    (tmp_path / "a.png").write_bytes(sample.read_bytes())
    (tmp_path / "labels.csv").write_text(f"file,label\na.png,{true_class(sample)}\n", encoding="utf-8")
    assert ask(cli, tmp_path, tmp_path / "table.tsv")["certified_accuracy"][0]["total"] == 1


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((2, 28, 28), np.uint8)}, "['y'] are missing"),
        ({"x": np.zeros((2, 28, 28), np.float32), "y": [1, 2]}, "expected uint8 images"),
        ({"x": np.zeros((0, 28, 28), np.uint8), "y": []}, "expected at least one row"),
    ],
)
def test_bad_data_is_refused_in_a_sentence(
    cli: Any, only_sentence: Any, tmp_path: Path, arrays: dict[str, Any], said: str
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    result = cli("evaluate", "certify", "--data", tmp_path / "bad.npz", "-o", tmp_path / "table.tsv", *SMALL)
    assert said in only_sentence(result, 1)
    assert not (tmp_path / "table.tsv").exists()


def test_another_question_and_a_bad_table_are_refused_in_a_sentence(
    cli: Any, only_sentence: Any, data: Path, table: Path, tmp_path: Path
) -> None:
    words = ("evaluate", "certify", "--data", data, "-o", table)
    assert "another model, execution, question or secret" in only_sentence(cli(*words, *SMALL, "--n", "101"), 1)
    other = tmp_path / "other.csv"
    other.write_text("idx,label,predict,radius\n0,9,9,far\n", encoding="utf-8")
    assert "other.csv, line 2" in only_sentence(cli(*words, *SMALL, "--compare", other), 1)


def test_what_is_missing_is_said_at_once(cli: Any, tmp_path: Path) -> None:
    assert cli("evaluate", "certify", "-o", tmp_path / "t.tsv").exit_code == 2
    assert cli("evaluate", "certify", "--data", tmp_path / "none", "-o", tmp_path / "t.tsv").exit_code == 2


def test_the_secret_lies_beside_the_table_for_its_owner_only(
    cli: Any, only_sentence: Any, data: Path, table: Path
) -> None:
    """Without it the table cannot be gone on with: the noise would be other noise."""
    secret = table.with_name("table.tsv.secret")
    secret.unlink()
    result = cli("evaluate", "certify", "--data", data, "-o", table, *SMALL)
    assert "question or secret; name another file" in only_sentence(result, 1)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_two_runs_with_one_secret_give_one_table(cli: Any, data: Path, table: Path, tmp_path: Path) -> None:
    (tmp_path / "again.tsv.secret").write_bytes(table.with_name("table.tsv.secret").read_bytes())
    ask(cli, data, tmp_path / "again.tsv")
    found, again = (
        [line.rpartition("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (table, tmp_path / "again.tsv")
    )
    assert found == again


def test_an_execution_is_chosen_by_name(cli: Any, only_sentence: Any, half: Path, tmp_path: Path) -> None:
    bundles.write(
        tmp_path / "two",
        {"weights.npz": (half / "weights.npz").read_bytes()},
        name="two",
        labels=("dark", "bright"),
        shape=(1, 4, 4),
        sigmas=(0.25,),
        executions=[bundles.Execution(name, "weights.npz", "linear", "float64") for name in ("one", "other")],
    )
    np.savez(tmp_path / "data.npz", x=np.full((1, 4, 4), 250, np.uint8), y=[1])
    for words, used in (((), "one"), (("--execution", "other"), "other")):
        table = tmp_path / f"{used}.tsv"
        ask(cli, tmp_path / "data.npz", table, "--model", tmp_path / "two", *words)
        record = json.loads(table.with_name(f"{used}.tsv.json").read_text(encoding="utf-8"))
        assert record["execution"] == used
    about = ("--data", tmp_path / "data.npz", "--model", tmp_path / "two", "-o", tmp_path / "third.tsv")
    said = only_sentence(cli("evaluate", "certify", *about, "--execution", "third"), 1)
    assert said.endswith("has no execution 'third'; there are one, other")
    assert not (tmp_path / "third.tsv").exists()


def test_a_program_is_opened_when_it_is_trusted_only(
    cli: Any, only_sentence: Any, data: Path, program: Path, tmp_path: Path
) -> None:
    words = ("evaluate", "certify", "--data", data, "-o", tmp_path / "table.tsv", "--model", program)
    assert "can run any code on this machine" in only_sentence(cli(*words), 1)
    pytest.importorskip("torch")
    assert "expected a program written by torch.export.save" in cli(*words, "--trust").stderr
