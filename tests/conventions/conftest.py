"""The repository's files, for the tests that read them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

Python: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's top folder."""
    return _ROOT


@pytest.fixture(scope="session")
def python() -> Python:
    """Runs this interpreter in a fresh process that finds the package of this repository, or of `cwd`, first."""

    def run(*arguments: str, cwd: Path = _ROOT, package: Path = _ROOT) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
        )

    return run
