"""From a bundle to an execution that may serve: the loader's table, its checks, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from certserve import backends, bundle
from certserve.backends.checks import check_rows, fingerprint, probe_pixels
from certserve.bundle import Bundle, Execution
from certserve.errors import BundleError, ModelRefused

LABELS = ("cat", "dog", "emu", "fox")


@pytest.fixture
def linear_bundle(models: ModuleType, tmp_path: Path) -> Bundle:
    weights = models.waves(len(LABELS), int(np.prod(models.SHAPE))).astype(np.float64)
    return bundle.write_linear(
        tmp_path / "linear",
        name="linear",
        weights=weights,
        bias=np.linspace(0.0, 1.0, len(LABELS)),
        shape=models.SHAPE,
        labels=LABELS,
        sigmas=[0.25, 0.5],
    )


def test_a_linear_bundle_loads(linear_bundle: Bundle, models: ModuleType) -> None:
    loaded = backends.load(linear_bundle)
    pixels = probe_pixels(models.SHAPE, 5, 0.5)
    np.testing.assert_array_equal(loaded.backend.logits(pixels), models.linear().logits(pixels))
    assert loaded.name == linear_bundle.executions[0].name
    assert loaded.shapes == (1, 8, 32, 128)


def test_its_fingerprint_is_that_of_the_file_the_identity_and_the_probes(linear_bundle: Bundle) -> None:
    loaded = backends.load(linear_bundle)
    rows = check_rows(loaded.backend, 0.5)  # the largest of the bundle's sigmas
    digest = linear_bundle.digests[linear_bundle.executions[0].file]
    assert loaded.fingerprint == fingerprint(digest, loaded.backend.identity, rows)
    assert loaded.fingerprint == backends.load(linear_bundle).fingerprint


def test_an_onnx_bundle_loads(models: ModuleType, tmp_path: Path) -> None:
    loaded = backends.load(_created(models, tmp_path, models.classifier(tmp_path / "model.onnx")))
    assert loaded.backend.identity["runtime"] == "onnxruntime"
    assert loaded.backend.shape == models.SHAPE


def test_a_coupled_onnx_bundle_is_refused(models: ModuleType, tmp_path: Path) -> None:
    found = _created(models, tmp_path, models.spoilt(tmp_path / "model.onnx", "transposed_mean"))
    with pytest.raises(ModelRefused, match="rows are not independent"):
        backends.load(found)


def test_another_execution_may_be_chosen(linear_bundle: Bundle) -> None:
    second = replace(linear_bundle.executions[0], name="the other one")
    assert backends.load(linear_bundle, second).name == "the other one"


def test_an_unknown_runtime_is_refused_with_those_there_are(linear_bundle: Bundle) -> None:
    unknown = replace(linear_bundle.executions[0], runtime="abacus")
    with pytest.raises(BundleError, match="unknown runtime 'abacus'; this version has linear, onnx"):
        backends.load(linear_bundle, unknown)


def test_as_many_labels_as_classes_are_needed(linear_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"4 outputs, model\.toml names 3 labels"):
        backends.load(replace(linear_bundle, labels=LABELS[:3]))


def test_the_shape_must_be_that_of_the_model(models: ModuleType, tmp_path: Path) -> None:
    found = _created(models, tmp_path, models.classifier(tmp_path / "model.onnx"))
    with pytest.raises(BundleError, match=r"the model takes \(3, 8, 8\), model\.toml says \(3, 8, 9\)"):
        backends.load(replace(found, shape=(3, 8, 9)))


def test_a_linear_model_imports_no_runtime(linear_bundle: Bundle) -> None:
    program = (
        "import sys; from pathlib import Path; from certserve import backends, bundle;"
        "backends.load(bundle.read(Path(sys.argv[1])));"
        "assert not {'onnx', 'onnxruntime', 'torch', 'openvino'} & set(sys.modules)"
    )
    root = str(Path(backends.__file__).parents[2])
    subprocess.run([sys.executable, "-c", program, str(linear_bundle.path)], check=True, cwd=root)


def _created(models: ModuleType, folder: Path, model: Path) -> Bundle:
    pytest.importorskip("onnxruntime")
    found = bundle.create(model, folder / "bundle", name="tiny", labels=LABELS, sigmas=[0.25])
    assert isinstance(found.executions[0], Execution)
    return found
