"""The packaged models: complete, small, and able to serve without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from certserve import backends, bundle, zoo
from certserve.backends.choice import ranked

_LARGEST = 12_000_000  # bytes, of all of them together


def test_they_are_small() -> None:
    files = [path for name in zoo.packaged() for path in zoo.path_of(name).iterdir()]
    assert sum(path.stat().st_size for path in files) <= _LARGEST


@pytest.mark.parametrize("name", zoo.packaged())
def test_each_says_what_it_is_and_where_it_came_from(name: str) -> None:
    found = bundle.read(zoo.path_of(name))
    assert found.name == name
    assert {"recipe", "training_images", "held_out_images", "int8", "int8-7bit", "torch", "processor"} <= set(
        found.provenance
    )
    assert {path.name for path in zoo.path_of(name).iterdir()} == {*found.digests, "model.toml"}


@pytest.mark.parametrize("name", zoo.packaged())
def test_each_runs_in_every_precision(name: str) -> None:
    found = bundle.read(zoo.path_of(name))
    assert {e.precision for e in found.executions if e.runtime == "openvino"} == {
        "int8",
        "int8-7bit",
        "bfloat16",
        "float32",
    }
    assert {e.precision for e in found.executions if e.runtime == "torch"} == {"bfloat16", "float32"}
    first = ranked(found)[0]
    assert first.runtime != "torch"
    assert 64 in backends.load(found, first).shapes


@pytest.mark.parametrize("name", zoo.packaged())
def test_its_executions_agree(name: str) -> None:
    """On patterns, nearly all labels of any two executions are the same: they are the same network."""
    from certserve.backends.probes import probe_labels

    found = bundle.read(zoo.path_of(name))
    able = ranked(found)
    assert {"int8", "int8-7bit", "float32", "bfloat16", "onnxruntime-float32"} <= {execution.name for execution in able}
    labels = [probe_labels(backends.load(found, e).backend, 128, found.sigmas[0], 64) for e in able]
    for other in labels[1:]:
        assert sum(a == b for a, b in zip(labels[0], other, strict=True)) >= 0.9 * 128


def test_a_path_is_a_path_and_a_name_a_name(tmp_path: Path) -> None:
    assert zoo.path_of(None) == zoo.path_of(zoo.DEFAULT)
    assert zoo.path_of(tmp_path) == tmp_path
    assert zoo.path_of("no-such-model") == Path("no-such-model")


def test_the_default_model_has_samples_named_by_their_label() -> None:
    labels = [label.lower().replace("/", "_").replace(" ", "_") for label in bundle.read(zoo.path_of(None)).labels]
    assert len(zoo.samples()) == 12
    assert all(path.stem.split("_", 1)[1] in labels for path in zoo.samples())


@pytest.mark.parametrize("name", zoo.packaged())
def test_each_has_detectors_that_flag_few_of_what_they_know(name: str) -> None:
    """White noise is flagged; a MagNet that flags nothing, or that its files do not fit, is noticed."""
    from certserve.defences.magnet import load_magnet

    found = bundle.read(zoo.path_of(name))
    magnet = load_magnet(found)
    noise = np.random.Generator(np.random.PCG64(1)).random((9, *found.shape), dtype=np.float32)
    verdicts = magnet.detect(noise)
    assert all(verdict.flagged for verdict in verdicts)
    assert {d.validation_images for d in verdicts[0].detectors} <= {4500, 4501}
    assert verdicts[0].rate <= 0.025
    assert {"magnet_plan", "magnet_training_images", "magnet_calibration_images"} <= set(found.provenance)


def test_the_samples_of_the_default_model_are_not_flagged() -> None:
    from certserve.defences.magnet import load_magnet
    from certserve.images import EncodedImage, Geometry, ImageFit, Limits, decode

    found = bundle.read(zoo.path_of(None))
    images = [
        decode(EncodedImage(path.read_bytes()), Geometry(*found.shape, found.colour, None), ImageFit.EXACT, Limits())
        for path in zoo.samples()
    ]
    verdicts = load_magnet(found).detect(np.stack(images).astype(np.float32) / np.float32(255))
    assert sum(verdict.flagged for verdict in verdicts) <= 1
