"""What is reported of a MagNet is what the images in the folder give, and a run goes on where it stopped."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

for _needed in ("torch", "safetensors", "matplotlib", "onnxruntime"):
    pytest.importorskip(_needed)

from certserve import bundle as bundles  # noqa: E402 (after the checks that these are there)
from certserve import zoo  # noqa: E402
from certserve.attacks.magnet import Networks  # noqa: E402
from certserve.datasets import Dataset, DatasetError  # noqa: E402
from certserve.defences.magnet import load_magnet  # noqa: E402
from certserve.evaluation.magnet import Question, evaluate_magnet  # noqa: E402
from certserve.evaluation.magnet.lines import BITS, COLUMNS, FLOAT, Line  # noqa: E402
from certserve.evaluation.magnet.picture import curves  # noqa: E402
from certserve.evaluation.magnet.report import Adaptive, Report  # noqa: E402

QUESTION = Question(images=3, batch=2, linf=0.11, l2=2.0, pgd_steps=4, kappas=(0.0, 3.0), searches=4, steps=80)
FILES = ("magnet.csv", "magnet.json", "magnet.png", "magnet.html")


class Run(NamedTuple):
    """A run, its folder and what it told."""

    report: Report
    folder: Path
    told: list[str]


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Six samples of the packaged default; the label of the second is wrong."""
    images = np.stack([np.asarray(Image.open(path).convert("L")) for path in zoo.samples()[:6]])[:, None]
    return Dataset(images, np.array([9, 7, 1, 1, 6, 1]), np.arange(6))


