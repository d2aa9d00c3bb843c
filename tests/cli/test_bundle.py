"""`certserve bundle create`: from an ONNX file to certificates, and every refusal in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from certserve import bundle as bundles

_LABELS = "north,east,south,west"


@pytest.fixture(scope="module")
def onnx_file(models: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good classifier of 3 x 8 x 8 images and four classes."""
    path: Path = models.classifier(tmp_path_factory.mktemp("onnx") / "tiny.onnx")
    return path


@pytest.fixture
def create(cli: Any, onnx_file: Path, tmp_path: Path) -> Any:
    """`certserve bundle create` of the good classifier, or another, into `tmp_path / "made"`."""

    def run(*arguments: object, labels: object = _LABELS, model: Path = onnx_file) -> Any:
        given = ("--labels", labels, "--sigma", "0.25", "-o", tmp_path / "made")
        return cli("bundle", "create", model, *given, *arguments)

    return run


def test_what_is_made_certifies_and_is_what_was_said(cli: Any, create: Any, one_line: Any, tmp_path: Path) -> None:
    result = create("--sigma", "0.5", "--name", "compass", "--description", "Which way.", "--n", "300", "--n0", "40")
    assert result.exit_code == 0, result.output
    said = one_line(result.stdout)
    assert "4 classes, input 3x8x8 rgb, sigma 0.25, 0.5" in said
    assert f"Try: certserve certify IMAGE --model {tmp_path / 'made'} --fit resize-crop\n" in result.stdout
    made = bundles.read(tmp_path / "made")
    assert (made.name, made.labels, made.sigmas) == ("compass", ("north", "east", "south", "west"), (0.25, 0.5))
    assert made.description == "Which way."
    image = tmp_path / "image.png"
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(image)
    asked = cli("certify", image, "--model", tmp_path / "made", "--json")
    assert asked.exit_code == 0, asked.output
    document = json.loads(asked.stdout)
    assert document["origin"]["model"] == "compass"
    assert (document["setting"]["n0"], document["setting"]["n"]) == (40, 300)
    assert cli("verify", "-", stdin=asked.stdout).exit_code == 0


def test_json_names_what_was_made(create: Any, tmp_path: Path) -> None:
    made = json.loads(create("--json").stdout)
    assert made["path"] == str(tmp_path / "made")
    assert made["name"] == "made"
    assert len(made["fingerprint"]) == 64


def test_the_normalisation_becomes_part_of_the_model(create: Any, tmp_path: Path) -> None:
    assert create("--mean", "0.5,0.4,0.3", "--std", "0.1,0.2,0.3", "--resize", "9").exit_code == 0
    made = bundles.read(tmp_path / "made")
    assert made.provenance["mean"] == "[0.5, 0.4, 0.3]"
    assert made.provenance["std"] == "[0.1, 0.2, 0.3]"
    assert made.resize == 9


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("labels.txt", "north\neast\n\nsouth\nwest\n"),
        ("labels.csv", "index,name\n0,north\n1,east\n2,south\n3,west\n"),
        ("labels.csv", "label,colour\nnorth,red\neast,red\nsouth,red\nwest,red\n"),
        ("labels.csv", "\N{ZERO WIDTH NO-BREAK SPACE}name\nnorth\neast\nsouth\nwest\n"),
        ("a,b.txt", "north\r\neast\r\nsouth\r\nwest\r\n"),
    ],
)
def test_labels_from_a_file(create: Any, tmp_path: Path, name: str, contents: str) -> None:
    path = tmp_path / name
    path.write_text(contents, encoding="utf-8", newline="")
    assert create(labels=path).exit_code == 0
    assert bundles.read(tmp_path / "made").labels == ("north", "east", "south", "west")


