"""`certserve train magnet`: from pictures to a bundle with calibrated detectors, as a new user would."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

for _needed in ("torch", "safetensors", "matplotlib", "onnxruntime"):
    pytest.importorskip(_needed)

from certserve import bundle as bundles  # noqa: E402 (after the checks that these are there)
from certserve.cli import main  # noqa: E402
from certserve.defences.magnet import load_magnet  # noqa: E402

_QUICK = ["--epochs", "1", "--batch", "8", "--threads", "1", "--width", "2", "--rate", "0.05", "--jsd-rate", "0.1"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty coloured pictures of two classes, and the CSV file that names them."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.Generator(np.random.PCG64(2))
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label"])
        for i in range(80):
            level = 30 if i % 2 else 190
            Image.fromarray((level + random.integers(0, 40, (8, 10, 3))).astype(np.uint8)).save(folder / f"{i}.png")
            rows.writerow([f"{i}.png", "night" if i % 2 else "day"])
    return folder


@pytest.fixture(scope="module")
def classifier(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle trained on them."""
    made = tmp_path_factory.mktemp("trained") / "sky"
    words = ["train", "classifier", "-o", made, "--data", photos, "--epochs", 1, "--batch", 8, "--widths", 4]
    words += ["--blocks", 1, "--shift", 1, "--threads", 1, "--precision", "float32", "--held-out", 0.3]
    result = CliRunner().invoke(main, list(map(str, words)), catch_exceptions=False, prog_name="certserve")
    assert result.exit_code == 0, result.output
    return made


def test_a_user_s_bundle_gets_a_magnet(cli: Any, photos: Path, classifier: Path) -> None:
    result = cli("train", "magnet", "--bundle", classifier, "--data", photos, *_QUICK)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("autoencoder III, epoch 1 of 1: mean squared error ")
    assert "l1-III (0.05), jsd10-III (0.1), jsd40-III (0.1); together at most 0.25." in result.stdout
    assert (classifier.with_name("sky.magnet") / "autoencoder-III" / "log.tsv").exists()
    verdicts = load_magnet(bundles.read(classifier)).detect(np.full((1, 3, 8, 10), 0.7, np.float32))
    assert [detector.validation_images for detector in verdicts[0].detectors] == [22, 22, 22]


def test_every_option_reaches_the_plan(cli: Any, photos: Path, classifier: Path, tmp_path: Path) -> None:
    words = ["--plan", "cifar", "--noise", 0.2, "--learning-rate", 0.5, "--temperatures", "3, 7.5", "--no-reformer"]
    result = cli("train", "magnet", "--bundle", classifier, "--data", photos, "--run", tmp_path / "run", *_QUICK,
                 "--seed", 5, *words, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["path"], document["run"]) == (str(classifier), str(tmp_path / "run"))
    plan = json.loads(document["provenance"]["magnet_plan"])
    recipe = {"noise": 0.2, "epochs": 1, "seed": 5, "batch": 8, "learning_rate": 0.5, "warm_up": 0.05, "threads": 1}
    assert plan == {
        "name": "cifar", "designs": ["II"], "width": 2, "recipe": recipe, "errors": [["l1", "II"]],
        "temperatures": [3.0, 7.5], "rate": 0.05, "jsd_rate": 0.1, "reformer": False,
    }  # fmt: skip
    magnet = bundles.read(classifier).magnet
    assert magnet is not None
    assert magnet.reformer == ""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--plan", "x"), 1, "the plan must be one of mnist, cifar, cifar-bn, not 'x'"),
        (("--temperatures", "a"), 2, "expected numbers separated by commas, not 'a'"),
        (("--temperatures", "0"), 1, "temperatures must be positive numbers"),
        (("--rate", "1"), 1, "rate must lie strictly between 0 and 1"),
        (("--rate", "0.001"), 1, "a false-positive rate of 0.001 needs 999 images to calibrate with, and there are 22"),
        (("--epochs", "0"), 1, "epochs must be a number, positive, not 0"),
        (("--width", "0"), 1, "wide, not 0"),
        (("--held-out", "2"), 1, "held_out must lie strictly between 0 and 1"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_sentence(
    cli: Any, photos: Path, classifier: Path, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    before = {path.name: path.read_bytes() for path in classifier.iterdir()}
    result = cli("train", "magnet", "--bundle", classifier, "--data", photos, "--run", tmp_path, *_QUICK, *words)
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name: path.read_bytes() for path in classifier.iterdir()} == before
