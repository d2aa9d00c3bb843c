"""The rule by which an execution is chosen."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from certserve.backends import choice, processor
from certserve.backends.choice import ranked
from certserve.bundle import Bundle, Defaults, Execution
from certserve.errors import BundleError

EXECUTIONS = (
    Execution("torch-bfloat16", "w", "torch", "bfloat16"),
    Execution("torch-float32", "w", "torch", "float32"),
    Execution("onnxruntime-float32", "m", "onnx", "float32"),
    Execution("float32", "m", "openvino", "float32"),
    Execution("bfloat16", "m", "openvino", "bfloat16"),
    Execution("int8", "q", "openvino", "int8"),
    Execution("int8-7bit", "r", "openvino", "int8-7bit"),
)
BUNDLE = Bundle(
    path=Path("bundle"),
    name="x",
    version="1",
    description="",
    labels=("a", "b"),
    shape=(1, 2, 2),
    colour="grey",
    resize=None,
    sigmas=(0.25,),
    defaults=Defaults(0.25),
    executions=EXECUTIONS,
    digests={"w": "0" * 64, "m": "1" * 64, "q": "2" * 64, "r": "3" * 64},
    provenance={},
)
Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Sets what the machine has."""
    original = importlib.util.find_spec

    def have(instructions: str, *, cuda: bool = False, absent: tuple[str, ...] = ()) -> None:
        def find(name: str, package: str | None = None) -> Any:
            return (
                None
                if name in absent
                else original("numpy" if name in {"openvino", "onnxruntime", "torch"} else name, package)
            )

        monkeypatch.setattr(processor, "instruction_set", lambda: f"x86_64+{instructions}")
        monkeypatch.setattr(choice, "has_cuda", lambda: cuda)
        monkeypatch.setattr(importlib.util, "find_spec", find)

    return have


@pytest.mark.parametrize(
    ("instructions", "cuda", "expected"),
    [
        ("avx2+avx512f+avx512_vnni+avx512_bf16", False, ["int8", "int8-7bit", "bfloat16"]),
        ("avx2+avx512f+avx512_vnni", False, ["int8", "int8-7bit", "float32"]),
        ("avx2+avx_vnni", False, ["int8", "int8-7bit", "float32"]),
        ("avx2+avx512f", False, ["int8-7bit", "float32"]),
        ("avx2", False, ["int8-7bit", "float32"]),
        ("", False, ["float32", "onnxruntime-float32"]),
        ("bf16", False, ["bfloat16", "torch-bfloat16"]),
        ("asimddp+i8mm", False, ["int8", "int8-7bit", "float32"]),
        ("avx2+avx512f+avx512_vnni+avx512_bf16", True, ["torch-bfloat16"]),
        ("avx2", True, ["torch-bfloat16"]),
    ],
)
def test_the_fastest_that_the_hardware_has_comes_first(
    machine: Machine, instructions: str, cuda: bool, expected: list[str]
) -> None:
    """A quantised execution where its sums would saturate, or a slower one where they would not, fails."""
    machine(instructions, cuda=cuda)
    assert [e.name for e in ranked(BUNDLE)][: len(expected)] == expected


def test_the_order_does_not_depend_on_the_bundles(machine: Machine) -> None:
    machine("avx512_vnni+avx512_bf16")
    expected = ["int8", "int8-7bit", "bfloat16", "torch-bfloat16", "float32", "onnxruntime-float32", "torch-float32"]
    for executions in (EXECUTIONS, EXECUTIONS[::-1]):
        assert [e.name for e in ranked(replace(BUNDLE, executions=executions))] == expected


def test_what_is_not_installed_is_left_out(machine: Machine) -> None:
    machine("avx512_vnni", absent=("openvino", "torch"))
    assert [e.name for e in ranked(BUNDLE)] == ["onnxruntime-float32"]


def test_nothing_installed_is_one_sentence(machine: Machine) -> None:
    machine("avx512_vnni+avx512_bf16", absent=("openvino", "torch", "onnxruntime"))
    with pytest.raises(
        BundleError,
        match=r"needs onnxruntime or openvino or torch, which is not installed; install certserve\[server or torch\]",
    ):
        ranked(BUNDLE)


def test_an_unknown_runtime_is_kept_for_the_loader_to_refuse(machine: Machine) -> None:
    machine("avx512_vnni+avx512_bf16")
    strange = replace(BUNDLE, executions=(Execution("x", "m", "abacus", "float32"),))
    assert [e.name for e in ranked(strange)] == ["x"]
