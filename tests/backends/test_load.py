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
from certserve.backends.checks import LADDER, check_rows, fingerprint
from certserve.backends.probes import probe_pixels
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
    assert loaded.shapes[: len(LADDER)] == LADDER


def test_its_fingerprint_is_that_of_the_file_the_identity_and_the_probes(linear_bundle: Bundle) -> None:
    loaded = backends.load(linear_bundle)
    rows = check_rows(loaded.backend, 0.5)  # the largest of the bundle's sigmas
    digest = linear_bundle.digests[linear_bundle.executions[0].file]
    assert loaded.fingerprint == fingerprint(digest, loaded.backend.identity, rows)
    assert loaded.fingerprint == backends.load(linear_bundle).fingerprint


def test_an_onnx_bundle_loads(models: ModuleType, tmp_path: Path) -> None:
    found = _created(models, tmp_path, models.classifier(tmp_path / "model.onnx"))
    loaded = backends.load(found, _onnx_runtime(found))
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
    with pytest.raises(
        BundleError, match=r"unknown runtime 'abacus'; this version has linear, onnx, .*torch, torch-export"
    ):
        backends.load(linear_bundle, unknown)


def test_as_many_labels_as_classes_are_needed(linear_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"4 outputs, model\.toml names 3 labels"):
        backends.load(replace(linear_bundle, labels=LABELS[:3]))


def test_the_shape_must_be_that_of_the_model(models: ModuleType, tmp_path: Path) -> None:
    found = _created(models, tmp_path, models.classifier(tmp_path / "model.onnx"))
    with pytest.raises(BundleError, match=r"the model takes \(3, 8, 8\), model\.toml says \(3, 8, 9\)"):
        backends.load(replace(found, shape=(3, 8, 9)), _onnx_runtime(found))


def test_a_torch_bundle_loads_in_either_precision(models: ModuleType, tmp_path: Path) -> None:
    found = _torch(models, tmp_path)
    loaded = [backends.load(found, found.execution(name)) for name in ("exact", "short")]
    assert [execution.backend.identity["runtime"] for execution in loaded] == ["torch", "torch"]
    assert [execution.backend.identity["precision"] for execution in loaded] == ["float32", "bfloat16"]
    assert loaded[0].backend.shape == models.SHAPE
    assert loaded[0].fingerprint != loaded[1].fingerprint
    assert loaded[0].fingerprint == backends.load(found, found.execution("exact")).fingerprint


def test_a_torch_bundle_may_not_contradict_its_weights(models: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"the model takes \(3, 8, 8\), model\.toml says \(3, 8, 9\)"):
        backends.load(replace(_torch(models, tmp_path), shape=(3, 8, 9)))


def test_a_program_that_is_not_trusted_is_not_opened(models: ModuleType, tmp_path: Path) -> None:
    """It is refused for what it is, whatever it holds; only with trust it is found to be no program."""
    found = _program(models, tmp_path, b"no program")
    with pytest.raises(BundleError, match=r"model\.pt2 is a program, which can run any code .*--trust"):
        backends.load(found)
    pytest.importorskip("torch")
    with pytest.raises(BundleError, match="expected a program"):
        backends.load(found, trust=True)


def test_a_trusted_program_loads(models: ModuleType, tmp_path: Path) -> None:
    _need_torch()
    found = _program(models, tmp_path, models.program(tmp_path / "model.pt2").read_bytes())
    loaded = backends.load(found, trust=True)
    assert loaded.name == "torch-program"
    pixels = probe_pixels(models.SHAPE, 8, 0.5)
    network = _torch(models, tmp_path)
    exact = backends.load(network, network.execution("exact")).backend.logits(pixels)
    np.testing.assert_allclose(loaded.backend.logits(pixels), exact, rtol=1e-4, atol=1e-4)
    with pytest.raises(BundleError, match="is a program"):
        backends.load(found)


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_a_program_whose_batch_is_fixed_is_refused(models: ModuleType, tmp_path: Path, rows: int) -> None:
    _need_torch()
    found = _program(models, tmp_path, models.program(tmp_path / "model.pt2", batch=rows).read_bytes())
    with pytest.raises(ModelRefused, match="torch failed on a batch of"):
        backends.load(found, trust=True)


