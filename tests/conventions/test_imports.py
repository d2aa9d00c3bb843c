"""What importing costs, and that `__all__` says what a module offers."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

import certserve

_ROOT = Path(__file__).resolve().parents[2]
_RUNTIMES = {"torch", "onnxruntime", "openvino"}


def _modules() -> dict[str, Path]:
    """The package's modules by name, without the generated ones."""
    found = {}
    for path in sorted((_ROOT / "certserve").rglob("*.py")):
        parts = path.relative_to(_ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not name.startswith("certserve.v1"):
            found[name] = path
    return found


def _loaded_by(python: Any, statement: str) -> set[str]:
    done = python("-c", f"import sys\n{statement}\nprint(*sorted({{n.partition('.')[0] for n in sys.modules}}))")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import certserve", _RUNTIMES | {"grpc", "google", "numpy", "scipy", "PIL", "onnx", "click", "rich"}),
        ("import certserve.client", _RUNTIMES | {"onnx", "click", "rich"}),
        ("import certserve; certserve.Client", _RUNTIMES | {"onnx"}),
        ("import certserve; certserve.verify", _RUNTIMES | {"grpc", "google", "onnx"}),
        ("import certserve; certserve.from_document", _RUNTIMES | {"grpc", "google", "onnx"}),
        ("import certserve; certserve.open", _RUNTIMES | {"grpc", "google", "onnx"}),
        ("import certserve.serving.server", _RUNTIMES | {"onnx"}),
        ("import certserve.cli", _RUNTIMES | {"grpc", "google", "numpy", "scipy", "onnx"}),
    ],
)
def test_importing_loads_no_more_than_it_must(python: Any, statement: str, absent: set[str]) -> None:
    loaded = _loaded_by(python, statement)
    assert "certserve" in loaded
    assert loaded & absent == set()


def test_a_server_does_not_import_scipys_distributions(python: Any) -> None:
    """They take a second to import, of the few that a server takes to start."""
    done = python("-c", "import sys, certserve.serving.server; print('scipy.stats' in sys.modules)")
    assert done.stdout.split() == ["False"], done.stderr


def test_every_public_name_resolves() -> None:
    for name in certserve.__all__:
        assert getattr(certserve, name) is not None
    assert dir(certserve) == sorted(certserve.__all__)
    assert set(certserve.__all__) == {*certserve._HOME, "__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'certserve' has no attribute 'nonsense'"):
        _ = certserve.nonsense


def test_type_checkers_see_the_public_names() -> None:
    tree = ast.parse((_ROOT / "certserve" / "__init__.py").read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    names = {
        alias.asname or alias.name for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert names == set(certserve._HOME)


def _declared(tree: ast.Module) -> list[str] | None:
    """The names in a module's `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            value: list[str] = ast.literal_eval(node.value)
            return value
    return None


def _order(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, each in order: as ruff sorts `__all__`."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, name


def _adds_to_a_group(decorator: ast.expr) -> bool:
    """Whether it makes a function a sub-command, which is reached through its group."""
    return re.fullmatch(r"(?!click\.)\w+\.command\(.*\)", ast.unparse(decorator)) is not None


@functools.cache
def _imported() -> dict[str, set[str]]:
    """For each module, the names that other modules of the package import from it."""
    wanted: dict[str, set[str]] = {}
    for name, path in _modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("certserve"):
                used = {alias.name for alias in node.names}
                wanted.setdefault(node.module, set()).update(
                    n for n in used if f"{node.module}.{n}" not in _modules() and node.module != name
                )
    return wanted


@pytest.mark.parametrize("name", sorted(_modules()))
def test_all_is_complete_sorted_and_there(name: str) -> None:
    tree = ast.parse(_modules()[name].read_text(encoding="utf-8"))
    declared = _declared(tree)
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not any(_adds_to_a_group(mark) for mark in node.decorator_list)
    }
    if declared is None:
        assert not defined, f"{name} offers {sorted(defined)} but has no __all__"
        return
    assert declared == sorted(set(declared), key=_order)
    offered = {n for n in _imported().get(name, set()) if n != "certserve"}
    missing = (defined | offered) - set(declared) - {"__version__"}
    assert not missing, f"{name}.__all__ lacks {sorted(missing)}"
    module = importlib.import_module(name)
    assert [n for n in declared if not hasattr(module, n)] == []
