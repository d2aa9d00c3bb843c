"""`certserve models` of the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from certserve import bundle, zoo


def test_the_table_lists_the_packaged_models(cli: Any) -> None:
    result = cli("models")
    assert result.exit_code == 0
    for heading in ("name", "input", "classes", "sigmas", "n0", "alpha", "detectors"):
        assert heading in result.stdout
    assert zoo.DEFAULT in result.stdout
    assert "1x28x28" in result.stdout


def test_json_has_every_label_and_default(cli: Any) -> None:
    listed = {model["name"]: model for model in json.loads(cli("models", "--json").stdout)}
    assert tuple(sorted(listed)) == zoo.packaged()
    found = bundle.read(zoo.path_of(None))
    assert listed[zoo.DEFAULT]["labels"] == list(found.labels)
    assert listed[zoo.DEFAULT]["sigmas"] == list(found.sigmas)
    assert listed[zoo.DEFAULT]["defaults"]["n"] == found.defaults.n
    assert found.magnet is not None
    assert [d["name"] for d in listed[zoo.DEFAULT]["magnet"]["detectors"]] == [d.name for d in found.magnet.detectors]
    assert listed[zoo.DEFAULT]["magnet"]["rate"] == found.magnet.rate


def test_a_damaged_model_is_one_sentence(
    cli: Any, only_sentence: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(zoo, "packaged", lambda: (str(tmp_path / "gone"),))
    assert "gone" in only_sentence(cli("models"), 1)


def test_descriptions_are_not_markup(cli: Any, half: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in half.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    text = (copy / "model.toml").read_text(encoding="utf-8")
    (copy / "model.toml").write_text(text.replace('description = ""', 'description = "see [/1]"'), encoding="utf-8")
    monkeypatch.setattr(zoo, "packaged", lambda: (str(copy),))
    assert "see [/1]" in cli("models").stdout
