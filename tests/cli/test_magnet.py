"""`certserve detect`, `certserve reform`, `--guard` and `--reform`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from certserve.endpoints.models import LoadedModel


@pytest.fixture(scope="module")
def guarded(harness: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a MagNet whose reformer is x / 2 + 1/4; it flags white images."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    found: Path = harness.guarded(tmp_path_factory.mktemp("magnet") / "guarded").path
    return found


@pytest.fixture(scope="module")
def address(harness: ModuleType, guarded: Path) -> Iterator[str]:
    """A server of it."""
    pytest.importorskip("grpc_health.v1")
    with harness.Server([LoadedModel.read(guarded)]) as server:
        yield server.target


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    """PNG files: white, which is flagged, and one of many greys."""
    found = {"white": np.full((4, 4), 255, np.uint8), "greys": np.arange(0, 240, 15, dtype=np.uint8).reshape(4, 4)}
    for name, pixels in found.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}[red].png")
    return {name: tmp_path / f"{name}[red].png" for name in found}


@pytest.fixture(params=["here", "server"])
def where(request: pytest.FixtureRequest, guarded: Path, address: str) -> tuple[str, ...]:
    """Options: the bundle here, or the server."""
    return ("--model", str(guarded)) if request.param == "here" else ("--server", address)


def test_detect_prints_every_detector(cli: Any, one_line: Any, pictures: Any, where: tuple[str, ...]) -> None:
    result = cli("detect", *pictures.values(), *where)
    assert result.exit_code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    assert rows[0][:2] == ["white[red].png", "l1-grey"]
    assert rows[0][2:] == ["0.25", "0.1918", "0.01", "yes"]
    assert [row[1] for row in rows] == ["l1-grey", "jsd10-grey", "all"] * 2
    assert [row[5] for row in rows] == ["yes", "no", "yes", "no", "no", "no"]
    said = one_line(result.stdout)
    assert "1 of 2 flagged. The nominal false-positive rate is 0.1, calibrated with 99 images" in said
    assert "an attack that knows of the detectors can pass them" in said


def test_detect_as_json(cli: Any, pictures: Any, where: tuple[str, ...]) -> None:
    white, greys = json.loads(cli("detect", *pictures.values(), *where, "--json").stdout)
    assert (white["flagged"], greys["flagged"]) == (True, False)
    assert white["image"] == str(pictures["white"])
    assert [d["name"] for d in white["detectors"]] == ["l1-grey", "jsd10-grey"]
    assert (white["p_value"], white["rate"]) == (0.02, 0.1)
    assert "proves neither" in white["statement"]


def test_detect_takes_more_images_than_a_request(cli: Any, pictures: Any, guarded: Path) -> None:
    found = json.loads(cli("detect", *[pictures["white"]] * 300, "--model", guarded, "--json").stdout)
    assert len(found) == 300
    assert all(verdict["flagged"] for verdict in found)


def test_reform_writes_the_image(
    cli: Any, one_line: Any, pictures: Any, where: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    result = cli("reform", pictures["greys"], "-o", out, *where)
    assert result.exit_code == 0
    before = np.asarray(Image.open(pictures["greys"])).astype(np.float64)
    written = np.asarray(Image.open(out))
    assert written.dtype == np.uint8
    assert np.abs(written - (before / 2 + 255 / 4)).max() <= 0.5
    said = one_line(result.stdout)
    assert "the base classifier says 'low' before and 'low' after; nothing is certified about either." in said
    assert f"The change: L2 {np.linalg.norm(before / 2 - 255 / 4) / 255:.4g}, largest 0.25" in said


def test_reform_compares(cli: Any, one_line: Any, pictures: Any, guarded: Path, tmp_path: Path) -> None:
    """Three panels: as it was, as it is, and what lies between, with what is unchanged in grey."""
    out, compared = tmp_path / "out.png", tmp_path / "compared.png"
    result = cli("reform", pictures["greys"], "-o", out, "--compare", compared, "--model", guarded)
    assert "and the difference 2 times as large (grey: none)" in one_line(result.stdout)
    shown = np.asarray(Image.open(compared).convert("L")).astype(int)
    before = np.asarray(Image.open(pictures["greys"])).astype(int)
    after = np.asarray(Image.open(out)).astype(int)
    times, left, top, step = 56, 12, 30, 236
    panels = [
        shown[top + times // 2 : top + 4 * times : times, x + times // 2 : x + 4 * times : times]
        for x in (left, left + step, left + 2 * step)
    ]
    assert np.array_equal(panels[0], before)
    assert np.abs(panels[1] - after).max() <= 1
    assert np.abs(panels[2] - (127.5 + 2 * (after - before))).max() <= 3


def test_reform_as_json(cli: Any, pictures: Any, where: tuple[str, ...], tmp_path: Path) -> None:
    out, compared = tmp_path / "o.png", tmp_path / "c.png"
    asked = ("reform", pictures["greys"], "-o", out, "--compare", compared, *where, "--json")
    document = json.loads(cli(*asked).stdout)
    assert document["before"] == document["after"] == {"label": 0, "label_name": "low"}
    assert document["linf"] == pytest.approx(0.25)
    assert (document["difference_magnified"], document["out"], document["compare"]) == (2.0, str(out), str(compared))


@pytest.mark.parametrize("command", [["detect"], ["reform", "-o", "out.png"]])
def test_a_bundle_without_a_magnet(
    cli: Any, half: Path, images: Any, only_sentence: Any, command: list[str], tmp_path: Path
) -> None:
    command = [word.replace("out.png", str(tmp_path / "out.png")) for word in command]
    said = only_sentence(cli(*command, images["bright"], "--model", half), 1)
    assert "`certserve train magnet`" in said
    assert not (tmp_path / "out.png").exists()


def test_an_image_of_another_size(cli: Any, guarded: Path, pictures: Any, only_sentence: Any, tmp_path: Path) -> None:
    Image.new("L", (9, 8), 250).save(tmp_path / "large.png")
    said = only_sentence(cli("detect", pictures["white"], tmp_path / "large.png", "--model", guarded), 2)
    assert said.startswith("images[1]: must have 4x4 pixels")
    assert cli("detect", tmp_path / "large.png", "--model", guarded, "--fit", "resize-crop").exit_code == 0


@pytest.mark.parametrize("option", [["--execution", "float64"], ["--trust"]])
def test_what_is_for_a_bundle_here(cli: Any, pictures: Any, address: str, option: list[str]) -> None:
    result = cli("detect", pictures["white"], "--server", address, *option)
    assert result.exit_code == 2
    assert "is for a bundle here" in result.stderr


@pytest.mark.parametrize("command", ["certify", "predict"])
def test_guard(cli: Any, one_line: Any, pictures: Any, where: tuple[str, ...], command: str, tmp_path: Path) -> None:
    """A rejection in the table and as JSON, which verifies; the other image is answered."""
    result = cli(command, *pictures.values(), *where, "--guard")
    assert result.exit_code == 0
    assert "rejected (flagged by l1-grey)" in one_line(result.stdout)
    assert "Nothing is guaranteed, as nothing was drawn" in one_line(result.stdout)
    printed = cli(command, *pictures.values(), *where, "--guard", "--json").stdout
    white, greys = json.loads(printed)
    assert white["kind"] == "rejected"
    assert greys["kind"] != "rejected"
    assert cli("verify", "-", stdin=printed).exit_code == 0


def test_a_reformed_certificate_is_drawn_again(
    cli: Any, guarded: Path, pictures: Any, secret_file: Path, tmp_path: Path
) -> None:
    """`certify --reform` names its execution, by which `verify --secret-file` opens it."""
    asked = ("certify", pictures["greys"], "--model", guarded, "--reform", "--secret-file", secret_file, "--json")
    printed = cli(*asked).stdout
    assert json.loads(printed)["origin"]["execution"] == "reformed-float64"
    (tmp_path / "certificate.json").write_text(printed, encoding="utf-8")
    again = ("--secret-file", secret_file, "--image", pictures["greys"], "--model", guarded)
    result = cli("verify", tmp_path / "certificate.json", *again)
    assert result.exit_code == 0
    assert "Drawn again with the same noise" in result.stdout
