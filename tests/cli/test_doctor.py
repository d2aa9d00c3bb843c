"""`certserve doctor`: what is here, and what would serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from certserve import backends, bundle, zoo
from certserve.backends import machine


def test_it_names_the_hardware_the_runtimes_and_what_would_serve(cli: Any) -> None:
    report = json.loads(cli("doctor", "--json").stdout)
    assert set(report) == {"hardware", "runtimes", "models", "warnings"}
    assert report["hardware"] == machine.hardware()
    assert report["runtimes"] == machine.runtimes()
    assert set(report["models"]) == set(zoo.packaged())
    for name, executions in report["models"].items():
        loaded = backends.load(bundle.read(zoo.path_of(name)))
        assert executions[0].startswith(f"{loaded.name} (")


def test_the_table_says_the_same(cli: Any, half: Path) -> None:
    result = cli("doctor", "--model", half)
    assert result.exit_code == 0
    assert "float64 (linear, float64)" in result.stdout
    assert machine.hardware()["instructions"] in result.stdout


def test_two_owners_of_one_module_are_a_warning(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_version", lambda name: "1.0")
    monkeypatch.setattr(machine, "_ONNX_RUNTIMES", ("onnxruntime", "onnxruntime-gpu"))
    result = cli("doctor")
    assert "onnxruntime and onnxruntime-gpu own one module" in result.stdout
    monkeypatch.setattr(machine, "_ONNX_RUNTIMES", ("onnxruntime-gpu",))
    assert "Warning" not in cli("doctor").stdout


def test_what_is_not_installed_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_ONNX_RUNTIMES", ("no-such-runtime",))
    assert machine.runtimes()["onnxruntime"] == "not installed"
