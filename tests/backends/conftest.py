"""The tiny models, as a fixture: no import path leads to tests/models.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def models() -> ModuleType:
    """tests/models.py."""
    spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parents[1] / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
