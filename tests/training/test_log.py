"""The log is read as it was written, and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from certserve.training import log
from certserve.training.log import Epoch, Fitted

EPOCHS = [Epoch(1, 2.5, 0.125, 0.1, 3.0), Epoch(2, 1.23456, 0.5, 0.05, 7.0), Epoch(3, 0.75, 0.875, 1.25e-07, 11.0)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    for count in range(len(EPOCHS) + 1):
        log.write(path, EPOCHS[:count])
        assert log.read(path) == EPOCHS[:count]
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.tsv"]


def test_it_is_a_table_that_other_programs_read(tmp_path: Path) -> None:
    log.write(tmp_path / "log.tsv", [Epoch(1, 1 / 3, 2 / 3, 0.1, 1.6)])
    lines = (tmp_path / "log.tsv").read_text(encoding="utf-8").split("\n")
    assert lines == ["epoch\tloss\tnoisy_accuracy\tlearning_rate\tseconds", "1\t0.333333\t0.666667\t0.1\t2", ""]


def test_a_failure_while_writing_leaves_the_old_one(tmp_path: Path) -> None:
    log.write(tmp_path / "log.tsv", EPOCHS[:1])
    broken = Epoch(2, 1.0, 1.0, 1.0, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        log.write(tmp_path / "log.tsv", [broken])
    assert log.read(tmp_path / "log.tsv") == EPOCHS[:1]


@pytest.mark.parametrize("count", [1, 3])
def test_the_picture_is_a_png_of_both_curves(tmp_path: Path, count: int) -> None:
    pytest.importorskip("matplotlib")
    log.plot(EPOCHS[:count], tmp_path / "log.png")
    with Image.open(tmp_path / "log.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 400
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    assert (blue > red + 60).any()
    assert (green > blue + 60).any()


def test_an_autoencoder_s_log_is_read_as_it_was_written_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    epochs = [Fitted(1, 0.5, 0.25, 0.03, 3.0), Fitted(2, 0.125, 1e-4, 0.01, 7.0)]
    log.write(tmp_path / "log.tsv", epochs, Fitted)
    assert log.read_fit(tmp_path / "log.tsv") == epochs
    first = (tmp_path / "log.tsv").read_text(encoding="utf-8").split("\n")[0]
    assert first == "epoch\tloss\tvalidation_loss\tlearning_rate\tseconds"
    log.plot_fit(epochs, tmp_path / "log.png")
    with Image.open(tmp_path / "log.png") as picture:
        assert picture.format == "PNG"
    assert str(epochs[1]) == "mean squared error 0.12500, of validation images 0.00010"
