"""`certserve robustify --server` and `certserve bundle fetch`: a server that moves images, or hands out its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from certserve import bundle as bundles
from certserve import zoo
from certserve.serving.config import Address, Config, RobustifyConfig

ASKED = ("--method", "fast", "--n", "100", "--alpha", ".05")


@pytest.fixture(scope="module")
def offering(harness: ModuleType, half: Path) -> Iterator[str]:
    """HOST:PORT of a server of the packaged digits that hands out weights, and of a model without any."""
    loaded = [harness.LoadedModel.read(path) for path in (zoo.path_of("mnist"), half)]
    config = Config(server=Address(port=0), robustify=RobustifyConfig(surrogate=True))
    with harness.Server(loaded, config=config) as running:
        yield running.target


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        pixels = np.zeros((28, 28), np.uint8)
        pixels[5:23, 12:16] = np.random.default_rng(seed).integers(180, 256, (18, 4))
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def test_a_folder_through_a_server(cli: Any, offering: str, photos: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    result = cli("robustify", photos, "-o", made, "--server", offering, "--model", "mnist", *ASKED, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [Path(entry["written"]).name for entry in found] == ["a.png", "b.png"]
    asked = ("--server", offering, "--n", "100", "--alpha", ".05", "--json")
    for entry in found:
        after = json.loads(cli("certify", entry["written"], *asked).stdout)
        assert (after["radius"], after["estimation"]) == (entry["after"]["radius"], entry["after"]["estimation"])


def test_options_of_a_bundle_here_do_not_go_with_a_server(cli: Any, photos: Path, tmp_path: Path) -> None:
    for option in (("--trust",), ("--execution", "int8")):
        result = cli("robustify", photos, "-o", tmp_path / "m", "--server", "localhost:1", *option)
        assert result.exit_code == 2
        assert f"{option[0]} is for a bundle here" in result.stderr


def test_fetched_weights_robustify_here(cli: Any, one_line: Any, offering: str, photos: Path, tmp_path: Path) -> None:
    made, digest = tmp_path / "fetched", bundles.read(zoo.path_of("mnist")).digests["model.safetensors"]
    result = cli("bundle", "fetch", "--server", offering, "-o", made, "--digest", digest.upper())
    assert result.exit_code == 0, result.stderr
    assert f"Made {made}: the weights of mnist 1, SHA-256 {digest}." in one_line(result.stdout)
    moved = cli("robustify", photos / "a.png", "-o", tmp_path / "safe.png", "--model", made, *ASKED, "--json")
    assert moved.exit_code == 0, moved.stderr
    (found,) = json.loads(moved.stdout)
    assert found["after"]["origin"]["execution"].startswith("torch")
    other = cli("bundle", "fetch", "--server", offering, "-o", tmp_path / "again", "--json")
    assert json.loads(other.stdout) == {"path": str(tmp_path / "again"), "name": "mnist", "digest": digest}


def test_what_cannot_be_fetched_is_one_sentence(
    cli: Any, only_sentence: Any, offering: str, server: str, tmp_path: Path
) -> None:
    out = tmp_path / "fetched"
    assert "not 00" in only_sentence(cli("bundle", "fetch", "--server", offering, "-o", out, "--digest", "00"), 1)
    assert "hands out no weights" in only_sentence(cli("bundle", "fetch", "--server", server, "-o", out), 1)
    asked = ("bundle", "fetch", "--server", offering, "-o", out, "--model")
    assert "no weights for torch" in only_sentence(cli(*asked, "half"), 1)
    assert "no model named" in only_sentence(cli(*asked, "none"), 1)
    assert "--server HOST:PORT is missing" in cli("bundle", "fetch", "-o", out).stderr
    assert not out.exists()
    out.mkdir()
    (out / "mine").write_text("")
    assert "not empty" in only_sentence(cli("bundle", "fetch", "--server", offering, "-o", out), 1)
