"""A linear model in this process, and what the serving suite also uses to make it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import certserve


@pytest.fixture(scope="session")
def harness() -> ModuleType:
    """tests/serving/harness.py."""
    path = Path(__file__).parents[1] / "serving" / "harness.py"
    spec = importlib.util.spec_from_file_location("endpoints_harness", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bundle(harness: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a linear bundle of two classes."""
    path = harness.half_space(tmp_path_factory.mktemp("bundles") / "half").path
    assert isinstance(path, Path)
    return path


@pytest.fixture(scope="session")
def model(harness: ModuleType, bundle: Path) -> Iterator[Any]:
    """That bundle, opened; no test may leave it in another state."""
    with certserve.open(bundle, key_source=harness.SECRET) as opened:
        yield opened


@pytest.fixture(scope="session")
def guarded(harness: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A bundle with a MagNet, opened with the same secret; it flags images that are all white."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    found = harness.guarded(tmp_path_factory.mktemp("guarded") / "guarded")
    with certserve.open(found.path, key_source=harness.SECRET) as opened:
        yield opened
