"""What is OpenVINO's own: its refusals, its names, and that nothing leaves the machine."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from certserve.backends.onnx import OnnxBackend
from certserve.backends.openvino import OpenVinoBackend
from certserve.backends.probes import probe_pixels
from certserve.errors import BackendFailed, BundleError, ModelRefused


@pytest.fixture
def model(models: ModuleType, tmp_path: Path) -> Path:
    path: Path = models.classifier(tmp_path / "model.onnx")
    return path


@pytest.mark.parametrize("rows", [1, 5, 32])
def test_float32_agrees_with_onnx_runtime(model: Path, models: ModuleType, rows: int) -> None:
    pixels = probe_pixels(models.SHAPE, rows, 0.25)
    expected = OnnxBackend(model, "float32").logits(pixels)
    found = OpenVinoBackend(model, "float32", models.SHAPE).logits(pixels)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_its_identity_has_the_precision_and_the_threads(model: Path, models: ModuleType) -> None:
    identity = OpenVinoBackend(model, "bfloat16", models.SHAPE, threads=1).identity
    assert identity["runtime"] == "openvino"
    assert identity["precision"] == "bfloat16"
    assert identity["threads"] == "1"
    assert "-" not in identity["version"]


def test_an_unknown_precision_is_refused(model: Path, models: ModuleType) -> None:
    with pytest.raises(BundleError, match="unknown precision 'float8'; OpenVINO has float32"):
        OpenVinoBackend(model, "float8", models.SHAPE)


def test_a_file_that_is_none_is_refused(models: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(BundleError, match="not a readable ONNX model"):
        OpenVinoBackend(tmp_path / "model.onnx", "float32", models.SHAPE)


def test_coupled_rows_are_refused(models: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="training mode"):
        OpenVinoBackend(models.spoilt(tmp_path / "model.onnx", "batch_norm"), "float32", models.SHAPE)


def test_another_shape_than_the_models_is_refused(model: Path) -> None:
    with pytest.raises(ModelRefused, match=r"expected one input \(rows, 1, 8, 8\)"):
        OpenVinoBackend(model, "float32", (1, 8, 8))


def test_a_failure_is_a_failure_of_the_backend(
    model: Path, models: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = OpenVinoBackend(model, "float32", models.SHAPE)

    def fails(rows: int) -> None:
        raise RuntimeError(f"no memory for {rows}")

    monkeypatch.setattr(backend._network, "_compile", fails)
    with pytest.raises(BackendFailed, match="batch of 3 rows: no memory for 3"):
        backend.logits(probe_pixels(models.SHAPE, 3, 0.25))


def test_an_array_is_read_anew_each_time(model: Path, models: ModuleType) -> None:
    """Logits of what an array held before, of one that is gone, or of a copy that was made once, fail."""
    backend, fresh = (OpenVinoBackend(model, "float32", models.SHAPE) for _ in range(2))
    questions = probe_pixels(models.SHAPE, 24, 0.25).reshape(6, 4, *models.SHAPE)
    rows, apart = np.empty_like(questions[0]), np.empty((8, *models.SHAPE), np.float32)[::2]
    for pixels in questions:
        expected = fresh.logits(pixels.copy())
        for array in (rows, apart, np.empty_like(rows)):
            array[...] = pixels
            np.testing.assert_array_equal(backend.logits(array), expected)
            np.testing.assert_array_equal(backend.logits(array), expected)


def test_logits_whose_number_the_graph_does_not_tell(tmp_path: Path) -> None:
    """Logits that are looked for where another array's were put fail."""
    shape, rng = (1, 2, 2), np.random.default_rng(0)
    weights = rng.normal(size=(4, 3)).astype(np.float32)
    node, tensor, numpy = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.numpy_helper
    nodes = [
        node("Flatten", ["x"], ["flat"]),
        node("MatMul", ["flat", "weights"], ["product"]),
        node("Gather", ["product", "zero"], ["first"], axis=0),
        node("Equal", ["first", "first"], ["every"]),
        node("NonZero", ["every"], ["places"]),
        node("Squeeze", ["places", "axes"], ["columns"]),
        node("Gather", ["product", "columns"], ["logits"], axis=1),
    ]
    constants = {"weights": weights, "zero": np.array(0), "axes": np.array([0])}
    graph = onnx.helper.make_graph(
        nodes,
        "all of its columns",
        [tensor("x", onnx.TensorProto.FLOAT, ["rows", *shape])],
        [tensor("logits", onnx.TensorProto.FLOAT, ["rows", None])],
        [numpy.from_array(value, name) for name, value in constants.items()],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "model.onnx")
    backend = OpenVinoBackend(tmp_path / "model.onnx", "float32", shape)
    for pixels in rng.normal(size=(3, 5, *shape)).astype(np.float32):
        np.testing.assert_allclose(backend.logits(pixels), pixels.reshape(5, 4) @ weights, atol=1e-5)


