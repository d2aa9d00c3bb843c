"""`certserve train classifier`: from a folder of pictures to a bundle that is measured, served and asked."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

for _needed in ("torch", "safetensors", "matplotlib", "onnxruntime"):
    pytest.importorskip(_needed)

from certserve import bundle as bundles  # noqa: E402 (after the checks that these are there)
from certserve import datasets  # noqa: E402
from certserve.cli import main  # noqa: E402
from certserve.evaluation.tables import read_table  # noqa: E402

_ROOT = Path(__file__).resolve().parents[2]
_RUN = [sys.executable, "-c", "from certserve.cli import main; main(prog_name='certserve')"]
_SECONDS = 60
_COUNT = 40
_EPOCHS = 60
_SMALL = [
    "--batch",
    "8",
    "--widths",
    "4",
    "--blocks",
    "1",
    "--shift",
    "1",
    "--threads",
    "1",
    "--precision",
    "float32",
    "--held-out",
    "0.2",
]
_QUESTION = ["--n0", "20", "--n", "1000", "--alpha", "0.01"]
_FILES = ("model.onnx", "model.safetensors", "model.toml")


def draw(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    """Pictures of nights, dark, and of days, bright, by turns, and the CSV file that says which is which."""
    folder.mkdir()
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label"])
        for i, (width, height) in enumerate(sizes):
            grey = np.full((height, width, 3), 20 + i if i % 2 else 190 + i, np.uint8)
            grey[::2] -= 15
            Image.fromarray(grey).save(folder / f"{i}.png")
            rows.writerow([f"{i}.png", "night" if i % 2 else "day"])
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of one size."""
    return draw(tmp_path_factory.mktemp("data") / "photos", _COUNT * [(9, 8)])


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The bundle of a run that was left alone, and what the command printed."""
    made = tmp_path_factory.mktemp("trained") / "sky"
    words = ["train", "classifier", "-o", str(made), "--data", str(photos), "--epochs", str(_EPOCHS), *_SMALL]
    result = CliRunner().invoke(main, words, catch_exceptions=False, prog_name="certserve")
    assert result.exit_code == 0, result.output
    assert [line.split(":")[0] for line in result.stderr.splitlines()[:_EPOCHS]] == [
        f"epoch {epoch} of {_EPOCHS}" for epoch in range(1, _EPOCHS + 1)
    ]
    return made, result.stdout


@pytest.fixture
def train(cli: Any, tmp_path: Path) -> Callable[..., Any]:
    """The command, for one epoch, into `tmp_path / "made"`."""

    def run(data: Path, *more: object) -> Any:
        return cli("train", "classifier", "-o", tmp_path / "made", "--data", data, "--epochs", 1, *_SMALL, *more)

    return run


@contextmanager
def process(*words: object) -> Iterator[subprocess.Popen[str]]:
    """`certserve` as a process, killed in the end."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    running = subprocess.Popen(
        [*_RUN, *map(str, words)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate(timeout=_SECONDS)


def kill_when(ready: Callable[[], bool], *words: object) -> None:
    """Start `certserve` and end it by SIGKILL once `ready`; it was at work until then."""
    with process(*words) as running:
        until = time.monotonic() + _SECONDS
        while not ready():
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < until
            time.sleep(0.002)
        running.send_signal(signal.SIGKILL)
        assert running.wait(_SECONDS) == -signal.SIGKILL


def lines_of(path: Path) -> int:
    """How many whole lines a file has, if it is there."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def timeless(table: Path) -> list[str]:
    """A table's lines without their last column, the time."""
    return [line.rpartition("\t")[0] for line in table.read_text(encoding="utf-8").splitlines()]


def test_pictures_and_names_become_a_bundle(trained: tuple[Path, str]) -> None:
    made = bundles.read(trained[0])
    assert (made.name, made.labels, made.shape, made.colour) == ("sky", ("day", "night"), (3, 8, 9), "rgb")
    assert made.sigmas == (0.25,)
    with Image.open(trained[0].with_name("sky.training") / "log.png") as picture:
        assert picture.format == "PNG"
    held_out = datasets.read([trained[0].with_name("sky.training") / "held_out.npz"])
    assert sorted(held_out.labels.tolist()) == [0] * 4 + [1] * 4
    assert all((label == 1) == (idx % 2 == 1) for idx, label in zip(held_out.idx, held_out.labels, strict=True))


def test_a_run_that_is_killed_and_begun_again_makes_the_same_bundle(
    cli: Any, photos: Path, trained: tuple[Path, str], tmp_path: Path
) -> None:
    words = ["train", "classifier", "-o", tmp_path / "sky", "--data", photos, "--epochs", _EPOCHS, *_SMALL]
    log = tmp_path / "sky.training" / "log.tsv"
    kill_when(lambda: lines_of(log) > 2, *words)
    assert 2 < lines_of(log) < _EPOCHS
    assert not (tmp_path / "sky").exists()
    result = cli(*words)
    assert result.exit_code == 0, result.output
    for name in _FILES:
        assert (tmp_path / "sky" / name).read_bytes() == (trained[0] / name).read_bytes(), name
    assert timeless(log) == timeless(trained[0].with_name("sky.training") / "log.tsv")


def test_an_evaluation_that_is_killed_and_begun_again_writes_the_same_table(
    cli: Any, photos: Path, trained: tuple[Path, str], tmp_path: Path
) -> None:
    (execution,) = (one.name for one in bundles.read(trained[0]).executions if one.runtime == "onnx")
    about = ["--data", photos, "--model", trained[0], "--execution", execution, *_QUESTION]
    killed, whole = tmp_path / "killed.tsv", tmp_path / "whole.tsv"
    kill_when(lambda: lines_of(killed) > 2, "evaluate", "certify", "-o", killed, *about)
    assert 2 < lines_of(killed) < _COUNT
    secret = tmp_path / "killed.tsv.secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    (tmp_path / "whole.tsv.secret").write_bytes(secret.read_bytes())
    for table in (killed, whole):
        result = cli("evaluate", "certify", "-o", table, *about)
        assert result.exit_code == 0, result.output
    assert timeless(killed) == timeless(whole)
    assert len(read_table(whole)) == _COUNT
    assert (tmp_path / "killed.tsv.json").read_bytes() == (tmp_path / "whole.tsv.json").read_bytes()


def test_the_commands_that_it_prints_measure_and_serve_the_model(
    cli: Any, photos: Path, trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if training and what comes after it do not fit together."""
    monkeypatch.chdir(tmp_path)
    said = dict(line.split(": certserve ") for line in trained[1].splitlines() if ": certserve " in line)
    measured = cli(*shlex.split(said["Measure"]), *_QUESTION, "--json")
    assert measured.exit_code == 0, measured.output
    held_out = datasets.read([trained[0].with_name("sky.training") / "held_out.npz"])
    rows = read_table(tmp_path / "sky.tsv")
    assert [(row.idx, row.label) for row in rows] == list(zip(held_out.idx, held_out.labels, strict=True))
    assert all(row.certified_at(0.1) for row in rows)
    with process(*shlex.split(said["Serve"]), "--address", "127.0.0.1:0", "--json") as server:
        assert server.stdout is not None
        port = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")["port"]
        asked = cli(
            "certify", photos / "0.png", photos / "1.png", "--server", f"127.0.0.1:{port}", "--n", 1000, "--json"
        )
    assert asked.exit_code == 0, asked.output
    assert [document["label_name"] for document in json.loads(asked.stdout)] == ["day", "night"]
    assert cli("verify", "-", stdin=asked.stdout).exit_code == 0


def test_json_says_where_everything_is(train: Any, photos: Path, tmp_path: Path) -> None:
    result = train(photos, "--run", tmp_path / "elsewhere", "--name", "its name", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["path"] == str(tmp_path / "made")
    assert document["run"] == str(tmp_path / "elsewhere")
    made = bundles.read(tmp_path / "made")
    assert made.name == "its name"
    assert document["provenance"] == made.provenance
    assert (tmp_path / "elsewhere" / "log.tsv").exists()
    assert not (tmp_path / "made.training").exists()


def test_every_option_of_the_recipe_reaches_it(train: Any, photos: Path, tmp_path: Path) -> None:
    wanted = {
        "sigma": 0.5,
        "seed": 7,
        "copies": 3,
        "consistency": 4.0,
        "entropy": 0.25,
        "ramp": 0.75,
        "learning_rate": 0.05,
        "batch": 6,
        "shift": 2,
        "blocks": 2,
        "held_out": 0.25,
        "threads": 2,
        "precision": "bfloat16",
        "widths": [3, 5],
    }
    words = [word for name, value in wanted.items() for word in (f"--{name.replace('_', '-')}", value)]
    words[words.index([3, 5])] = "3, 5"
    result = train(photos, *words, "--no-flip", "--json")
    assert result.exit_code == 0, result.output
    recipe = json.loads(json.loads(result.stdout)["provenance"]["recipe"])
    assert {name: recipe[name] for name in wanted} == wanted
    assert (recipe["flip"], recipe["epochs"]) == (False, 1)


def test_the_adversary_of_the_options_reaches_the_recipe(train: Any, photos: Path) -> None:
    words = ("--adversary", "Linf", "--epsilon", 0.1, "--delta", 0.05, "--attack-steps", 2)
    result = train(photos, *words, "--json")
    assert result.exit_code == 0, result.output
    recipe = json.loads(json.loads(result.stdout)["provenance"]["recipe"])
    assert recipe["adversary"] == {"norm": "Linf", "epsilon": 0.1, "delta": 0.05, "steps": 2}


def test_pictures_of_many_sizes_need_a_shape(train: Any, only_sentence: Any, tmp_path: Path) -> None:
    mixed = draw(tmp_path / "mixed", [(8 + i % 3, 9) for i in range(8)])
    said = only_sentence(train(mixed), 1)
    assert "the images are of 3 sizes" in said
    assert "--shape" in said
    assert not (tmp_path / "made").exists()
    assert train(mixed, "--shape", "1,7,6").exit_code == 0
    made = bundles.read(tmp_path / "made")
    assert (made.shape, made.colour) == ((1, 7, 6), "grey")


def test_labels_give_the_classes_their_order(train: Any, only_sentence: Any, photos: Path, tmp_path: Path) -> None:
    assert "expected a label, one of dark, light, not 'day'" in only_sentence(
        train(photos, "--labels", "dark,light"), 1
    )
    (tmp_path / "names.txt").write_text("night\nday\n", encoding="utf-8")
    assert train(photos, "--labels", tmp_path / "names.txt").exit_code == 0
    assert bundles.read(tmp_path / "made").labels == ("night", "day")
    held_out = datasets.read([tmp_path / "made.training" / "held_out.npz"])
    assert all((label == 0) == (idx % 2 == 1) for idx, label in zip(held_out.idx, held_out.labels, strict=True))


def test_a_run_begins_with_the_weights_of_a_bundle(
    train: Any, photos: Path, trained: tuple[Path, str], tmp_path: Path
) -> None:
    result = train(photos, "--start-from", trained[0], "--widths", "77", "--json")
    assert result.exit_code == 0, result.output
    digest = bundles.read(trained[0]).digests["model.safetensors"]
    provenance = json.loads(result.stdout)["provenance"]
    assert provenance["started_from"] == f"weights with SHA-256 {digest}"
    assert float(provenance["held_out_accuracy_under_noise"]) > 0.8


def test_an_output_that_is_not_empty_is_refused_before_any_work(
    train: Any, only_sentence: Any, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine").write_text("kept", encoding="utf-8")
    assert "is not empty; choose another directory" in only_sentence(train(photos), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["mine"]


def test_another_recipe_in_the_folder_of_a_run_is_refused(
    train: Any, only_sentence: Any, photos: Path, trained: tuple[Path, str]
) -> None:
    folder = trained[0].with_name("sky.training")
    said = only_sentence(train(photos, "--run", folder, "--seed", 1), 1)
    assert said.startswith(f"{folder}: holds a run with another recipe's ")
    assert "recipe's seed" in said
    assert said.endswith("; name another folder, or remove it")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--widths", "4,x"), 2, "expected whole numbers separated by commas, not '4,x'"),
        (("--shape", "3,8"), 2, "expected channels,height,width, not '3,8'"),
        (("--labels", "day"), 2, "'day' is neither a file nor a,b,c"),
        (("--start-from", "nowhere"), 2, "'nowhere' does not exist"),
        (("--epochs", "0"), 1, "certserve: epochs must be a number, positive, not 0\n"),
        (("--threads", "0"), 1, "certserve: threads must be a number, positive, not 0\n"),
        (("--widths", "0"), 1, "certserve: widths must be one or more positive numbers, not (0,)\n"),
        (("--labels", "day,night,dusk"), 1, "certserve: the class 2 (dusk) has 0 images"),
        (("--adversary", "L2"), 2, "--adversary needs --epsilon"),
        (("--epsilon", "0.5"), 2, "--epsilon and --delta need --adversary"),
        (("--delta", "0.5"), 2, "--epsilon and --delta need --adversary"),
        (("--adversary", "L2", "--epsilon", "0"), 1, "an adversary takes at least one step within a positive epsilon"),
        (("--adversary", "L2", "--epsilon", "1", "--sigma", "0"), 1, "sigma must be positive\n"),
        (("--learning-rate", "1e30"), 1, "a lower learning rate may help\n"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_sentence(
    train: Any, photos: Path, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    result = train(photos, *words)
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "made").exists()
