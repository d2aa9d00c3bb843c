"""What is reported of moved images is what the images in the folder give, and a run goes on where it stopped."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

for _needed in ("torch", "safetensors", "matplotlib", "onnxruntime"):
    pytest.importorskip(_needed)

import certserve  # noqa: E402 (after the checks that these are there)
from certserve import bundle as bundles  # noqa: E402
from certserve import zoo  # noqa: E402
from certserve.attacks import smoothed  # noqa: E402
from certserve.attacks.smoothed import Precision, SmoothedNetwork  # noqa: E402
from certserve.datasets import Dataset  # noqa: E402
from certserve.defences.preemptive.methods import Bilevel, CertMargin, Qualities  # noqa: E402
from certserve.endpoints.local import LocalModel  # noqa: E402
from certserve.evaluation.preempt import Question, evaluate_preempt, stages  # noqa: E402
from certserve.evaluation.preempt.figures import figures_of, name_of  # noqa: E402
from certserve.evaluation.preempt.picture import curve  # noqa: E402
from certserve.evaluation.preempt.reader import Facts  # noqa: E402
from certserve.evaluation.preempt.report import Report  # noqa: E402
from certserve.evaluation.preempt.rows import Rows  # noqa: E402
from certserve.evaluation.tables import TableError  # noqa: E402
from certserve.noise.keystream import Secret  # noqa: E402
from certserve.smoothing.bounds import clopper_pearson_lower  # noqa: E402
from certserve.smoothing.outcomes import Certificate, Prediction  # noqa: E402

SECRET = Secret(bytes(range(32)))
QUESTION = Question(
    delta=1.0, epsilon=1.0, n0=20, n=200, steps=2, draws=3, qualities=(90,), shares=(0.5, 1.0), radii=(0.0, 0.2),
    aware=Qualities(80, 90), compare_every=2, ensemble=True,
)  # fmt: skip
FILES = ("preempt.csv", "preempt.json", "preempt.png", "preempt.html")
QUICK = CertMargin(steps=3, draws=6, refinements=1)


class Run(NamedTuple):
    """A run and its folder."""

    report: Report
    folder: Path
    told: list[str]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Searches and attacks of a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        searches = {"default": QUICK, "ten-times": CertMargin(steps=6, draws=8), "bilevel": Bilevel(steps=2, draws=2)}
        patch.setattr(stages, "SEARCHES", searches)
        patch.setattr(stages, "SEARCH", QUICK)
        patch.setattr(smoothed, "_STEPS", 3)
        patch.setattr(smoothed, "_DRAWS", 2)
        yield


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    """The packaged default, opened with one secret."""
    with certserve.open(key_source=SECRET) as opened:
        yield opened


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Three samples of the packaged default; the label of the second is wrong."""
    images = np.stack([np.asarray(Image.open(path).convert("L")) for path in zoo.samples()[:3]])[:, None]
    return Dataset(images, np.array([9, 7, 1]), np.array([2, 4, 5]))


@pytest.fixture(scope="module")
def run(model: LocalModel, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The whole of it."""
    folder, told = tmp_path_factory.mktemp("measured"), list[str]()
    return Run(measure(model, data, folder, say=told.append), folder, told)


def measure(model: LocalModel, data: Dataset, folder: Path, question: Question = QUESTION, **named: Any) -> Report:
    """Of the packaged default."""
    return evaluate_preempt(model, bundles.read(zoo.path_of(None)), data, question, folder, **named)


def files(folder: Path) -> dict[str, bytes]:
    """All that a run leaves, but the rows, whose order is that in which they were made."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jsonl"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "preempt.csv").read_text(encoding="utf-8").splitlines()))


def jpeg_90(png: bytes) -> bytes:
    """The image as a JPEG file of quality 90."""
    encoded = io.BytesIO()
    Image.open(io.BytesIO(png)).save(encoded, format="JPEG", quality=90)
    return encoded.getvalue()


