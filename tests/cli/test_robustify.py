"""`certserve robustify`: one image and folders, what is written, skipped, refused and said."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from certserve.cli import robustify as command
from certserve.defences.preemptive.methods import CertMargin, Qualities
from certserve.endpoints.local import LocalModel
from certserve.images import ImageError
from certserve.smoothing.document import from_document
from certserve.smoothing.outcomes import Certificate

ASKED = ("--model", "mnist", "--execution", "torch-float32", "--method", "fast", "--n", "100", "--alpha", ".05")


def picture(seed: int = 1, scale: int = 1) -> Any:
    """A stroke as a grey Pillow image of 28 x 28 pixels, or a multiple."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:23, 12:16] = np.random.default_rng(seed).integers(180, 256, (18, 4))
    return Image.fromarray(np.kron(pixels, np.ones((scale, scale), np.uint8)))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    picture(1).save(folder / "a.png")
    picture(2).convert("RGB").save(folder / "b.webp", lossless=True)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_one_image_is_written_and_both_radii_are_shown(
    cli: Any, one_line: Any, photos: Path, tmp_path: Path, secret_file: Path
) -> None:
    target = tmp_path / "safe.png"
    result = cli("robustify", photos / "a.png", "-o", target, *ASKED, "--secret-file", secret_file)
    assert result.exit_code == 0, result.output
    before, after = (np.asarray(Image.open(path)).astype(int) for path in (photos / "a.png", target))
    assert after.shape == (28, 28)
    assert 0 < ((after - before) ** 2).sum() <= (0.5 * 255) ** 2
    header = next(line for line in result.stdout.splitlines() if line.startswith("┃"))
    assert [cell.strip() for cell in header.strip("┃").split("┃")] == list(command._HEADINGS)
    said = one_line(result.stdout)
    assert f"a.png: written to {target}. Of its 28x28 pixels as they are: Every image within L2 distance" in said
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(("brightness", "all_agree"), [(1.0, True), (0.35, False)])
def test_what_limits_the_radius_is_said(
    cli: Any, one_line: Any, tmp_path: Path, secret_file: Path, brightness: float, all_agree: bool
) -> None:
    picture().point(lambda level: int(level * brightness)).save(tmp_path / "a.png")
    words = ("robustify", tmp_path / "a.png", "-o", tmp_path / "s.png", *ASKED, "--n", 1000)
    (found,) = json.loads(cli(*words, "--secret-file", secret_file, "--json").stdout)
    after = from_document(found["after"])
    assert isinstance(after, Certificate)
    assert (after.estimation[-1].counts[after.label] == 1000) == all_agree
    said = one_line(cli(*words, "--secret-file", secret_file, "--force").stdout)
    assert ("All of its 1,000 draws agree: only more of them (--n) can show" in said) == all_agree


def test_json_has_both_certificates(cli: Any, photos: Path, tmp_path: Path) -> None:
    (found,) = json.loads(cli("robustify", photos / "a.png", "-o", tmp_path / "s.png", *ASKED, "--json").stdout)
    outcomes = {name: from_document(found[name]) for name in ("before", "after", "predicted_before", "predicted_after")}
    assert outcomes["before"].setting == outcomes["after"].setting
    assert isinstance(outcomes["after"], Certificate)
    assert found["radius_after"] == outcomes["after"].radius
    assert found["uplift_efficiency"] == (found["radius_after"] - found["radius_before"]) / 0.5
    assert found["written"] == str(tmp_path / "s.png")
    assert found["method"] == "fast"
    assert found["passes"] <= 40
    assert found["label_kept"] is True