@pytest.mark.parametrize("contents", ["", "name\n", "index,class\n0,north\n", "index,name\n0,north\n1\n"])
def test_a_csv_file_without_names_is_one_sentence(
    create: Any, only_sentence: Any, tmp_path: Path, contents: str
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(contents, encoding="utf-8")
    assert "expected a column `name`" in only_sentence(create(labels=path), 1)


def test_a_labels_file_that_is_not_there_is_a_wrong_use(create: Any) -> None:
    result = create(labels="clases.txt")
    assert result.exit_code == 2
    assert "'clases.txt' is neither a file nor a,b,c" in result.stderr


@pytest.mark.parametrize("count", [2, 3, 5, 400])
def test_a_wrong_number_of_labels_is_one_sentence(create: Any, only_sentence: Any, tmp_path: Path, count: int) -> None:
    said = only_sentence(create(labels=",".join(f"class{i}" for i in range(count))), 1)
    assert "4" in said
    assert f"{count} labels" in said
    assert not (tmp_path / "made").exists()


def test_an_existing_directory_is_not_touched(create: Any, only_sentence: Any, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine.txt").write_text("mine")
    assert "not empty" in only_sentence(create(), 1)
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("kind", ["reduce_mean", "nan", "transposed_mean"])
def test_a_refused_model_leaves_nothing_behind(
    create: Any, only_sentence: Any, models: ModuleType, tmp_path: Path, kind: str
) -> None:
    spoilt = models.spoilt(tmp_path / "spoilt.onnx", kind)
    only_sentence(create(model=spoilt), 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spoilt.onnx"]


def test_a_file_that_is_no_onnx_is_one_sentence(create: Any, only_sentence: Any) -> None:
    assert "test_bundle.py" in only_sentence(create(model=Path(__file__)), 1)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--mean", "0.5,0.5,0.5"], "std"),
        (["--mean", "0.5", "--std", "1"], "3 channels"),
        (["--mean", "0,0,0", "--std", "1,0,1"], "positive"),
        (["--colour", "grey"], "grey"),
        (["--sigma", "-1"], "sigma"),
        (["--alpha", "2"], "alpha"),
        (["--n", "0"], "n"),
        (["--resize", "3"], "resize"),
        (["--sigma", "20"], "sigmas of at most 10"),
        (["--n", "5"], "n of at least 10"),
    ],
)
def test_a_value_out_of_range_is_one_sentence(
    create: Any, only_sentence: Any, tmp_path: Path, arguments: list[str], fragment: str
) -> None:
    assert fragment in only_sentence(create(*arguments), 1)
    assert not (tmp_path / "made").exists()


def test_numbers_that_are_none_are_a_wrong_use(create: Any) -> None:
    result = create("--mean", "a,b,c", "--std", "1,1,1")
    assert result.exit_code == 2
    assert "--mean: expected numbers separated by commas, not 'a,b,c'" in result.stderr


@pytest.fixture(scope="module")
def program_file(models: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of torch.export: a residual network of 3 x 8 x 8 images and four classes."""
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    path: Path = models.program(tmp_path_factory.mktemp("programs") / "tiny.pt2")
    return path


def test_a_trusted_program_certifies(cli: Any, create: Any, one_line: Any, program_file: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    result = create("--shape", "3,8,8", "--trust", "--n", "300", "--resize", "9", model=program_file)
    assert result.exit_code == 0, result.output
    assert "4 classes, input 3x8x8 rgb, sigma 0.25" in one_line(result.stdout)
    assert f"Try: certserve certify IMAGE --model {made} --fit resize-crop --trust\n" in result.stdout
    assert f"Serve: certserve serve --model {made} --trust\n" in result.stdout
    found = bundles.read(made)
    assert (found.resize, found.defaults.n) == (9, 300)
    assert found.file("model.pt2").read_bytes() == program_file.read_bytes()
    image = tmp_path / "image.png"
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(image)
    asked = cli("certify", image, "--model", made, "--trust", "--json")
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.stdout)["setting"]["n"] == 300


def test_a_program_needs_trust(create: Any, only_sentence: Any, tmp_path: Path) -> None:
    """It is not opened without, so it does not matter here that this is none; and nothing is left of it."""
    (tmp_path / "tiny.pt2").write_bytes(b"no program")
    said = only_sentence(create("--shape", "3,8,8", model=tmp_path / "tiny.pt2"), 1)
    assert "model.pt2 is a program, which can run any code on this machine" in said
    assert "--trust" in said
    assert not (tmp_path / "made").exists()


def test_a_trusted_file_that_is_no_program_leaves_nothing_behind(create: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "tiny.pt2").write_bytes(b"no program")
    result = create("--shape", "3,8,8", "--trust", model=tmp_path / "tiny.pt2")
    assert result.exit_code == 1
    assert "expected a program written by torch.export.save" in result.stderr
    assert not (tmp_path / "made").exists()


def test_a_trusted_program_of_other_images_leaves_nothing_behind(
    create: Any, only_sentence: Any, program_file: Path, tmp_path: Path
) -> None:
    said = only_sentence(create("--shape", "3,9,9", "--trust", model=program_file), 1)
    assert "does not run on two rows at once" in said
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--shape", "3,8,8", "--mean", "0,0,0"],
        ["--shape", "3,8,8", "--std", "1,1,1"],
        ["--mean", "0", "--std", "1"],
    ],
)
def test_a_program_needs_a_shape_and_no_normalisation(create: Any, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "tiny.pt2").write_bytes(b"no program")
    result = create(*arguments, "--trust", model=tmp_path / "tiny.pt2")
    assert result.exit_code == 2
    assert "A .pt2 file needs --shape, and holds its normalisation: no --mean, no --std." in result.stderr
    assert not (tmp_path / "made").exists()


def test_an_onnx_model_needs_no_trust_and_says_none(create: Any) -> None:
    assert "--trust" not in create().stdout


@pytest.mark.parametrize("trust", [[], ["--trust"]])
@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.onnx"])
def test_what_torch_saves_is_refused_with_or_without_trust(
    create: Any, only_sentence: Any, tmp_path: Path, name: str, trust: list[str]
) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.ones(2)}, tmp_path / name)
    assert f"{name} is a pickle" in only_sentence(create(*trust, model=tmp_path / name), 1)
    assert not (tmp_path / "made").exists()
