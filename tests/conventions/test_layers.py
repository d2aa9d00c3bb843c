"""The contracts on who may import whom hold, and each of them notices when it is broken."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

_LINT = (
    "import sys\n"
    "from importlinter.cli import lint_imports\n"
    "sys.exit(lint_imports(config_filename='pyproject.toml', no_cache=True))\n"
)
_DOWN = "Dependencies point down"


def _contracts(root: Path) -> list[str]:
    document = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return [contract["name"] for contract in document["tool"]["importlinter"]["contracts"]]


def test_the_contracts_hold(root: Path, python: Any) -> None:
    done = python("-c", _LINT)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in _contracts(root):
        assert f"{name} KEPT" in done.stdout


@pytest.fixture(scope="module")
def copy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package's modules and of the contracts."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copy(root / "pyproject.toml", folder)
    for module in (root / "certserve").rglob("*.py"):
        target = folder / module.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(module, target)
    return folder


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        ("smoothing/bounds.py", "import certserve.noise.grid", _DOWN),
        ("noise/grid.py", "def late() -> None:\n    import certserve.serving.server", _DOWN),
        ("utils.py", "", _DOWN),
        ("smoothing/bounds.py", "import torch", "The mathematics is pure"),
        ("sampling/scheduler.py", "import time", "The scheduler is bookkeeping only"),
        ("endpoints/smoothing.py", "import grpc", "Nothing below the wire speaks gRPC"),
        ("cli/serve.py", "def late() -> None:\n    import onnxruntime", "Runtimes are imported in backends only"),
        ("training/loss.py", "import onnxruntime", "Training and attacks need torch, and serve nothing"),
        ("attacks/steps.py", "import openvino", "Training and attacks need torch, and serve nothing"),
        ("attacks/steps.py", "def late() -> None:\n    import certserve.defences.divergence", _DOWN),
        ("defences/magnet.py", "def late() -> None:\n    import torch", "Runtimes are imported in backends only"),
        ("cli/serve.py", "import certserve.v1.certserve_pb2", "Generated code is touched at the edge only"),
    ],
)
def test_a_forbidden_import_breaks_its_contract(
    copy: Path, python: Any, module: str, statement: str, contract: str
) -> None:
    path = copy / "certserve" / module
    before = path.read_text(encoding="utf-8") if path.exists() else None
    try:
        path.write_text(f"{before or ''}\n{statement}\n", encoding="utf-8")
        done = python("-c", _LINT, cwd=copy, package=copy)
    finally:
        path.unlink() if before is None else path.write_text(before, encoding="utf-8")
    assert done.returncode == 1, done.stderr
    assert contract == _DOWN or f"{contract} BROKEN" in done.stdout
    assert contract != _DOWN or f"{contract} BROKEN" in done.stdout or "utils" in done.stdout + done.stderr


def test_every_contract_is_broken_by_one_of_these(root: Path) -> None:
    marks = test_a_forbidden_import_breaks_its_contract.pytestmark
    assert {case[2] for case in marks[0].args[1]} == set(_contracts(root))
