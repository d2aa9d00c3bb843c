"""The picture says what the numbers say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from certserve.evaluation.accuracy import certified_accuracy
from certserve.evaluation.plots import _curve, plot_certified_accuracy
from certserve.evaluation.tables import ABSTAINED, Row

TABLE = [Row(i, 1, 2 if i % 5 == 0 else 1, (i * 7 % 20) / 20.0) for i in range(30)] + [Row(99, 1, ABSTAINED, 0.0)]


@pytest.mark.parametrize("radius", [0.0, 0.025, 0.05, 0.3, 0.301, 0.725, 0.95, 0.951, 3.0])
def test_the_curve_is_the_certified_accuracy(radius: float) -> None:
    radii, share = _curve(TABLE)
    assert radii[0] == 0.0
    before = int(np.searchsorted(radii, radius, side="left"))  # radii below it
    drawn = share[max(0, before - 1)]
    assert drawn == certified_accuracy(TABLE, radius, alpha=0.001).value


@pytest.mark.parametrize("tables", [1, 2, 9])
def test_a_picture_is_written(tmp_path: Path, tables: int) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "curve.png"
    plot_certified_accuracy({f"table {i}": TABLE[i:] for i in range(tables)}, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > 400
        pixels = np.asarray(picture.convert("L"))
    assert (pixels < 128).any()


def test_a_table_of_abstentions_is_drawn_too(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_certified_accuracy({"none": [Row(0, 1, ABSTAINED, 0.0)]}, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 0