def test_the_columns_are_what_the_model_says_of_the_files(run: Run, model: LocalModel, data: Dataset) -> None:
    table = rows(run.folder)
    assert [int(row["idx"]) for row in table] == [2, 4, 5]
    for i, row in enumerate(table):
        original = np.ascontiguousarray(data.images[i])
        png = (run.folder / "images" / "default" / f"{row['idx']}.png").read_bytes()
        moved = np.asarray(Image.open(io.BytesIO(png)))[None]
        aware = (run.folder / "images" / "aware-80-90" / f"{row['idx']}.png").read_bytes()
        assert aware != png
        for name, image in (("before", original), ("default", png), ("jpeg-90", jpeg_90(png)),
                            ("aware-80-90", aware), ("jpeg-90-aware-80-90", jpeg_90(aware))):  # fmt: skip
            certain = model.certify(image, n0=20, n=200)
            stage = name if name.startswith("jpeg") else f"certified-{name}"
            assert int(row[f"{stage}.abstained"]) == (not isinstance(certain, Certificate))
            if isinstance(certain, Certificate):
                told = int(row[f"{stage}.answer"]), float(row[f"{stage}.radius"])
                assert told == (certain.label, certain.radius)
        for after, image in (("after", png), ("after-aware-80-90", aware)):
            predicted = model.predict(image)
            assert isinstance(predicted, Prediction)
            assert int(row[f"{after}.answer"]) == predicted.label
        far = math.sqrt(((moved.astype(int) - original) ** 2).sum()) / 255
        assert float(row["robustified-default.l2"]) == pytest.approx(far, rel=1e-12)
        assert 0.5 < far <= 1.0


def test_the_figures_are_counted_from_the_table(run: Run, data: Dataset) -> None:
    document, table = json.loads((run.folder / "preempt.json").read_text(encoding="utf-8")), rows(run.folder)

    def right(stage: str, prefix: str = "") -> list[bool]:
        return [
            row[f"{stage}.{prefix}answer"] == row["label"] and row[f"{stage}.{prefix}abstained"] == "0" for row in table
        ]

    assert document["images"] == 3
    assert document["clean"]["count"] == sum(right("clean")) == 2
    for name in ("pgd-before", "pgd-after", "apgd-before", "apgd-after"):
        assert document["attacked"][name]["count"] == sum(right(name))
        assert document["attacked"][name]["of_clean"] == pytest.approx(sum(right(name)) / 2)
        attacked = [row[f"{name}.attacked"] for row in table]
        assert attacked == ["1", "0", "1"]  # the second is answered wrongly as it is
    for kind, stage in (("before", "certified-before"), ("after", "certified-default"), ("unrounded", "unrounded"),
                        ("jpeg-90", "jpeg-90"), ("aware-80-90", "certified-aware-80-90"),
                        ("jpeg-90-aware-80-90", "jpeg-90-aware-80-90")):  # fmt: skip
        for at in document["certified"][kind]["at"]:
            reached = [
                answer and float(row[f"{stage}.radius"]) >= at["radius"]
                for answer, row in zip(right(stage), table, strict=True)
            ]
            assert at["count"] == sum(reached)
            assert at["low"] <= at["share"] <= at["high"]
    for told, one, other in ((document["rounding"], "unrounded", "certified-default"),
                             (document["jpeg"]["jpeg-90"], "certified-default", "jpeg-90"),
                             (document["jpeg"]["jpeg-90-aware-80-90"], "certified-aware-80-90", "jpeg-90-aware-80-90"),
                             ):  # fmt: skip
        radii = np.array([[float(row[f"{stage}.radius"]) for row in table] for stage in (one, other)])
        assert told["mean_radius_lost"] == pytest.approx((radii[0] - radii[1]).mean())
        certain = np.array([right(one), right(other)]) & (radii >= 0.2)
        points = 100 * (certain[0].mean() - certain[1].mean())
        assert told["certified_points_lost"][1] == {"radius": 0.2, "points": pytest.approx(points)}
    assert document["moved"]["beyond_delta"] == document["moved"]["png_changed"] == 0
    assert document["searches"]["bilevel"]["bilevel"]["passes"] == 2 * 21 * 2
    assert document["searches"]["ten-times"]["ten-times"]["passes"] == (6 + 2) * 8
    assert document["searches"]["bilevel"]["images"] == 2  # idx 2 and 4
    assert document["question"]["qualities"] == [90]


