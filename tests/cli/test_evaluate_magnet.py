"""`certserve evaluate magnet`: a bundle and images in; a table, a warning and a page out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

for _needed in ("torch", "safetensors", "matplotlib", "onnxruntime"):
    pytest.importorskip(_needed)

from certserve import zoo  # noqa: E402 (after the checks that these are there)

QUICK = ("--images", 1, "--kappa", "0", "--searches", 3, "--first-c", 0.1, "--steps", 80, "--pgd-steps", 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two samples of the packaged default."""
    path = tmp_path_factory.mktemp("data") / "samples.npz"
    x = np.stack([np.asarray(Image.open(sample).convert("L")) for sample in zoo.samples()[:2]])
    np.savez(path, x=x, y=[9, 2])
    return path


def test_the_table_the_warning_and_the_page(cli: Any, data: Path, tmp_path: Path) -> None:
    result = cli("evaluate", "magnet", "--data", data, "-o", tmp_path / "made", *QUICK)
    assert result.exit_code == 0, result.output
    assert "FGSM, Linf 0.1: 1 of 1 images attacked" in result.stderr
    assert result.stdout.count("adaptive Carlini-Wagner L2, kappa 0") == 2
    assert "Images as they are: 100.00% of 2 right with everything on" in result.stdout
    assert "l2-I flags 0, nominally 0.10%: 0 to 0 are to be expected (95 %)." in result.stdout
    assert "WARNING: the attack that knows of this MagNet wins: 100.0% of the images" in result.stdout
    assert "MagNet is no guarantee" in result.stdout
    assert (tmp_path / "made" / "magnet.html").exists()
    again = cli("evaluate", "magnet", "--data", data, "-o", tmp_path / "made", *QUICK, "--json")
    assert "images attacked" not in again.stderr
    document = json.loads(again.stdout)
    assert document == json.loads((tmp_path / "made" / "magnet.json").read_text(encoding="utf-8"))
    assert document["question"]["kappas"] == [0.0]
    assert document["question"]["searches"] == 3


def test_the_options_reach_the_question(cli: Any, data: Path, tmp_path: Path) -> None:
    words = ["--images", 1, "--kappa", "2,1", "--searches", 1, "--steps", 2, "--pgd-steps", 3, "--linf", 0.2, "--l2", 3]
    result = cli("evaluate", "magnet", "--data", data, "-o", tmp_path, *words, "--batch", 7, "--adaptive-kappa", 4,
                 "--first-c", 0.5, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["question"] == {
        "images": 1, "batch": 7, "linf": 0.2, "l2": 3.0, "pgd_steps": 3, "kappas": [2.0, 1.0], "searches": 1,
        "steps": 2, "first": 0.5, "adaptive": 4.0,
    }  # fmt: skip
    result = cli("evaluate", "magnet", "--data", data, "-o", tmp_path, *words, "--no-adaptive", "--json")
    assert json.loads(result.stdout)["question"]["adaptive"] is None
    assert json.loads(result.stdout)["adaptive"] is None


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--kappa", "a"), 2, "expected numbers separated by commas, not 'a'"),
        (("--images", "0"), 1, "expected images of 1 or more, not 0"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_sentence(
    cli: Any, data: Path, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    result = cli("evaluate", "magnet", "--data", data, "-o", tmp_path / "made", *words)
    assert result.exit_code == code
    assert said in result.stderr
    assert not (tmp_path / "made").exists()


def test_a_bundle_without_a_magnet_and_images_of_another_size(cli: Any, half: Path, data: Path, tmp_path: Path) -> None:
    result = cli("evaluate", "magnet", "--model", half, "--data", data, "-o", tmp_path)
    assert result.exit_code == 1
    assert "expected images (channels, height, width) of (1, 4, 4), not (1, 28, 28)" in result.stderr
    np.savez(tmp_path / "small.npz", x=np.zeros((1, 4, 4), np.uint8), y=[0])
    result = cli("evaluate", "magnet", "--model", half, "--data", tmp_path / "small.npz", "-o", tmp_path)
    assert result.exit_code == 1
    assert "has no MagNet; make one with `certserve train magnet" in result.stderr
