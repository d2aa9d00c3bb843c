"""What the tests of smoothing share: questions about classes a, b, c, ..., and the enumeration of votes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from certserve.smoothing.outcomes import Bound, Case, Origin, Setting, Space

ORIGIN = Origin("model", "1", "cpu", "print", "commitment", Space("as sent", (1, 1, 2), "1 = white", "digest"))


@pytest.fixture(scope="session")
def question() -> Callable[..., Case]:
    """Makes a case; what a plan fixes is left blank, for the plan to state."""

    def make(classes: int = 3, sigma: float = 0.25, error: float = 0.0) -> Case:
        setting = Setting(sigma, 0, 0, 0.0, "", (), Bound.BINARY, "grid", "stream", error)
        return Case(setting, ORIGIN, tuple("abcdefghijklmnopqrstuvwxyz"[:classes]))

    return make


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def enumeration() -> ModuleType:
    """enumeration.py."""
    return _module("smoothing_enumeration", Path(__file__).with_name("enumeration.py"))


@pytest.fixture(scope="session")
def draws_benchmark() -> ModuleType:
    """benchmarks/draws.py."""
    return _module("benchmarks_draws", Path(__file__).parents[2] / "benchmarks" / "draws.py")
