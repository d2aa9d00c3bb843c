"""`certserve certify` and `certserve predict` of a bundle in this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from certserve import bundle as bundles
from certserve import zoo
from certserve.bundle import Execution
from certserve.smoothing.document import from_document
from certserve.smoothing.outcomes import Abstention, Certificate, Prediction, round_down


def documents(text: str) -> list[dict[str, Any]]:
    """The JSON that a command printed, as a list."""
    document = json.loads(text)
    return document if isinstance(document, list) else [document]


def outcome_of(document: dict[str, Any]) -> Any:
    """The outcome in a printed document."""
    return from_document({name: value for name, value in document.items() if name not in ("image", "seconds")})


def test_the_table_has_image_answer_radius_votes_and_time(cli: Any, one_line: Any, half: Path, images: Any) -> None:
    result = cli("certify", *images.values(), "--model", half)
    assert result.exit_code == 0
    assert result.stderr == ""
    header, *rows = [line for line in result.stdout.splitlines() if line.startswith(("┃", "│"))]
    assert [cell.strip() for cell in header.strip("┃").split("┃")] == [
        "image",
        "answer",
        "certified L2 radius",
        "votes for it",
        "time",
    ]
    cells = [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]
    assert [row[0] for row in cells] == ["bright[red].png", "dark[red].png", "edge[red].png"]
    assert [row[1] for row in cells[:2]] == ["bright", "dark [/b]"]
    assert cells[2][1].startswith("abstains (leading: ")
    assert [row[3] for row in cells[:2]] == ["500 of 500", "500 of 500"]
    assert 0.5 < float(cells[0][2]) < 0.6
    assert cells[2][2] == "-"
    assert all(row[4].endswith(" s") for row in cells)
    said = one_line(result.stdout)
    assert f"bright[red].png: Every image within L2 distance {cells[0][2]} of these pixels" in said
    assert "edge[red].png: No class is guaranteed" in said
    assert said.endswith("The pixels spoken of are the 4x4 grey pixels as decoded.")


def test_predict_shows_that_no_radius_was_asked_for(cli: Any, half: Path, images: Any) -> None:
    result = cli("predict", images["dark"], "--model", half)
    assert result.exit_code == 0
    assert "not asked for" in result.stdout
    assert "'dark [/b]' is the smoothed classifier's answer at sigma 0.25" in result.stdout


@pytest.mark.parametrize(("command", "kind"), [("certify", Certificate), ("predict", Prediction)])
def test_json_of_one_image_is_one_object(cli: Any, half: Path, images: Any, command: str, kind: type) -> None:
    document = json.loads(cli(command, images["bright"], "--model", half, "--json").stdout)
    assert isinstance(document, dict)
    assert document["image"] == str(images["bright"])
    assert document["seconds"] > 0
    outcome = outcome_of(document)
    assert isinstance(outcome, kind)
    assert document["statement"] == outcome.statement  # type: ignore[attr-defined]
    assert document["label_name"] == "bright"
    assert document["setting"]["n"] == 500


def test_json_of_several_images_is_a_list_in_their_order(cli: Any, half: Path, images: Any) -> None:
    listed = json.loads(cli("certify", *images.values(), "--model", half, "--json").stdout)
    assert isinstance(listed, list)
    assert [document["image"] for document in listed] == [str(path) for path in images.values()]
    assert [document["kind"] for document in listed] == ["certificate", "certificate", "abstention"]


@pytest.mark.parametrize("command", ["certify", "predict"])
def test_an_abstention_is_an_answer(cli: Any, half: Path, images: Any, secret_file: Path, command: str) -> None:
    result = cli(command, images["edge"], "--model", half, "--secret-file", secret_file, "--json")
    assert result.exit_code == 0
    assert isinstance(outcome_of(json.loads(result.stdout)), Abstention)


def test_options_reach_the_question(cli: Any, half: Path, images: Any) -> None:
    asked = ("--sigma", "0.5", "--n0", "7", "--n", "130", "--alpha", "0.02", "--arithmetic", "float", "--json")
    setting = json.loads(cli("certify", images["bright"], "--model", half, *asked).stdout)["setting"]
    assert [setting[name] for name in ("sigma", "n0", "n", "alpha")] == [0.5, 7, 130, 0.02]
    assert setting["arithmetic"].startswith("float")


def test_fit_resizes_and_says_so(cli: Any, one_line: Any, half: Path, only_sentence: Any, tmp_path: Path) -> None:
    from PIL import Image

    photo = tmp_path / "photo.png"
    Image.new("L", (40, 20), 250).save(photo)
    refused = only_sentence(cli("certify", photo, "--model", half), 2)
    assert "image" in refused
    done = cli("certify", photo, "--model", half, "--fit", "resize-crop")
    assert done.exit_code == 0
    assert "after resizing to just cover 4x4" in one_line(done.stdout)


def test_the_secret_file_fixes_the_answer(cli: Any, half: Path, images: Any, secret_file: Path, tmp_path: Path) -> None:
    def ask(secret: Path) -> dict[str, Any]:
        printed = cli("certify", images["edge"], "--model", half, "--secret-file", secret, "--json").stdout
        document: dict[str, Any] = json.loads(printed)
        del document["seconds"]
        return document

    other = tmp_path / "other.hex"
    other.write_text("a5" * 32, encoding="ascii")
    assert ask(secret_file) == ask(secret_file)
    assert ask(secret_file)["estimation"] != ask(other)["estimation"]


def test_a_wrong_question_names_everything_that_is_wrong(cli: Any, half: Path, images: Any, only_sentence: Any) -> None:
    said = only_sentence(cli("certify", images["bright"], "--model", half, "--n", "0", "--sigma", "0.3"), 2)
    assert "sigma: " in said
    assert "n: " in said
    assert "0.25" in said


def test_a_file_that_is_no_image_is_a_wrong_question(cli: Any, half: Path, only_sentence: Any) -> None:
    assert "image" in only_sentence(cli("certify", __file__, "--model", half), 2)


@pytest.mark.parametrize("command", ["certify", "predict"])
def test_a_missing_bundle_is_one_sentence(cli: Any, images: Any, only_sentence: Any, command: str) -> None:
    said = only_sentence(cli(command, images["bright"], "--model", "no-such-bundle"), 1)
    assert said.startswith("no-such-bundle: there is no such directory")


@pytest.mark.parametrize("contents", ["", "5a5a", "zz" * 32, "\N{SNOWMAN}" * 64])
def test_a_bad_secret_file_is_one_sentence(
    cli: Any, half: Path, images: Any, only_sentence: Any, tmp_path: Path, contents: str
) -> None:
    secret = tmp_path / "bad.hex"
    secret.write_text(contents, encoding="utf-8")
    assert "64" in only_sentence(cli("certify", images["bright"], "--model", half, "--secret-file", secret), 1)


def test_an_execution_is_chosen_by_its_name(cli: Any, half: Path, images: Any, tmp_path: Path) -> None:
    """The second one answers the other way round."""
    both = tmp_path / "both"
    shutil.copytree(half, both)
    with np.load(both / "weights.npz") as arrays:
        np.savez(both / "turned.npz", weights=-arrays["weights"], bias=-arrays["bias"])
    found = bundles.read(half)
    executions = [*found.executions, Execution("turned", "turned.npz", "linear", "float64")]
    files = {name: (both / name).read_bytes() for name in ("weights.npz", "turned.npz")}
    facts: dict[str, Any] = {"name": "both", "labels": found.labels, "shape": found.shape, "sigmas": found.sigmas}
    bundles.write(tmp_path / "two", files, executions=executions, **facts)

    def answer(*options: str) -> str:
        asked = ("certify", images["bright"], "--model", tmp_path / "two", "--n", "500", "--json")
        label: str = json.loads(cli(*asked, *options).stdout)["label_name"]
        return label

    assert answer("--execution", "float64") == "bright"
    assert answer("--execution", "turned") == "dark [/b]"


@pytest.mark.parametrize("command", ["certify", "predict"])
def test_an_unknown_execution_is_one_sentence(
    cli: Any, half: Path, images: Any, only_sentence: Any, command: str
) -> None:
    said = only_sentence(cli(command, images["bright"], "--model", half, "--execution", "fast"), 1)
    assert said == f"{half}: has no execution 'fast'; there are float64"


@pytest.mark.parametrize("command", ["certify", "predict"])
def test_a_program_needs_trust(cli: Any, images: Any, program: Path, only_sentence: Any, command: str) -> None:
    """Only with trust it is opened, and found to be no program."""
    asked = (command, images["bright"], "--model", program)
    assert "is a program, which can run any code" in only_sentence(cli(*asked), 1)
    pytest.importorskip("torch")
    trusted = cli(*asked, "--trust")
    assert trusted.exit_code == 1
    assert "expected a program written by torch.export.save" in trusted.stderr


def test_a_bundle_that_needs_no_trust_may_have_it(cli: Any, half: Path, images: Any) -> None:
    assert cli("certify", images["bright"], "--model", half, "--trust").exit_code == 0


def test_a_runtime_that_is_not_installed_is_named(
    cli: Any, images: Any, only_sentence: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_runtime(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setattr("certserve.endpoints.local.open_model", without_runtime)
    said = only_sentence(cli("certify", images["bright"]), 1)
    assert said == "onnxruntime is not installed; this command needs `pip install 'certserve[server]'`."


def test_the_packaged_model_certifies_its_samples(cli: Any, one_line: Any) -> None:
    samples = zoo.samples()[:3]
    result = cli("certify", *samples, "--n", "1000", "--json")
    assert result.exit_code == 0
    found = documents(result.stdout)
    assert [document["image"] for document in found] == [str(sample) for sample in samples]
    certificates = [document for document in found if document["kind"] == "certificate"]
    assert certificates
    assert cli("verify", "-", stdin=result.stdout).exit_code == 0
    named = cli("certify", samples[0], "--model", zoo.DEFAULT, "--n", "1000")
    assert named.exit_code == 0
    assert samples[0].name in named.stdout
    path = cli("predict", samples[0], "--model", zoo.path_of(None), "--n", "1000")
    assert path.exit_code == 0
    assert samples[0].name in path.stdout


def test_the_radius_shown_is_the_radius_rounded_down(
    cli: Any, one_line: Any, half: Path, images: Any, secret_file: Path
) -> None:
    asked = ("certify", images["bright"], "--model", half, "--secret-file", secret_file)
    radius = json.loads(cli(*asked, "--json").stdout)["radius"]
    assert f"distance {round_down(radius)} of these pixels" in one_line(cli(*asked).stdout)
    assert f" {round_down(radius)} │" in cli(*asked).stdout


def test_an_image_that_is_refused_does_not_cost_the_others_their_answers(
    cli: Any, half: Path, images: Any, tmp_path: Path
) -> None:
    """It is named, on standard error, and the exit code tells that not everything was answered."""
    large = tmp_path / "large.png"
    Image.new("L", (9, 9)).save(large)
    result = cli("certify", images["bright"], large, images["dark"], "--model", half, "--json")
    assert result.exit_code == 2
    assert [Path(document["image"]).name for document in documents(result.stdout)] == [
        images["bright"].name,
        images["dark"].name,
    ]
    assert result.stderr.startswith("certserve: large.png: image: must have 4x4 pixels")
