"""The tiny models, as a fixture: no import path leads to tests/models.py."""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from certserve.backends.choice import has_cuda

if not has_cuda():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton


@pytest.fixture(scope="session")
def models() -> ModuleType:
    """tests/models.py."""
    spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parents[1] / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def device() -> Any:
    """A CUDA device; where there is none, the CPU, where Triton's interpreter runs the kernels."""
    return pytest.importorskip("torch").device("cuda" if has_cuda() else "cpu")


@pytest.fixture(scope="session")
def device_noise() -> ModuleType:
    """certserve.backends.device_noise."""
    pytest.importorskip("torch")
    pytest.importorskip("triton", reason="Triton, which comes with PyTorch for CUDA, is not installed")
    return importlib.import_module("certserve.backends.device_noise")
