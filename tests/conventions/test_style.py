"""Linter, formatter, types, budgets and words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_TREES = ("certserve", "tests", "protos", "benchmarks")
_VAGUE = {"utils", "util", "common", "helpers", "helper", "misc", "base", "core", "manager", "managers"}
_WORDS = re.compile(r"defen" r"se|\bTO" r"DO\b|\bFIX" r"ME\b|\bXX" r"X\b", re.IGNORECASE)
_FILE_LINES = 400
_FUNCTION_LINES = 40


def _written(*suffixes: str) -> list[Path]:
    """Files of the package, without the generated ones."""
    found = (path for path in (_ROOT / "certserve").rglob("*") if path.suffix in suffixes)
    return sorted(path for path in found if "v1" not in path.parts and "__pycache__" not in path.parts)


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body, without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return max(body[-1].end_lineno or 0, body[0].lineno) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_ruff(python: Any, command: str) -> None:
    done = python("-m", "ruff", *command.split(), "--no-cache", *_TREES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_types(python: Any) -> None:
    done = python("-m", "mypy", "--strict", "--explicit-package-bases", *_TREES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", _written(".py"), ids=lambda path: str(path.relative_to(_ROOT)))
def test_budgets(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < _FILE_LINES
    tree = ast.parse(text)
    assert {f.name: _length(f) for f in _functions(tree) if _length(f) >= _FUNCTION_LINES} == {}


@pytest.mark.parametrize("path", _written(".py"), ids=lambda path: str(path.relative_to(_ROOT)))
def test_modules_classes_and_public_functions_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    silent = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_no_file_has_a_vague_name() -> None:
    names = {path: path.stem.strip("_").lower() for tree in _TREES for path in (_ROOT / tree).rglob("*.py")}
    assert [str(path) for path, name in names.items() if name in _VAGUE] == []
    folders = {path.parent.name for path in names}
    assert folders & _VAGUE == set()


def test_words() -> None:
    paths = [path for tree in _TREES for path in (_ROOT / tree).rglob("*") if path.suffix in (".py", ".proto")]
    paths += [_ROOT / "README.md", _ROOT / "pyproject.toml"]
    assert len(paths) > 50
    found = {
        f"{path.relative_to(_ROOT)}:{number}": line.strip()
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if _WORDS.search(line)
    }
    assert found == {}
