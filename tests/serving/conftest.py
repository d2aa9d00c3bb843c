"""One server for the suite, serving a linear model (the default) and an ONNX one, and what the tests share."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def models() -> ModuleType:
    """tests/models.py."""
    return _module("tiny_models", Path(__file__).parents[1] / "models.py")


@pytest.fixture(scope="session")
def harness() -> ModuleType:
    """harness.py."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("grpc_health.v1")
    return _module("serving_harness", Path(__file__).with_name("harness.py"))


@pytest.fixture(scope="session")
def command() -> ModuleType:
    """test_command.py, which starts the server as a process."""
    return _module("serving_command", Path(__file__).with_name("test_command.py"))


@pytest.fixture(scope="session")
def bundles(harness: ModuleType, models: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundles' directories by name."""
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "half": harness.half_space(folder / "half").path,
        "waves": harness.waves(folder / "waves", models).path,
    }


@pytest.fixture(scope="session")
def loaded(harness: ModuleType, bundles: dict[str, Path]) -> tuple[Any, ...]:
    """The models, the linear one first."""
    return tuple(harness.LoadedModel.read(path) for path in bundles.values())


@pytest.fixture(scope="session")
def server(harness: ModuleType, loaded: tuple[Any, ...]) -> Iterator[Any]:
    """The server that the whole suite asks; no test may leave it in another state."""
    with harness.Server(loaded) as running:
        yield running


@pytest.fixture(scope="session")
def loop(harness: ModuleType) -> Iterator[Any]:
    """A loop for asynchronous clients."""
    with harness.LoopThread() as thread:
        yield thread


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, harness: ModuleType, server: Any, loop: Any) -> Iterator[Any]:
    """Either client of the server."""
    face = harness.face(request.param, server.target, loop)
    yield face
    face.close()


@pytest.fixture
def channel(server: Any) -> Iterator[grpc.Channel]:
    """A channel to the server, for what our clients would not send."""
    with grpc.insecure_channel(server.target, options=[("grpc.max_send_message_length", -1)]) as open_channel:
        yield open_channel
