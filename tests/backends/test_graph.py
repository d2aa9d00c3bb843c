"""What the graph alone shows: each node that couples rows or draws random numbers is refused by its name."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from certserve.errors import BundleError, ModelRefused

onnx = pytest.importorskip("onnx")

from certserve.backends.graph import refuse_coupled_rows  # noqa: E402  after the runtime is known to be there

REFUSED: list[tuple[str, list[str], dict[str, Any], str]] = [
    ("RandomNormal", [], {"shape": [1, 4]}, "random"),
    ("RandomNormalLike", ["x"], {}, "random"),
    ("RandomUniform", [], {"shape": [1, 4]}, "random"),
    ("RandomUniformLike", ["x"], {}, "random"),
    ("Multinomial", ["x"], {"sample_size": 1}, "random"),
    ("Bernoulli", ["x"], {}, "random"),
    ("DynamicQuantizeLinear", ["x"], {}, "whole batch"),
    ("DynamicQuantizeMatMul", ["x", "w"], {}, "whole batch"),
    ("DynamicQuantizeLSTM", ["x", "w"], {}, "whole batch"),
    ("BatchNormalization", ["x", "one", "one", "one", "one"], {"training_mode": 1}, "training mode"),
    ("Dropout", ["x", "ratio", "yes"], {}, "training mode"),
    ("Softmax", ["x"], {"axis": 0}, "over the batch"),
    ("LogSoftmax", ["x"], {"axis": 0}, "over the batch"),
    ("Hardmax", ["x"], {"axis": 0}, "over the batch"),
    ("ReduceMean", ["x"], {"axes": [0]}, "over the batch"),
    ("ReduceMax", ["x"], {"axes": [2, 0]}, "over the batch"),
    ("ReduceL2", ["x"], {"axes": [0, 1, 2, 3]}, "over the batch"),
    ("ReduceSum", ["x", "batch_axis"], {}, "over the batch"),
    ("ReduceMax", ["x"], {}, "over the batch"),
    ("ReduceMax", ["x"], {"axes": [-4]}, "over the batch"),
    ("Softmax", ["x"], {"axis": -4}, "over the batch"),
    ("ArgMax", ["x"], {"axis": 0}, "over the batch"),
]

ALLOWED: list[tuple[str, list[str], dict[str, Any]]] = [
    ("BatchNormalization", ["x", "one", "one", "one", "one"], {}),
    ("BatchNormalization", ["x", "one", "one", "one", "one"], {"training_mode": 0}),
    ("Dropout", ["x"], {}),
    ("Dropout", ["x", "ratio", "no"], {}),
    ("Softmax", ["x"], {"axis": 1}),
    ("Softmax", ["x"], {}),
    ("ReduceMean", ["x"], {"axes": [2, 3]}),
    ("ReduceMean", ["x"], {"axes": [-1, -2]}),
    ("ReduceSum", ["x"], {"noop_with_empty_axes": 1}),
    ("ReduceMax", ["one"], {}),
    ("Softmax", ["x"], {"axis": -1}),
    ("ReduceSum", ["x", "pixel_axes"], {}),
    ("ReduceProd", ["x"], {"axes": [0]}),
    ("QuantizeLinear", ["x", "one"], {}),
]

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "one": np.ones(3, np.float32),
    "ratio": np.array(0.5, np.float32),
    "yes": np.array(True),
    "no": np.array(False),
    "batch_axis": np.array([0], np.int64),
    "pixel_axes": np.array([2, 3], np.int64),
}


@pytest.mark.parametrize(("op", "inputs", "attributes", "reason"), REFUSED)
def test_a_node_that_couples_rows_is_refused_by_name(
    op: str, inputs: list[str], attributes: dict[str, Any], reason: str, models: ModuleType, tmp_path: Path
) -> None:
    nodes = [models.node("Relu", ["x"], ["quiet"]), models.node(op, inputs, ["logits"], **attributes)]
    with pytest.raises(ModelRefused, match=rf"node 'the_logits' \({op}\).*{reason}"):
        refuse_coupled_rows(models.save(tmp_path / "model.onnx", nodes, ARRAYS))


@pytest.mark.parametrize(("op", "inputs", "attributes"), ALLOWED)
def test_a_node_that_keeps_rows_apart_is_accepted(
    op: str, inputs: list[str], attributes: dict[str, Any], models: ModuleType, tmp_path: Path
) -> None:
    nodes = [models.node(op, inputs, ["logits"], **attributes)]
    refuse_coupled_rows(models.save(tmp_path / "model.onnx", nodes, ARRAYS))


def test_whole_classifiers_are_accepted(models: ModuleType, tmp_path: Path) -> None:
    refuse_coupled_rows(models.classifier(tmp_path / "plain.onnx"))
    refuse_coupled_rows(models.inference_only(tmp_path / "inference.onnx"))


def test_a_nameless_node_is_named_by_its_kind(models: ModuleType, tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("RandomNormalLike", ["x"], ["logits"])]
    with pytest.raises(ModelRefused, match="node 'RandomNormalLike'"):
        refuse_coupled_rows(models.save(tmp_path / "model.onnx", nodes, {}))


def test_axes_may_come_from_a_node(models: ModuleType, tmp_path: Path) -> None:
    """Exporters write the axes as a Constant node too; a scan of stored tensors alone would miss them."""
    axes = onnx.numpy_helper.from_array(np.array([0], np.int64), "axes")
    nodes = [models.node("Constant", [], ["axes"], value=axes), models.node("ReduceMax", ["x", "axes"], ["logits"])]
    with pytest.raises(ModelRefused, match="reduces over the batch axis"):
        refuse_coupled_rows(models.save(tmp_path / "model.onnx", nodes, {}))


def test_branches_are_searched(models: ModuleType, tmp_path: Path) -> None:
    branch = onnx.helper.make_graph(
        [models.node("RandomNormalLike", ["x"], ["hidden"])],
        "branch",
        [],
        [onnx.helper.make_tensor_value_info("hidden", onnx.TensorProto.FLOAT, None)],
    )
    nodes = [models.node("If", ["yes"], ["logits"], then_branch=branch, else_branch=branch)]
    with pytest.raises(ModelRefused, match="node 'the_hidden'"):
        refuse_coupled_rows(models.save(tmp_path / "model.onnx", nodes, ARRAYS))


def test_functions_of_the_model_are_searched(models: ModuleType, tmp_path: Path) -> None:
    hidden = models.node("RandomNormalLike", ["x"], ["hidden"])
    with pytest.raises(ModelRefused, match="node 'the_hidden'"):
        refuse_coupled_rows(_with_function(models, tmp_path, hidden))


def test_functions_may_pass_their_attributes_on(models: ModuleType, tmp_path: Path) -> None:
    hidden = models.node("Softmax", ["x"], ["hidden"])
    hidden.attribute.add(name="axis", ref_attr_name="axis", type=onnx.AttributeProto.INT)
    refuse_coupled_rows(_with_function(models, tmp_path, hidden))


def _with_function(models: ModuleType, folder: Path, hidden: Any) -> Path:
    """A model whose one node is a function of its own, made of the node `hidden`."""
    standard = [onnx.helper.make_opsetid("", 17)]
    function = onnx.helper.make_function("local", "Own", ["x"], ["hidden"], [hidden], standard, ["axis"])
    nodes = [models.node("Own", ["x"], ["logits"], domain="local", axis=1)]
    return Path(models.save(folder / "model.onnx", nodes, {}, functions=[function]))


@pytest.mark.parametrize("content", [b"not a model", b"\x08"])
def test_a_file_that_is_no_model_is_a_damaged_bundle(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BundleError, match="not a readable ONNX model"):
        refuse_coupled_rows(tmp_path / "model.onnx")


def test_a_missing_file_is_a_damaged_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a readable ONNX model"):
        refuse_coupled_rows(tmp_path / "model.onnx")
