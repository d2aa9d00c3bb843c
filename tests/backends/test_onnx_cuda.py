"""ONNX Runtime's CUDA provider: refused where it cannot load, and never replaced in silence."""

from __future__ import annotations

import ctypes
import logging
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from certserve import backends, bundle
from certserve.backends import choice
from certserve.backends.onnx import OnnxBackend, OnnxCudaBackend
from certserve.backends.probes import probe_pixels
from certserve.bundle import Bundle
from certserve.errors import BundleError


def _cuda() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.fixture
def found(models: ModuleType, tmp_path: Path) -> Bundle:
    file = models.classifier(tmp_path / "model.onnx")
    labels = [f"class {i}" for i in range(OnnxBackend(file, "float32").num_classes)]
    return bundle.create(file, tmp_path / "bundle", name="small", labels=labels, sigmas=[0.25])


@pytest.mark.skipif(_cuda(), reason="there is a CUDA device")
def test_where_it_cannot_load_it_is_refused(found: Bundle) -> None:
    with pytest.raises(BundleError, match="CUDAExecutionProvider does not load"):
        backends.load(found, found.execution("onnxruntime-cuda-float32"))


@pytest.mark.skipif(_cuda(), reason="there is a CUDA device")
def test_where_it_only_seems_to_be_there_another_serves_with_a_warning(
    found: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choice, "_NVIDIA", (tmp_path,))  # a driver, as it seems
    assert choice.ranked(found)[0].runtime == "onnx-cuda"
    with caplog.at_level(logging.WARNING):
        assert backends.load(found).facts.identity["device"] == "cpu"
    assert "another execution than onnxruntime-cuda-float32 serves instead" in caplog.text


def test_without_a_driver_it_is_not_offered(found: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(choice, "_NVIDIA", (tmp_path / "none",))
    assert "onnx-cuda" not in {execution.runtime for execution in choice.ranked(found)}
    only = replace(found, executions=(found.execution("onnxruntime-cuda-float32"),))
    with pytest.raises(BundleError):
        choice.ranked(only)


@pytest.mark.skipif(not _cuda(), reason="there is no CUDA device")
def test_on_a_device_it_gives_the_logits_of_the_processor(found: Bundle) -> None:
    file = found.file(found.execution("onnxruntime-float32").file)
    pixels = probe_pixels(found.shape, 8, 0.25)
    expected = OnnxBackend(file, "float32").logits(pixels)
    np.testing.assert_allclose(OnnxCudaBackend(file, "float32").logits(pixels), expected, atol=1e-3)