def test_a_run_that_is_killed_anywhere_ends_in_the_same_bytes(
    run: Run, model: LocalModel, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, made = Rows.append, 0

    def failing(self: Rows, row: Any) -> None:
        nonlocal made
        append(self, row)
        made += 1
        if made % 9 == 0:
            with self._path.open("a", encoding="utf-8") as file:
                file.write('{"idx": 5, "ans')  # as a run that was killed may leave it
            raise KeyboardInterrupt

    monkeypatch.setattr(Rows, "append", failing)
    for _ in range(30):
        try:
            measure(model, data, tmp_path)
            break
        except KeyboardInterrupt:
            continue
    assert made == 16 * 3 + 4 * 2  # a row a stage and image, none twice
    assert files(tmp_path) == files(run.folder)
    for path in (run.folder / "rows").iterdir():
        assert (tmp_path / "rows" / path.name).read_bytes() == path.read_bytes()


def test_more_images_are_added_to_the_folder(run: Run, model: LocalModel, data: Dataset, tmp_path: Path) -> None:
    measure(model, data.where(data.idx % 4 == 2), tmp_path)
    assert len(rows(tmp_path)) == 1
    measure(model, data, tmp_path)
    assert files(tmp_path) == files(run.folder)


def test_a_report_of_half_a_run_tells_what_is_whole(run: Run, model: LocalModel, data: Dataset, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path, dirs_exist_ok=True)
    for name in ("adversary", "jpeg-90", "apgd-after"):
        (tmp_path / "rows" / f"{name}.jsonl").unlink()
    half = tmp_path / "rows" / "pgd-after.jsonl"
    begun = "".join(half.read_text(encoding="utf-8").splitlines(keepends=True)[:2]) + '{"idx": 5, "ans'
    half.write_text(begun, encoding="utf-8")
    report = measure(model, data, tmp_path, only_report=True)
    assert set(report.figures.attacked) == {"pgd-before", "apgd-before"}
    assert not report.figures.adversary
    assert report.figures.certified_of("jpeg-90") is None
    assert report.figures.certified_of("after") == run.report.figures.certified_of("after")
    assert not (tmp_path / "rows" / "adversary.jsonl").exists()
    assert half.read_text(encoding="utf-8") == begun  # another run may be writing it


def test_other_questions_and_other_images_are_refused(
    run: Run, model: LocalModel, data: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(run.folder, tmp_path, dirs_exist_ok=True)
    with pytest.raises(TableError, match="begun with another"):
        measure(model, data, tmp_path, dataclasses.replace(QUESTION, draws=4))
    other = Dataset(data.images[::-1].copy(), data.labels, data.idx)
    with pytest.raises(TableError, match="its image 2 is another one"):
        measure(model, other, tmp_path)
    (tmp_path / "rows" / "clean.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(TableError, match="line 1"):
        measure(model, data, tmp_path)


def test_the_page_holds_the_figures_and_needs_nothing_else(run: Run) -> None:
    text = (run.folder / "preempt.html").read_text(encoding="utf-8")
    assert text.count('<figure class="triple">') == 3
    assert text.count("<img") == 3 * 3 + 1
    assert "66.7% (2 of 3)" in text
    assert "<td>robustified (JPEG 90)</td>" in text
    assert "The adversary who knows the method" in text
    assert "http" not in text
    assert (run.folder / "preempt.png").read_bytes().startswith(b"\x89PNG")
    assert any(line.startswith("robustified-default: 3 of 3 images") for line in run.told)


def _synthetic(folder: Path, **made: list[dict[str, Any]]) -> dict[str, Rows]:
    found = {}
    for name, lines in made.items():
        stage = name.replace("_", "-")
        found[stage] = Rows(folder / f"{stage}.jsonl")
        for idx, line in enumerate(lines):
            found[stage].append({"idx": idx, "answer": 1, "abstained": False, **line})
    return found


def test_the_uplift_counts_what_stays_below_the_cap(tmp_path: Path) -> None:
    facts = Facts(0.25, 1000, 0.001)
    assert facts.cap == pytest.approx(0.25 * 2.46326, abs=1e-5)  # Phi^-1(0.001^(1/1000))
    made = _synthetic(
        tmp_path,
        clean=[{"label": 1}, {"label": 0}, {"label": 1}, {"label": 1}, {"label": 1}],
        certified_before=[
            {"radius": 0.1, "votes": 700}, {"radius": 0.2, "votes": 810}, {"radius": 0.5, "votes": 985},
            {"radius": 0.0, "votes": 520, "abstained": True}, {"radius": 0.01, "votes": 560},
        ],
        certified_default=[
            {"radius": 0.4, "votes": 960}, {"radius": 0.4, "votes": 960}, {"radius": facts.cap, "votes": 1000},
            {"radius": 0.6, "votes": 999}, {"radius": 0.3, "votes": 900, "answer": 2},
        ],
    )  # fmt: skip
    uplift = figures_of(made, range(5), Question(delta=0.5), facts).uplift
    assert uplift is not None
    gains = [0.6, 0.4, 1.2, -0.02]
    assert (uplift.images, uplift.all_images, uplift.above_one, uplift.label_lost) == (4, 5, 1, 1)
    assert uplift.mean == pytest.approx(np.mean(gains))
    assert uplift.error == pytest.approx(np.std(gains, ddof=1) / 2)
    assert uplift.beyond_error == 1  # 520 of 1000 votes may be .57, a radius of .044; .6 is more than .5 beyond that
    assert uplift.largest == pytest.approx(1.2)
    wide = figures_of(made, range(5), Question(delta=0.56), facts).uplift
    assert wide is not None
    assert (wide.above_one, wide.beyond_error) == (1, 0)


def test_the_adversary_reaches_only_within_epsilon(tmp_path: Path) -> None:
    def attempt(share: float, within: bool, answer: int, abstained: bool = False) -> dict[str, Any]:
        return {"share": share, "within": within, "answer": answer, "abstained": abstained} if within else {
            "share": share, "within": within}  # fmt: skip

    made = _synthetic(
        tmp_path,
        clean=[{"label": 1}] * 4,
        adversary=[
            {"attacked": True, "squared_steps": 255**2, "attempts": [attempt(0.5, True, 1), attempt(1.0, False, 2)]},
            {"attacked": True, "squared_steps": 0, "attempts": [attempt(0.5, True, 2), attempt(1.0, True, 1)]},
            {"attacked": True, "squared_steps": 0, "attempts": [attempt(0.5, True, 1, True), attempt(1.0, True, 1)]},
            {"attacked": False, "attempts": []},
        ],
    )
    told = figures_of(made, range(4), Question(shares=(0.5, 1.0)), Facts(0.25, 100, 0.001)).adversary
    assert (told["held"]["count"], told["held"]["total"], told["attacked"]) == (1, 4, 3)
    assert told["by_share"] == [
        {"share": 0.5, "within": 3, "reached": 2},
        {"share": 1.0, "within": 2, "reached": 0},
    ]
    assert told["mean_guess_l2"] == pytest.approx(1 / 3)


def test_the_curve_steps_down_at_each_radius() -> None:
    assert curve([0.5, 0.2], 4) == ([0.0, 0.2, 0.5], [50.0, 25.0, 0.0])


@pytest.mark.parametrize(
    ("kind", "name"),
    [("after", "robustified (PNG)"), ("jpeg-85", "robustified (JPEG 85)"),
     ("aware-75-95", "robustified for JPEG 75-95 (PNG)"),
     ("jpeg-85-aware-75-95", "robustified for JPEG 75-95 (JPEG 85)")],
)  # fmt: skip
def test_a_kind_of_image_is_named(kind: str, name: str) -> None:
    assert name_of(kind) == name


def test_a_share_has_its_exact_interval(run: Run) -> None:
    share = run.report.figures.clean
    assert share is not None
    assert share.interval[0] == clopper_pearson_lower(2, 3, 0.025)


def test_bfloat16_gives_other_gradients_in_the_same_ball(data: Dataset) -> None:
    bundle, images, labels = bundles.read(zoo.path_of(None)), data.images[:2], data.labels[:2]
    found = {
        precision: SmoothedNetwork(bundle, precision).ensemble(images, labels, epsilon=1.0, sigma=0.25, seed=1)
        for precision in Precision
    }
    for name in ("APGD-CE", "APGD-DLR"):
        one, other = (made[name].astype(int) for made in found.values())
        for each in (one, other):
            far = ((each - images) ** 2).sum((1, 2, 3))
            assert (far > (0.9 * 255) ** 2).all()
            assert (far <= 255**2).all()
        assert (one != other).any()


@pytest.mark.parametrize(
    "fields",
    [{"delta": 0.0}, {"steps": 0}, {"draws": 0}, {"qualities": (0,)}, {"qualities": (90, 90)}, {"shares": ()},
     {"shares": (1.5,)}, {"radii": (-1.0,)}, {"compare_every": -1}],
)  # fmt: skip
def test_questions_out_of_range(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Question(**fields)
