"""A real server on a port of its own, in a thread with a loop of its own, and both clients under one face.

The tests get this module as the fixture `harness`, for no import path leads to it.
"""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
import numpy as np
import numpy.typing as npt

from certserve.bundle import Autoencoder, Bundle, Defaults, Detector, Magnet, create, extend, write_linear
from certserve.client import AsyncClient, Client
from certserve.endpoints.models import LoadedModel
from certserve.errors import CertserveError
from certserve.noise.keystream import Secret
from certserve.sampling.engine import Engine
from certserve.serving.config import Address, Config
from certserve.serving.server import RunningServer, serving
from certserve.v1.certserve_pb2_grpc import CertServeStub

Result = TypeVar("Result")

SECRET = Secret(bytes(range(32)))
PATIENCE = 60.0
"""Seconds after which a test gives up on what takes milliseconds."""

SHAPE = (1, 4, 4)
PIXEL, THRESHOLD = 5, 127.5
SIGMAS = (0.25, 0.5)
DEFAULTS = Defaults(0.25, n0=20, n=400, alpha=0.001, predict_n=100)


def half_space(directory: Path, name: str = "half") -> Bundle:
    """A linear bundle: "high" where one pixel of the image lies above a threshold, else "low"."""
    weights = np.zeros((2, 16))
    weights[1, PIXEL] = 255.0
    return write_linear(
        directory,
        name=name,
        weights=weights,
        bias=np.array([0.0, -THRESHOLD]),
        shape=SHAPE,
        labels=("low", "high"),
        sigmas=SIGMAS,
        defaults=DEFAULTS,
    )


def guarded(directory: Path, name: str = "guarded") -> Bundle:
    """`half_space` with a MagNet whose autoencoder is x / 2 + 1/4: white images and black ones are flagged.

    The score of the first detector is the mean of |x - 1/2| / 2; it flags what is above .19.
    """
    found = half_space(directory, name)
    detectors = (Detector("l1", "grey", "l1.npy", 0.05), Detector("jsd", "grey", "jsd.npy", 0.05, 10.0))
    magnet = Magnet((Autoencoder("grey", "grey.onnx"),), detectors, "grey", "float64")
    files = {"grey.onnx": _greying(), "l1.npy": _npy(0.2), "jsd.npy": _npy(0.5)}
    return extend(found.path, files, (), {}, magnet=magnet)


def _greying() -> bytes:
    """The ONNX file of x / 2 + 1/4."""
    import onnx
    from onnx import helper

    ends = [helper.make_tensor_value_info(name, 1, ["batch", *SHAPE]) for name in ("x", "y")]
    numbers = {"half": 0.5, "quarter": 0.25}
    arrays = [onnx.numpy_helper.from_array(np.array(value, np.float32), name) for name, value in numbers.items()]
    nodes = [helper.make_node("Mul", ["x", "half"], ["h"]), helper.make_node("Add", ["h", "quarter"], ["y"])]
    graph = helper.make_graph(nodes, "grey", ends[:1], ends[1:], arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _npy(largest: float) -> bytes:
    """The scores of 99 validation images, from 0."""
    contents = io.BytesIO()
    np.save(contents, np.linspace(0, largest, 99, dtype=np.float32))
    return contents.getvalue()


def waves(directory: Path, models: Any) -> Bundle:
    """An ONNX bundle of tests/models.py's good classifier."""
    directory.mkdir(parents=True)
    return create(
        models.classifier(directory / "classifier.onnx"),
        directory / "bundle",
        name="waves",
        labels=["a", "b", "c", "d"],
        sigmas=[0.5],
        defaults=Defaults(0.5, n0=16, n=64, alpha=0.05, predict_n=48),
    )


def image(brightness: int = 180) -> npt.NDArray[np.uint8]:
    """An image for `half_space`, at distance (brightness - 127.5) / 255 from the other class."""
    pixels = np.arange(0, 240, 15, dtype=np.uint8).reshape(SHAPE)
    pixels[0].reshape(-1)[PIXEL] = brightness
    return pixels


class LoopThread:
    """An event loop in a thread. A context manager; its end waits for the thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Result], timeout: float = PATIENCE) -> Result:
        """What the coroutine gives, run on that loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def call(self, function: Callable[[], Result]) -> Result:
        """What the function gives, called on that loop."""

        async def called() -> Result:
            return function()

        return self.run(called())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()


class Server(LoopThread):
    """`certserve.serving.server.serving` with these models. A context manager; its end is the server's own."""

    def __init__(self, loaded: Sequence[LoadedModel], secret: Secret = SECRET, config: Config | None = None) -> None:
        super().__init__()
        self._stack = AsyncExitStack()
        context = serving(config or Config(server=Address(port=0)), loaded, secret)
        try:
            self.running: RunningServer = self.run(self._stack.enter_async_context(context))
        except BaseException:
            super().__exit__()
            raise
        self.target = f"127.0.0.1:{self.running.port}"

    def client(self, **options: Any) -> Client:
        """A client of it."""
        return Client(self.target, **options)

    def engine(self, model: str = "") -> Engine:
        """The engine of one of its models."""
        return self.running.service.models.get(model).engine

    def waiting(self, model: str = "") -> int:
        """Draws that wait in the engine of one of its models."""
        return self.call(lambda: self.engine(model).waiting)

    def idle(self, model: str = "") -> bool:
        """Whether nothing is left of any request in the engine and the scheduler."""

        def empty() -> bool:
            engine: Any = self.engine(model)
            left = (engine._running, engine._asked, engine._begun, engine._scheduler._jobs)
            return not any(left) and engine.waiting == 0

        return self.call(empty)

    def stop(self) -> None:
        """Leave the server's context: calls in progress get its grace."""
        self.run(self._stack.aclose())

    def __exit__(self, *_: object) -> None:
        self.stop()
        super().__exit__()


class Face:
    """A client, synchronous or asynchronous, called in one way."""

    def __init__(self, client: Client | AsyncClient, loop: LoopThread) -> None:
        self._client = client
        self._loop = loop

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        if isinstance(self._client, Client):
            return method  # type: ignore[no-any-return]

        async def called(*args: Any, **options: Any) -> Any:
            return await method(*args, **options)

        return lambda *args, **options: self._loop.run(called(*args, **options))


def face(kind: str, target: str, loop: LoopThread, **options: Any) -> Face:
    """A "sync" or an "async" client of the target; to be closed."""
    if kind == "sync":
        return Face(Client(target, **options), loop)

    async def made() -> AsyncClient:
        return AsyncClient(target, **options)

    return Face(loop.run(made()), loop)


def stub(channel: grpc.Channel) -> Any:
    """The generated stub: for requests that our own clients would not send."""
    return CertServeStub(channel)  # type: ignore[no-untyped-call]


def raised(ask: Callable[[], object]) -> CertserveError:
    """The error of ours that the call raises."""
    try:
        answer = ask()
    except CertserveError as error:
        return error
    raise AssertionError(f"nothing was raised; the answer was {answer}")


def eventually(holds: Callable[[], bool], seconds: float = 15.0) -> bool:
    """Whether it holds within that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.01)
    return holds()
