"""A bundle's MagNet: what is written is read, and what does not fit is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certserve import bundle
from certserve.bundle import Autoencoder, Bundle, Detector, Execution, Magnet
from certserve.errors import BundleError

MAGNET = Magnet(
    autoencoders=(Autoencoder("I", "I.onnx", "I.safetensors"), Autoencoder("II", "II.onnx")),
    detectors=(
        Detector("l2", "I", "l2.npy", 0.001),
        Detector("l1", "II", "l1.npy", 0.002),
        Detector("jsd", "I", "jsd.npy", 0.01, 10.0),
        Detector("jsd", "I", "jsd40.npy", 0.01, 40.0),
    ),
    reformer="I",
    precision="float32",
)
FILES = {name: name.encode() for name in MAGNET.files}


@pytest.fixture
def plain(tmp_path: Path) -> Bundle:
    """A bundle without one."""
    return bundle.write_linear(
        tmp_path / "made", name="made", weights=np.zeros((2, 4)), bias=np.zeros(2), shape=(1, 2, 2), labels="ab",
        sigmas=[0.25], provenance={"from": "here"},
    )  # fmt: skip


@pytest.fixture
def made(plain: Bundle) -> Bundle:
    """The same with one."""
    return bundle.extend(plain.path, FILES, (), {"magnet": "new"}, magnet=MAGNET)


def test_what_is_written_is_read(plain: Bundle, made: Bundle) -> None:
    assert plain.magnet is None
    assert made.magnet == MAGNET
    assert bundle.read(made.path) == made
    assert made.executions == plain.executions
    assert made.provenance == {"from": "here", "magnet": "new"}
    assert {name: made.file(name).read_bytes() for name in MAGNET.files} == FILES
    assert [detector.name for detector in MAGNET.detectors] == ["l2-I", "l1-II", "jsd10-I", "jsd40-I"]
    assert MAGNET.rate == pytest.approx(0.023, rel=1e-15)


def test_the_manifest_of_a_bundle_without_one_says_nothing_of_it(plain: Bundle) -> None:
    assert "magnet" not in (plain.path / "model.toml").read_text("utf-8")


def test_another_takes_its_place_and_its_files_go(made: Bundle) -> None:
    other = Magnet((Autoencoder("II", "II.onnx"),), (Detector("l1", "II", "new.npy", 0.5),), "", "float64")
    again = bundle.extend(made.path, {"II.onnx": b"changed", "new.npy": b"scores"}, (), {}, magnet=other)
    assert again.magnet == other
    assert {path.name for path in made.path.iterdir()} == {"weights.npz", "II.onnx", "new.npy", "model.toml"}
    assert again.file("II.onnx").read_bytes() == b"changed"


def test_it_stays_when_the_bundle_gets_an_execution(made: Bundle) -> None:
    again = bundle.extend(made.path, {"w.npz": b"w"}, [Execution("second", "w.npz", "linear", "float64")], {})
    assert again.magnet == MAGNET
    assert {name: again.file(name).read_bytes() for name in MAGNET.files} == FILES


@pytest.mark.parametrize("name", MAGNET.files)
def test_a_damaged_or_missing_file_is_refused(made: Bundle, name: str) -> None:
    made.file(name).write_bytes(b"x")
    with pytest.raises(BundleError, match=f"{name} does not match its digest"):
        bundle.read(made.path)
    made.file(name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        bundle.read(made.path)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('reformer = "I"', 'reformer = "III"', "there is no autoencoder 'III', only I, II"),
        ('reformer = "I"', 'reformer = "I"\nlevel = 1', "unknown key 'magnet.level'"),
        ('precision = "float32"  #', 'precision = " "  #', "magnet.precision must name"),
        ('kind = "l2"', 'kind = "l3"', "the detectors l1, l2, jsd, not 'l3'"),
        ("temperature = 40.0", "", "must have a temperature"),
        ("temperature = 40.0", "temperature = -1.0", "must be a positive number, not -1.0"),
        ("temperature = 40.0", "temperature = inf", "must be a positive number, not inf"),
        ("temperature = 40.0", "temperature = 10.0", "detectors must be one or more that differ"),
        ('kind = "l2"', 'kind = "l2"\ntemperature = 10.0', "no other may have one"),
        ("rate = 0.002", "rate = 0.0", "strictly between 0 and 1, not 0.0"),
        ("rate = 0.002", "rate = 1.0", "strictly between 0 and 1, not 1.0"),
        ('scores = "l1.npy"', 'scores = "nowhere.npy"', "magnet names the file 'nowhere.npy', which has no digest"),
        ('name = "II"', 'name = "I"', "autoencoders must be one or more that differ"),
        ('file = "II.onnx"', 'file = "II.onnx"\nwidth = 3', "unknown key 'magnet.autoencoders.width'"),
        ("rate = 0.002", "rate = 0.002\nmark = 1", "unknown key 'magnet.detectors.mark'"),
    ],
)
def test_what_does_not_fit_is_refused(made: Bundle, before: str, after: str, said: str) -> None:
    manifest = made.path / "model.toml"
    text = manifest.read_text("utf-8")
    assert before in text
    manifest.write_text(text.replace(before, after, 1), "utf-8")
    with pytest.raises(BundleError, match=said):
        bundle.read(made.path)


def test_one_without_detectors_is_refused() -> None:
    with pytest.raises(BundleError, match="detectors must be one or more"):
        dataclasses.replace(MAGNET, detectors=())


def test_what_is_refused_changes_nothing(plain: Bundle) -> None:
    before = {path.name: path.read_bytes() for path in plain.path.iterdir()}
    less: dict[str, Any] = dict(FILES)
    del less["II.onnx"]
    with pytest.raises(BundleError, match=r"names the file 'II\.onnx', which has no digest"):
        bundle.extend(plain.path, less, (), {}, magnet=MAGNET)
    assert {path.name: path.read_bytes() for path in plain.path.iterdir()} == before
