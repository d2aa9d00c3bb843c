"""The clients where there is no server; with one, they are tested in tests/serving."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import certserve
from certserve import AsyncClient, Client, errors

_ROOT = Path(__file__).resolve().parents[1]
PIXELS = np.zeros((1, 2, 2), np.uint8)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens, and nobody can begin to while the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that accepts connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def sync_call(target: str, method: str, *arguments: Any, **options: Any) -> Any:
    """Through `Client`."""
    with Client(target) as client:
        return getattr(client, method)(*arguments, **options)


def async_call(target: str, method: str, *arguments: Any, **options: Any) -> Any:
    """Through `AsyncClient`."""

    async def called() -> Any:
        async with AsyncClient(target) as client:
            return await getattr(client, method)(*arguments, **options)

    return asyncio.run(called())


EITHER = pytest.mark.parametrize("call", [sync_call, async_call])
QUESTIONS = pytest.mark.parametrize(
    ("method", "arguments"), [("predict", [PIXELS]), ("certify", [PIXELS]), ("list_models", []), ("get_model", ["x"])]
)


@EITHER
@QUESTIONS
def test_nobody_listens(nobody: str, call: Any, method: str, arguments: list[Any]) -> None:
    """An error of ours, at once."""
    with pytest.raises(errors.Unavailable):
        call(nobody, method, *arguments, timeout=30)


@EITHER
@QUESTIONS
def test_nobody_answers(silent: str, call: Any, method: str, arguments: list[Any]) -> None:
    """The caller's deadline ends the waiting."""
    start = time.monotonic()
    with pytest.raises((errors.DeadlineExceeded, errors.Unavailable)):
        call(silent, method, *arguments, timeout=0.3)
    assert time.monotonic() - start < 10.0


@EITHER
@pytest.mark.parametrize("image", [None, 7, [[0]], {"encoded": b""}])
def test_what_is_no_image(nobody: str, call: Any, image: Any) -> None:
    """A mistake in the calling program is a TypeError there, before anything is sent."""
    with pytest.raises(TypeError, match="expected an image"):
        call(nobody, "certify", image)


@EITHER
@pytest.mark.parametrize("dtype", ["float64", "int64", "uint16"])
def test_pixels_that_the_protocol_has_not(nobody: str, call: Any, dtype: str) -> None:
    """Refused here, with the name of the type."""
    with pytest.raises(errors.InvalidRequest, match=dtype):
        call(nobody, "predict", PIXELS.astype(dtype))


@EITHER
def test_a_file_that_is_not_there(nobody: str, call: Any) -> None:
    """As when opening any other file."""
    with pytest.raises(FileNotFoundError):
        call(nobody, "certify", Path("/nowhere/image.png"))


def test_certificates_that_are_not_there() -> None:
    """Whoever means to use TLS does not go on without it."""
    with pytest.raises(FileNotFoundError):
        Client("127.0.0.1:1", root_certificates="/nowhere/ca.pem")
    with pytest.raises(FileNotFoundError):
        asyncio.run(_made("/nowhere/ca.pem"))


async def _made(root_certificates: str) -> AsyncClient:
    return AsyncClient("127.0.0.1:1", root_certificates=root_certificates)


def test_the_packages_names() -> None:
    """Every name that the package promises is there, and `open` is the local model's."""
    for name in certserve.__all__:
        assert getattr(certserve, name) is not None
    assert certserve.open.__name__ == "open_model"
    assert certserve.Client is Client
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = certserve.nothing_of_that_name


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("certserve", ("torch", "onnxruntime", "openvino", "onnx", "grpc", "scipy", "numpy")),
        ("certserve.client", ("torch", "onnxruntime", "openvino", "onnx", "statsmodels")),
    ],
)
def test_importing_loads_no_runtime(imported: str, absent: tuple[str, ...]) -> None:
    """A client's machine has none of them."""
    program = f"import sys, {imported}; print(*[name for name in {absent!r} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=_ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.split() == []


def test_a_closed_client_says_so(nobody: str) -> None:
    """Fails if gRPC's own word for it, which is no error of this package, comes through."""
    client = Client(nobody)
    client.close()
    with pytest.raises(errors.Unavailable, match="closed"):
        client.list_models()

    async def ask() -> None:
        asynchronous = AsyncClient(nobody)
        await asynchronous.close()
        await asynchronous.list_models()

    with pytest.raises(errors.Unavailable, match="closed"):
        asyncio.run(ask())
