"""certserve tune: a table, a file in the user's cache, and the ladder that is used from then on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from certserve import backends, bundle


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_keeps_a_ladder_that_is_used_from_then_on(cli: Any, half: Path, cache: Path) -> None:
    done = cli("tune", str(half), "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    tried = {int(rows) for rows in said["draws_per_second"]}
    assert tried in ({128, 256, 512}, {16, 32, 64, 128, 256, 512})  # without the small ones, where it seems quick
    assert list(backends.load(bundle.read(half)).shapes) == said["shapes"]
    (kept,) = (cache / "certserve" / "shapes").iterdir()
    assert json.loads(kept.read_text(encoding="utf-8"))["shapes"] == said["shapes"]


def test_it_says_what_it_chose_and_where_it_is_kept(cli: Any, half: Path, cache: Path) -> None:
    done = cli("tune", str(half))
    assert done.exit_code == 0, done.output
    assert done.stdout.count("(chosen)") == 1
    assert str(cache) in done.stdout.replace("\n", "")


def test_an_unknown_execution_is_a_sentence(cli: Any, half: Path) -> None:
    done = cli("tune", str(half), "--execution", "int9")
    assert done.exit_code == 1
    assert "int9" in done.stderr
