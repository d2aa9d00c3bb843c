"""`certserve evaluate preempt`: a bundle and images in; tables, a page and rows to go on from out."""

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
from certserve.defences.preemptive.methods import CertMargin  # noqa: E402
from certserve.evaluation.preempt import stages  # noqa: E402

QUICK = ("--delta", 1, "--n", 100, "--n0", 20, "--steps", 1, "--draws", 2, "--quality", "90", "--every", 2)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two samples of the packaged default, and a search of a few steps."""
    search = CertMargin(steps=2, draws=4, refinements=0)
    monkeypatch.setattr(stages, "SEARCH", search)
    monkeypatch.setattr(stages, "SEARCHES", {"default": search})
    path = tmp_path / "samples.npz"
    x = np.stack([np.asarray(Image.open(sample).convert("L")) for sample in zoo.samples()[:2]])
    np.savez(path, x=x, y=[9, 2], idx=[0, 3])
    return path


def test_the_tables_the_page_and_going_on(cli: Any, data: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    result = cli("evaluate", "preempt", "--data", data, "-o", made, *QUICK)
    assert result.exit_code == 0, result.output
    assert "clean: 1 of 1 images" in result.stderr
    assert "robustified (JPEG 90)" in result.stdout
    assert "under PGD-1 x 2 draws, robustified (PNG)" in result.stdout
    assert "says nothing of another one; certified holds against all" in result.stdout
    assert (made / "preempt.html").exists()
    again = cli("evaluate", "preempt", "--data", data, "-o", made, *QUICK, "--json", "--report")
    assert again.stderr == ""
    assert json.loads(again.stdout)["images"] == 1
    assert json.loads(again.stdout) == json.loads((made / "preempt.json").read_text(encoding="utf-8"))
    refused = cli("evaluate", "preempt", "--data", data, "-o", made, *QUICK, "--n", 200)
    assert refused.exit_code == 1
    assert refused.stderr.count("\n") == 1
    assert "begun with another model, execution, question or secret" in refused.stderr


def test_the_options_reach_the_question(cli: Any, data: Path, tmp_path: Path) -> None:
    words = ["--epsilon", 0.25, "--alpha", 0.01, "--bfloat16", "--radius", "0.1", "--jpeg", "75-95"]
    words += ["--compare-every", 7, "--report"]
    result = cli("evaluate", "preempt", "--data", data, "-o", tmp_path / "made", *QUICK, *words, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["question"] == {
        "delta": 1.0, "epsilon": 0.25, "sigma": None, "n0": 20, "n": 100, "alpha": 0.01, "steps": 1, "draws": 2,
        "precision": "bfloat16", "qualities": [90], "shares": [0.25, 0.5, 0.75, 1.0], "radii": [0.1],
        "aware": {"lowest": 75, "highest": 95}, "compare_every": 7, "ensemble": False,
    }  # fmt: skip
    assert json.loads(result.stdout)["images"] == 0