def test_a_program_that_couples_rows_is_refused(models: ModuleType, tmp_path: Path) -> None:
    _need_torch()
    coupled = models.program(tmp_path / "model.pt2", lambda x: (x - x.mean(0)).flatten(2).sum(2))
    found = replace(_program(models, tmp_path, coupled.read_bytes()), labels=LABELS[:3])
    with pytest.raises(ModelRefused, match="rows are not independent"):
        backends.load(found, trust=True)


def test_a_linear_model_imports_no_runtime(linear_bundle: Bundle) -> None:
    assert _imported_by_loading(linear_bundle) == set()


def test_an_onnx_model_imports_no_torch(models: ModuleType, tmp_path: Path) -> None:
    found = _created(models, tmp_path, models.classifier(tmp_path / "model.onnx"))
    assert "onnx" in _imported_by_loading(found) <= {"onnx", "onnxruntime", "openvino"}


def test_a_torch_model_imports_no_other_runtime(models: ModuleType, tmp_path: Path) -> None:
    assert _imported_by_loading(_torch(models, tmp_path)) == {"torch"}


def test_a_program_that_is_not_trusted_imports_no_runtime(models: ModuleType, tmp_path: Path) -> None:
    assert _imported_by_loading(_program(models, tmp_path, b"no program"), refused=True) == set()


def _imported_by_loading(found: Bundle, *, refused: bool = False) -> set[str]:
    """The runtimes that a fresh process imports when it loads the bundle."""
    program = (
        "import sys; from pathlib import Path; from certserve import backends, bundle, errors\n"
        "try: backends.load(bundle.read(Path(sys.argv[1])))\n"
        "except errors.BundleError: print('refused')\n"
        "print(*{'onnx', 'onnxruntime', 'torch', 'openvino'} & set(sys.modules))"
    )
    root = str(Path(backends.__file__).parents[2])
    words = [sys.executable, "-c", program, str(found.path)]
    said = set(subprocess.run(words, check=True, cwd=root, capture_output=True, text=True).stdout.split())
    assert ("refused" in said) == refused
    return said - {"refused"}


def _onnx_runtime(found: Bundle) -> Execution:
    (execution,) = (execution for execution in found.executions if execution.runtime == "onnx")
    return execution


def _need_torch() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")


def _torch(models: ModuleType, folder: Path) -> Bundle:
    """A residual network with an execution in each precision of torch."""
    _need_torch()
    from certserve.backends.architectures import save

    executions = [
        Execution("exact", "model.safetensors", "torch", "float32"),
        Execution("short", "model.safetensors", "torch", "bfloat16"),
    ]
    contents = {"model.safetensors": save(models.residual())}
    facts = {"name": "tiny", "labels": LABELS, "sigmas": [0.25], "shape": models.SHAPE}
    return bundle.write(folder / "torch", contents, executions=executions, **facts)


def _program(models: ModuleType, folder: Path, contents: bytes) -> Bundle:
    """A bundle that says it is a program."""
    (folder / "source.pt2").write_bytes(contents)
    facts = {"name": "tiny", "labels": LABELS, "sigmas": [0.25], "shape": models.SHAPE}
    return bundle.create_program(folder / "source.pt2", folder / "program", **facts)


def _created(models: ModuleType, folder: Path, model: Path) -> Bundle:
    pytest.importorskip("onnxruntime")
    found = bundle.create(model, folder / "bundle", name="tiny", labels=LABELS, sigmas=[0.25])
    assert isinstance(found.executions[0], Execution)
    return found