def test_the_qualities_reach_the_search(
    cli: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(self: LocalModel, image: bytes, **question: Any) -> None:
        asked.append(question["method"])
        raise ImageError("none")

    monkeypatch.setattr(LocalModel, "robustify", refuse)
    cli("robustify", photos / "a.png", "-o", tmp_path / "s.png", *ASKED, "--method", "cert-margin", "--jpeg", "70-90")
    assert asked == [CertMargin(jpeg=Qualities(70, 90))]


def test_a_folder_is_gone_on_with(cli: Any, photos: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    assert cli("robustify", photos, "-o", made, *ASKED).exit_code == 0
    assert sorted(path.name for path in made.iterdir()) == ["a.png", "b.png"]
    (made / "a.png").unlink()
    (made / "b.png").write_bytes(b"mine")
    again = cli("robustify", photos, "-o", made, *ASKED, "--json")
    assert [entry["image"] for entry in json.loads(again.stdout)] == [str(photos / "a.png")]
    assert "1 of 2 written before; --force writes them again." in again.stderr
    assert (made / "b.png").read_bytes() == b"mine"
    assert cli("robustify", photos, "-o", made, *ASKED, "--force").exit_code == 0
    assert (made / "b.png").read_bytes() != b"mine"


def test_a_turned_transparent_larger_image_says_what_became_of_it(cli: Any, one_line: Any, tmp_path: Path) -> None:
    source, target = tmp_path / "large.png", tmp_path / "safe.png"
    large = picture(scale=3).crop((0, 0, 84, 90)).convert("RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6
    large.save(source, exif=exif)
    refused = cli("robustify", source, "-o", target, *ASKED)
    assert refused.exit_code == 2
    assert "must have 28x28 pixels (width x height), not 90x84; the fit resize-crop resizes it" in refused.stderr
    assert not target.exists()
    result = cli("robustify", source, "-o", target, *ASKED, "--fit", "resize-crop")
    said = one_line(result.stdout)
    assert "It came with 90x84 pixels and was resized and cropped to the model's 28x28" in said
    assert "neither the original nor a copy of another size is protected" in said
    if result.exit_code == 0:
        written = Image.open(io.BytesIO(target.read_bytes()))
        assert (written.size, written.mode, dict(written.getexif())) == ((28, 28), "L", {})


def test_an_image_whose_label_is_not_certified_is_not_written(
    cli: Any, one_line: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from certserve.endpoints.answers import Robustified

    monkeypatch.setattr(Robustified, "label_kept", property(lambda self: False))
    result = cli("robustify", photos / "a.png", "-o", tmp_path / "safe.png", *ASKED)
    assert result.exit_code == 1
    assert "a.png: not written, as the moved image is not certified for its label." in one_line(result.stdout)
    assert not (tmp_path / "safe.png").exists()


def test_what_cannot_be_done_is_one_sentence(
    cli: Any, only_sentence: Any, photos: Path, tmp_path: Path, half: Path, images: Any
) -> None:
    photo, target = photos / "a.png", tmp_path / "safe.png"
    assert "a .png file" in only_sentence(cli("robustify", photo, "-o", tmp_path / "safe.jpg"), 1)
    assert "written over" in only_sentence(cli("robustify", photo, "-o", photo), 1)
    (tmp_path / "none").mkdir()
    assert "PNG, JPEG or WebP" in only_sentence(cli("robustify", tmp_path / "none", "-o", tmp_path / "out"), 1)
    picture().save(photos / "a.jpg")
    assert "rename one" in only_sentence(cli("robustify", photos, "-o", tmp_path / "out"), 1)
    sentence = only_sentence(cli("robustify", images["dark"], "-o", target, "--model", half), 1)
    assert "has no weights for torch" in sentence
    assert "positive delta" in only_sentence(cli("robustify", photo, "-o", target, *ASKED, "--delta", "0"), 2)
    assert cli("robustify", photo, "-o", target, *ASKED, "--norm", "Linf").exit_code == 2
    jpeg = ("robustify", photo, "-o", target, *ASKED, "--jpeg")
    assert "--jpeg is for --method cert-margin" in cli(*jpeg, "75-95").stderr
    assert "as 75-95, not '75'" in cli(*jpeg, "75", "--method", "cert-margin").stderr
    assert "from 1 to 95, not 95 to 75" in only_sentence(cli(*jpeg, "95-75", "--method", "cert-margin"), 1)
    assert not target.exists()