def _all_right(backend: OpenVinoBackend, questions: Sequence[npt.NDArray[np.float32]]) -> bool:
    """Whether threads that ask again and again, each its own question, get what a question gets alone."""
    expected = [backend.logits(pixels) for pixels in questions]
    start = threading.Barrier(len(questions))

    def work(number: int) -> bool:
        start.wait()
        return all(np.array_equal(backend.logits(questions[number]), expected[number]) for _ in range(200))

    with ThreadPoolExecutor(len(questions)) as pool:
        return all(pool.map(work, range(len(questions))))


@pytest.mark.parametrize("rows", [1, 32])
def test_threads_of_the_caller_and_of_the_runtime_give_the_same_logits(
    model: Path, models: ModuleType, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits that depend on whose threads run a network, or on what other threads ask, to the last bit, fail."""
    questions = list(probe_pixels(models.SHAPE, 3 * rows, 0.25).reshape(3, rows, *models.SHAPE))
    small = OpenVinoBackend(model, "float32", models.SHAPE, parallel=3, threads=1)
    monkeypatch.setattr("certserve.backends.openvino._MOST_COPIES_BYTES", 3 * model.stat().st_size - 1)
    large = OpenVinoBackend(model, "float32", models.SHAPE, parallel=3, threads=1)
    assert small._network._options["NUM_STREAMS"] != large._network._options["NUM_STREAMS"]
    for pixels in questions:
        np.testing.assert_array_equal(small.logits(pixels), large.logits(pixels))
    assert _all_right(small, questions)
    assert _all_right(large, questions)


def test_a_thread_that_asks_alone_compiles_once(
    model: Path, models: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that is compiled again for a thread that could have had an idle one fails."""
    backend = OpenVinoBackend(model, "float32", models.SHAPE, parallel=2, threads=1)
    pixels = probe_pixels(models.SHAPE, 8, 0.25)
    backend.logits(pixels)
    monkeypatch.setattr(backend._network, "_compile", lambda rows: pytest.fail(f"compiled again for {rows} rows"))
    for _ in range(3):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(backend.logits, pixels).result()


_WATCHED = """
import sys
from pathlib import Path

seen = []
sys.addaudithook(lambda name, _: seen.append(name) if name.startswith(("socket.", "subprocess.", "os.exec")) else None)
from certserve.backends.checks import check_rows
from certserve.backends.openvino import OpenVinoBackend

check_rows(OpenVinoBackend(Path(sys.argv[1]), "bfloat16", (3, 8, 8)), 0.25)
import atexit
atexit._run_exitfuncs()
print(*seen)
"""


def test_loading_and_running_open_no_connection_and_write_nothing(model: Path, tmp_path: Path) -> None:
    """Telemetry that opens a socket, starts a process or leaves a file in the home directory fails."""
    home = tmp_path / "home"
    home.mkdir()
    words = [sys.executable, "-c", _WATCHED, str(model)]
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, timeout=120, env={"HOME": str(home), "PATH": ""}
    )
    assert done.stdout.split() == []
    assert list(home.rglob("*")) == []
