"""A network's ONNX file and bundle compute what the network computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from certserve import backends, bundle  # noqa: E402 (after the checks that these are there)
from certserve.backends.architectures import Residual, ResidualNetwork, Stage, load  # noqa: E402
from certserve.backends.choice import ranked  # noqa: E402
from certserve.backends.probes import probe_pixels  # noqa: E402
from certserve.bundle import Bundle, Defaults  # noqa: E402
from certserve.errors import BundleError  # noqa: E402
from certserve.training import bundle as training_bundle  # noqa: E402
from certserve.training.bundle import logit_difference, make_bundle  # noqa: E402
from certserve.training.export import to_onnx  # noqa: E402
from certserve.training.recipe import RecipeError  # noqa: E402

GREY = Residual((1, 9, 8), 2, (0.5,), (0.25,), 1, (Stage(4, 1),))
COLOUR = Residual((3, 18, 17), 5, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), 2, (Stage(6, 2), Stage(8, 1), Stage(8, 2)))
LARGE = Residual((3, 50, 52), 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), 4, (Stage(4, 1), Stage(6, 1)))

Network = Callable[[Residual], ResidualNetwork]


@pytest.fixture(scope="session")
def network() -> Network:
    """A network whose weights and statistics are all different, so that none can be mistaken for another."""

    def filled(description: Residual) -> ResidualNetwork:
        made, start = ResidualNetwork(description), 0
        for name, value in made.state_dict().items():
            if value.is_floating_point():
                waves = torch.sin(1.7 * torch.arange(start, start + value.numel(), dtype=torch.float64))
                scale = (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.3
                positive = 1.0 if name.endswith(("running_var", "norm.weight")) else 0.0
                value.copy_((positive + scale * waves).reshape(value.shape))
                start += value.numel()
        return made.eval()

    return filled


@pytest.fixture
def made(network: Network, tmp_path: Path) -> Bundle:
    """A bundle of the small network."""
    return make_bundle(network(GREY), tmp_path / "made", name="made", labels=("a", "b"), sigma=0.25)


@pytest.mark.parametrize("description", [GREY, COLOUR, LARGE], ids=["grey", "colour", "large"])
def test_the_onnx_file_has_the_networks_logits(network: Network, description: Residual) -> None:
    """For one row and for many; the reference is float64."""
    pixels = probe_pixels(description.shape, 16, 0.5)
    graph = to_onnx(network(description), "any")
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = network(description).double()(torch.from_numpy(pixels).double()).numpy()
    assert expected.std(0).min() > 1e-3  # the logits depend on the image
    for rows in (16, 1):
        (logits,) = session.run(["logits"], {"input": pixels[:rows]})
        assert logits.dtype == np.float32
        assert np.abs(logits - expected[:rows]).max() < 1e-5 * max(1.0, np.abs(expected).max())
    assert logit_difference(network(description), graph, 0.25) < 1e-5 * max(1.0, np.abs(expected).max())


def test_the_onnx_file_is_one_every_runtime_reads(network: Network) -> None:
    model = onnx.load_from_string(to_onnx(network(GREY), "its name"))
    assert (model.ir_version, [(opset.domain, opset.version) for opset in model.opset_import]) == (8, [("", 17)])
    assert model.graph.name == "its name"
    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == 0
    (taken,), (given,) = model.graph.input, model.graph.output
    assert [dimension.dim_value for dimension in taken.type.tensor_type.shape.dim] == [0, 1, 9, 8]
    assert [dimension.dim_value for dimension in given.type.tensor_type.shape.dim] == [0, 2]


def test_a_network_is_written_in_the_same_bytes_each_time_and_left_as_it_is(network: Network) -> None:
    one = network(COLOUR)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    assert to_onnx(one, "x") == to_onnx(one, "x") == to_onnx(network(COLOUR), "x")
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())
    assert one.state_dict().keys() == before.keys()


def test_every_execution_loads_and_gives_the_networks_labels(network: Network, made: Bundle) -> None:
    ways = {(execution.runtime, execution.precision) for execution in made.executions}
    assert ways >= {("onnx", "float32"), ("torch", "float32"), ("torch", "bfloat16")}
    pixels = probe_pixels(GREY.shape, 32, 0.25)
    with torch.inference_mode():
        expected = network(GREY)(torch.from_numpy(pixels)).numpy()
    ran = set()
    for execution in ranked(made):
        logits = backends.load(made, execution).backend.logits(pixels)
        allowed = 1e-4 if execution.precision == "float32" else 0.05
        assert np.abs(logits - expected).max() < allowed, execution
        ran.add(execution.runtime)
    assert ran >= {"onnx", "torch"}


def test_the_bundle_is_what_was_said(network: Network, tmp_path: Path) -> None:
    made = make_bundle(
        network(COLOUR),
        tmp_path / "made",
        name="five",
        labels="vwxyz",
        sigma=0.5,
        colour="bgr",
        description="Five letters.",
        defaults=Defaults(0.5, n=77),
        provenance={"from": "here"},
    )
    assert made == bundle.read(tmp_path / "made")
    assert (made.name, made.labels, made.shape, made.colour) == ("five", tuple("vwxyz"), (3, 18, 17), "bgr")
    assert (made.sigmas, made.defaults, made.description) == ((0.5,), Defaults(0.5, n=77), "Five letters.")
    assert made.provenance["from"] == "here"
    assert float(made.provenance["logit_difference_onnx_torch"]) < 1e-4
    assert load(made.file("model.safetensors")).description == COLOUR


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_a_changed_byte_is_refused_wherever_it_is(made: Bundle, name: str) -> None:
    whole = made.file(name).read_bytes()
    for position in (0, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        changed = whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
        (made.path / name).write_bytes(changed)
        with pytest.raises(BundleError, match=f"{name} does not match its digest"):
            bundle.read(made.path)


def test_a_file_that_computes_something_else_becomes_no_bundle(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(one: ResidualNetwork, name: str) -> Any:
        with torch.no_grad():
            one.head.bias[0] += 0.01
            graph = to_onnx(one, name)
            one.head.bias[0] -= 0.01
        return graph

    monkeypatch.setattr(training_bundle, "to_onnx", other)
    with pytest.raises(RecipeError, match=r"logits differ from torch's by 0\.01"):
        make_bundle(network(GREY), tmp_path / "made", name="made", labels=("a", "b"), sigma=0.25)
    assert not (tmp_path / "made").exists()
