"""The generated modules are what the protocol file gives, and the protocol file explains itself."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from certserve.v1 import certserve_pb2 as pb

_DECLARATION = re.compile(
    r"(?:message|rpc) \w+|(?:optional |repeated )?[\w.]+ \w+ = \d+|[A-Z][A-Z0-9_]* = \d+|enum \w+"
)


@pytest.fixture(scope="module")
def generator(root: Path) -> ModuleType:
    """protos/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate", root / "protos" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generating_again_changes_nothing(
    root: Path, generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "10")
    out = tmp_path / "out"
    out.mkdir()
    try:
        generator.generate(out, tmp_path / "generator")
    except subprocess.CalledProcessError as error:
        if "grpc_tools.protoc" in error.cmd:
            raise
        pytest.skip(f"the pinned generator {generator.GENERATOR} cannot be installed here (no package index?)")
    made = {path.name: path.read_bytes() for path in (out / "certserve" / "v1").iterdir()}
    kept = {path.name: path.read_bytes() for path in (root / "certserve" / "v1").iterdir() if path.is_file()}
    assert kept.pop("__init__.py")
    assert sorted(made) == ["certserve_pb2.py", "certserve_pb2.pyi", "certserve_pb2_grpc.py"]
    assert made == kept


def test_the_lower_bounds_load_the_generated_code(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    lowest = {
        name: min(Version(s.version) for s in required[name] if s.operator == ">=") for name in ("protobuf", "grpcio")
    }
    v1 = root / "certserve" / "v1"
    messages = re.search(r"# Protobuf Python Version: (\S+)", (v1 / "certserve_pb2.py").read_text(encoding="utf-8"))
    calls = re.search(r"GRPC_GENERATED_VERSION = '(.+)'", (v1 / "certserve_pb2_grpc.py").read_text(encoding="utf-8"))
    assert messages is not None
    assert calls is not None
    assert Version(messages[1]) <= lowest["protobuf"]
    assert Version(calls[1]) <= lowest["grpcio"]
    # Generated code of one major version is promised to load under the next, and no further.
    assert f"{Version(messages[1]).major + 2}" in {s.version for s in required["protobuf"] if s.operator == "<"}


def test_every_declaration_has_a_comment(root: Path) -> None:
    lines = (root / "protos" / "certserve" / "v1" / "certserve.proto").read_text(encoding="utf-8").splitlines()
    declared = [number for number, line in enumerate(lines) if _DECLARATION.match(line.strip())]
    assert len(declared) > 100
    bare = [lines[n].strip() for n in declared if not lines[n - 1].strip().startswith("//") and "//" not in lines[n]]
    assert bare == []


def test_enums_begin_with_unspecified_and_carry_their_name() -> None:
    for enum in pb.DESCRIPTOR.enum_types_by_name.values():
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper()
        assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"
        assert all(value.name.startswith(f"{prefix}_") for value in enum.values)


def test_numbers_a_caller_may_leave_out_are_optional() -> None:
    for request in ("PredictRequest", "CertifyRequest", "RobustifyRequest"):
        fields = pb.DESCRIPTOR.message_types_by_name[request].fields
        numbers = [field for field in fields if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_INT64)]
        assert numbers
        assert [field.name for field in numbers if not field.has_presence] == []


def test_outcomes_are_one_of() -> None:
    for response in ("PredictResponse", "CertifyResponse"):
        (outcome,) = pb.DESCRIPTOR.message_types_by_name[response].oneofs
        assert outcome.name == "outcome"
        assert {"abstention", "undecided"} < {field.name for field in outcome.fields}
