"""`certserve quantize`: int8 executions for a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certserve import bundle, zoo
from certserve.backends import processor
from certserve.training import quantisation


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A copy of the packaged model without its int8 executions."""
    packaged = bundle.read(zoo.path_of(None))
    kept = [execution for execution in packaged.executions if "int8" not in execution.precision]
    path = tmp_path / "copy"
    bundle.write(
        path,
        {name: packaged.file(name).read_bytes() for name in packaged.digests if "int8" not in name},
        name="copy",
        labels=packaged.labels,
        shape=packaged.shape,
        sigmas=packaged.sigmas,
        executions=kept,
    )
    return path


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few images, labelled by their own positions, and few draws to compare them with."""
    monkeypatch.setattr(quantisation, "_DRAWS", 50)
    monkeypatch.setattr(processor, "instruction_set", lambda: "x86_64+avx2")
    rows, columns = np.mgrid[:28, :28]
    images = np.stack([(rows * (i % 5) * 2 + columns * (i % 7)) % 256 for i in range(24)]).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x=images, y=np.arange(24) % 10)
    return tmp_path / "data.npz"


def test_it_is_added_and_told(cli: Any, one_line: Any, made: Path, data: Path) -> None:
    result = cli("quantize", str(made), "--data", str(data))
    assert result.exit_code == 0, result.output
    assert "has the execution int8-7bit: " in result.stdout
    assert "of the draws get the same label" in one_line(result.stdout)
    assert bundle.read(made).execution("int8-7bit").probe_labels


def test_both_are_told(cli: Any, made: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the processor multiplies bytes; what they come to is not asked here, for it may saturate."""
    monkeypatch.setattr(processor, "instruction_set", lambda: "x86_64+avx2+avx512_vnni")
    monkeypatch.setattr(quantisation, "_SMALLEST_AGREEMENT", 0.0)
    monkeypatch.setattr(quantisation, "_LARGEST_LOSS", 1.0)
    result = cli("quantize", str(made), "--data", str(data), "--json")
    assert {"path", "int8", "int8-7bit"} == set(json.loads(result.stdout))


def test_json_says_the_same(cli: Any, made: Path, data: Path) -> None:
    result = cli("quantize", str(made), "--data", str(data), "--json")
    assert json.loads(result.stdout)["int8-7bit"] == bundle.read(made).provenance["int8-7bit"]


def test_no_bundle_is_one_sentence(cli: Any, only_sentence: Any, data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "so it is no bundle" in only_sentence(cli("quantize", str(tmp_path / "empty"), "--data", str(data)), 1)