@pytest.fixture(scope="module")
def run(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The whole of it."""
    folder, told = tmp_path_factory.mktemp("measured"), list[str]()
    return Run(evaluate_magnet(bundles.read(zoo.path_of(None)), data, QUESTION, folder, say=told.append), folder, told)


def _rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "magnet.csv").read_text(encoding="utf-8").splitlines()))


def test_the_columns_are_those_of_a_recomputation(run: Run, data: Dataset) -> None:
    """One image at a time, from the attacked images in the folder."""
    magnet = load_magnet(bundles.read(zoo.path_of(None)))
    assert magnet.classifier is not None
    assert magnet.reformer is not None
    run_one, labels = magnet.classifier.backend.logits, np.delete(data.labels, 1)[:3]
    originals = np.delete(data.images, 1, axis=0)[:3] / 255
    rows = _rows(run.folder)
    assert [tuple(row) for row in rows] == [COLUMNS] * 12
    for row in rows:
        word = re.sub("[^a-z0-9]", "-", row["attack"].lower().replace(",", ""))
        (path,) = (run.folder / "attacks").glob(f"{word}.*.npz")
        images, attained = (np.load(path)[name] for name in ("images", "attained"))
        if row["pixels"] == BITS:
            images = (np.floor(images.astype(np.float64) * 255 + 0.5) / 255).astype(np.float32)
        alone, after, flagged = [], [], []
        for i, label in enumerate(labels):
            one = images[i : i + 1]
            alone.append(run_one(one).argmax() == label)
            after.append(run_one(np.clip(magnet.reformer.reconstruct(one), 0, 1)).argmax() == label)
            flagged.append(magnet.detect(one)[0].flagged)
        held = [alone, np.logical_or(alone, flagged), after, np.logical_or(after, flagged)]
        names = ("no_defence", "detector_only", "reformer_only", "both")
        assert [float(row[name]) for name in names] == [round(float(np.mean(column)), 4) for column in held]
        assert float(row["undefended_success"]) == round(1 - float(np.mean(alone)), 4)
        far = np.sqrt(((images - originals) ** 2).reshape(3, -1).sum(1))[attained]
        assert row["mean_l2"] == (f"{far.mean():.4f}" if len(far) else "")
        assert int(row["attained"]) == attained.sum()
        of_attained = np.array(held[3])[attained]
        assert row["both_of_attained"] == (f"{of_attained.mean():.4f}" if len(of_attained) else "")
        assert float(row["both_low"]) <= float(row["both"]) <= float(row["both_high"])


def test_the_attacks_are_those_that_were_asked_for(run: Run) -> None:
    rows = _rows(run.folder)
    assert [row["pixels"] for row in rows] == [FLOAT, BITS] * 6
    told = [(row["attack"], row["adaptive"], row["norm"], row["epsilon"], row["kappa"]) for row in rows[::2]]
    assert told == [
        ("FGSM, Linf 0.11", "0", "Linf", "0.11", ""),
        ("PGD, 4 steps, L2 2", "0", "L2", "2", ""),
        ("PGD, 4 steps, Linf 0.11", "0", "Linf", "0.11", ""),
        ("Carlini-Wagner L2, kappa 0", "0", "L2", "", "0"),
        ("Carlini-Wagner L2, kappa 3", "0", "L2", "", "3"),
        ("adaptive Carlini-Wagner L2, kappa 0", "1", "L2", "", "0"),
    ]
    assert "Carlini-Wagner L2, kappa 3: 2 of 3 images attacked" in run.told


def test_the_clean_images_are_counted(run: Run, data: Dataset) -> None:
    clean = json.loads((run.folder / "magnet.json").read_text(encoding="utf-8"))["clean"]
    verdicts = load_magnet(bundles.read(zoo.path_of(None))).detect((data.images / 255).astype(np.float32))
    flagged = [verdict.flagged for verdict in verdicts]
    assert (clean["images"], clean["right"], clean["flagged"]) == (6, 5, sum(flagged))
    assert clean["right_reformed_and_not_flagged"] == clean["right_reformed"] - sum(flagged)
    assert [alarm["detector"] for alarm in clean["detectors"]] == ["l2-I", "l1-II", "jsd10-I", "jsd40-I"]
    assert all((alarm["low"], alarm["inside"]) == (0, True) for alarm in clean["detectors"])
    assert clean["nominal_rate_at_most"] == 0.004


def test_the_adaptive_attack_stands_beside_the_oblivious_one(run: Run, data: Dataset) -> None:
    document = json.loads((run.folder / "magnet.json").read_text(encoding="utf-8"))
    adaptive, rows = document["adaptive"], _rows(run.folder)
    assert adaptive["beside"] == "Carlini-Wagner L2, kappa 0"
    assert adaptive["success"] == pytest.approx(1 - float(rows[10]["both"]), abs=1e-4)
    assert adaptive["success_8bit"] == pytest.approx(1 - float(rows[11]["both"]), abs=1e-4)
    assert adaptive["oblivious"] == pytest.approx(1 - float(rows[6]["both"]), abs=1e-4)
    far, attained = [], []
    for word in ("adaptive-carlini-wagner-l2-kappa-0", "carlini-wagner-l2-kappa-0"):
        (path,) = (run.folder / "attacks").glob(f"{word}.*")
        kept = np.load(path)
        far.append(np.sqrt(((kept["images"] - np.delete(data.images, 1, axis=0)[:3] / 255) ** 2).sum((1, 2, 3))))
        attained.append(kept["attained"])
    both = attained[0] & attained[1]
    assert adaptive["both"] == both.sum() > 0
    assert adaptive["ratio"] == pytest.approx(far[0][both].mean() / far[1][both].mean(), rel=1e-5)
    assert adaptive["wins"]
    won = f"WARNING: the attack that knows of this MagNet wins: {adaptive['success']:.1%} of the images get past"
    assert document["statements"][0].startswith(won)
    assert "MagNet is no guarantee" in document["statements"][-1]


def test_a_second_run_makes_no_attack_and_the_same_files(
    run: Run, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: (run.folder / name).read_bytes() for name in FILES}
    kept = {path.name: path.read_bytes() for path in (run.folder / "attacks").iterdir()}
    monkeypatch.setattr(Networks, "attack", None)
    for name in FILES:
        (run.folder / name).unlink()
    evaluate_magnet(bundles.read(zoo.path_of(None)), data, QUESTION, run.folder)
    assert {name: (run.folder / name).read_bytes() for name in FILES} == before
    assert {path.name: path.read_bytes() for path in (run.folder / "attacks").iterdir()} == kept


def test_only_what_is_missing_or_asked_otherwise_is_made(
    run: Run, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, attack = [], Networks.attack

    def noted(networks: Networks, how: Any, *rest: Any, **named: Any) -> Any:
        made.append(how.name)
        return attack(networks, how, *rest, **named)

    monkeypatch.setattr(Networks, "attack", noted)
    (half,) = (run.folder / "attacks").glob("pgd-4-steps-l2-2.*")
    whole = half.read_bytes()
    half.write_bytes(whole[:100])  # as a run that was killed may leave it
    other = dataclasses.replace(QUESTION, linf=0.15, kappas=(0.0,), adaptive=None)
    bundle = bundles.read(zoo.path_of(None))
    report = evaluate_magnet(bundle, data, other, run.folder)
    assert made == ["FGSM, Linf 0.15", "PGD, 4 steps, L2 2", "PGD, 4 steps, Linf 0.15"]
    assert report.adaptive is None
    assert "No attack that knows of this MagNet has been tried yet" in report.statements[0]
    made.clear()
    evaluate_magnet(bundle, data.where(data.idx > 0), dataclasses.replace(other, images=1, searches=1), run.folder)
    assert len(made) == 4  # other images
    half.write_bytes(whole)
    evaluate_magnet(bundle, data, QUESTION, run.folder)


def _adaptive(success: float) -> Adaptive:
    return Adaptive(success, 0.25, 0.1, "plain", 10, 3.0, 2.0)


def test_it_warns_where_half_get_past(run: Run) -> None:
    won = dataclasses.replace(run.report, adaptive=_adaptive(0.5))
    assert won.warning is not None
    assert "50.0% of the images get past" in won.warning
    assert "1.50 times as far" in won.warning
    lost = dataclasses.replace(run.report, adaptive=_adaptive(0.49))
    assert lost.warning is None
    assert "got past it on 49.0% of the images. Suspect the attack first" in lost.statements[0]
    assert all("MagNet is no guarantee" in report.statements[-1] for report in (won, lost))


def test_the_page_holds_the_numbers_and_needs_nothing_else(run: Run) -> None:
    text = (run.folder / "magnet.html").read_text(encoding="utf-8")
    for line in run.report.lines:
        cells = [f"{share:.1%}" for share in (line.undefended_success, *line.shares)]
        mean = "none" if line.mean_l2 is None else f"{line.mean_l2:.3f}"
        row = "".join(f"<td>{cell}</td>" for cell in (line.attack, line.pixels, str(line.attained), mean, *cells))
        assert row in text
    assert f"Distortion: {run.report.adaptive.ratio:.3f} times" in text  # type: ignore[union-attr]
    assert '<p class="warning">WARNING' in text
    for alarm in run.report.clean.alarms:
        assert f"<td>{alarm.detector}</td><td>{alarm.flagged}</td>" in text
    assert text.count("<figure") == 6 * 3
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == 3 * 6 * 3 + 1
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in text
    assert "Ankle boot; attacked: " in text


def test_the_picture_has_the_float32_lines_of_the_oblivious_attacks(run: Run) -> None:
    found = curves(run.report.lines)
    rows = [row for row in _rows(run.folder) if row["kappa"] and row["pixels"] == FLOAT and row["adaptive"] == "0"]
    names = ("no_defence", "detector_only", "reformer_only", "both")
    for points, name in zip(found.values(), names, strict=True):
        assert [kappa for kappa, _ in points] == [float(row["kappa"]) for row in rows]
        assert [share for _, share in points] == pytest.approx([100 * float(row[name]) for row in rows], abs=0.01)
    with Image.open(run.folder / "magnet.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 600


def test_shares_and_success_are_of_all_images() -> None:
    line = Line("a", False, "L2", None, 0.0, FLOAT, 8, 5, 1.0, 1, 2, 4, 6, 3, 1.0)
    assert line.shares == (0.125, 0.25, 0.5, 0.75)
    assert (line.success, line.undefended_success) == (0.25, 0.875)
    assert line.both_of_attained == 0.6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": 0}, "expected images of 1 or more, not 0"),
        ({"batch": 0}, "expected batch of 1 or more"),
        ({"searches": 0}, "expected searches of 1 or more"),
        ({"steps": 0}, "expected steps of 1 or more"),
        ({"pgd_steps": 1}, "two steps of PGD or more, not 1"),
        ({"kappas": ()}, "one or more kappas that differ"),
        ({"kappas": (1.0, 1.0)}, "one or more kappas that differ"),
        ({"kappas": (-1.0,)}, "every kappa and every epsilon"),
        ({"adaptive": math.inf}, "every kappa and every epsilon"),
        ({"linf": -0.1}, "every kappa and every epsilon"),
        ({"first": 0.0}, "a positive first c, not 0.0"),
        ({"l2": math.nan}, "every kappa and every epsilon"),
    ],
)
def test_a_question_out_of_range_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(QUESTION, **change)


def test_images_that_are_all_answered_wrongly_are_refused(data: Dataset, tmp_path: Path) -> None:
    wrong = data.where(data.idx == 1)
    with pytest.raises(DatasetError, match="answers none of these 1 images rightly"):
        evaluate_magnet(bundles.read(zoo.path_of(None)), wrong, QUESTION, tmp_path)
