"""The command line in this process, a bundle it can ask, and a server."""

from __future__ import annotations

import asyncio
import importlib.util
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from certserve import bundle as bundles
from certserve.cli import main
from certserve.endpoints.models import LoadedModel
from certserve.noise.keystream import Secret
from certserve.serving.config import Address, Config
from certserve.serving.server import serving

Cli: TypeAlias = Callable[..., Result]

_PIXELS = {"bright": 255, "dark": 0, "edge": None}


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
    """tests/serving/harness.py."""
    return _module("cli_harness", Path(__file__).parents[1] / "serving" / "harness.py")


@pytest.fixture
def cli() -> Cli:
    """`certserve` with these arguments; an exception that a user would see as a traceback fails the test."""

    def run(*arguments: object, stdin: str | bytes | None = None) -> Result:
        words = [str(argument) for argument in arguments]
        return CliRunner().invoke(main, words, input=stdin, catch_exceptions=False, prog_name="certserve")

    return run


@pytest.fixture(scope="session")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle: "bright" where the mean of 4 x 4 grey pixels is above 1/2, else "dark [/b]", at sigma 0.25 and 0.5."""
    directory = tmp_path_factory.mktemp("bundles") / "half"
    bundles.write_linear(
        directory,
        name="half",
        weights=np.stack([np.zeros(16), np.ones(16)]),
        bias=np.array([0.0, -8.0]),
        shape=(1, 4, 4),
        labels=["dark [/b]", "bright"],
        sigmas=[0.25, 0.5],
        defaults=bundles.Defaults(0.25, n0=20, n=500, predict_n=500),
    )
    return directory


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that says it is a program of torch.export for the images of `half`, but is none."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "source.pt2").write_bytes(b"no program")
    facts: dict[str, Any] = {"name": "program", "labels": ["dark", "bright"], "sigmas": [0.25], "shape": (1, 4, 4)}
    return bundles.create_program(folder / "source.pt2", folder / "program", **facts).path


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """PNG files for `half`: bright, dark, and edge, whose mean is exactly 1/2."""
    folder = tmp_path_factory.mktemp("images")
    for name, value in _PIXELS.items():
        pixels = np.full((4, 4), 127 if value is None else value, np.uint8)
        pixels[:2] += value is None
        Image.fromarray(pixels).save(folder / f"{name}[red].png")
    return {name: folder / f"{name}[red].png" for name in _PIXELS}


@pytest.fixture(scope="session")
def secret_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that keys the noise, so that runs repeat."""
    path = tmp_path_factory.mktemp("secret") / "secret.hex"
    path.write_text("5a" * 32, encoding="ascii")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="session")
def server(half: Path, secret_file: Path) -> Iterator[str]:
    """HOST:PORT of a real server of `half` with the secret of `secret_file`, in a thread."""
    port: queue.Queue[int] = queue.Queue()
    ended = threading.Event()

    async def serve() -> None:
        config = Config(server=Address(port=0, grace_seconds=1.0))
        async with serving(config, [LoadedModel.read(half)], Secret.from_file(secret_file)) as running:
            port.put(running.port)
            while not ended.is_set():
                await asyncio.sleep(0.05)

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="test-server")
    thread.start()
    yield f"127.0.0.1:{port.get(timeout=30)}"
    ended.set()
    thread.join(timeout=30)


@pytest.fixture
def only_sentence() -> Callable[[Result, int], str]:
    """What a failed command said: one line on standard error, nothing else, and the exit code that was expected."""

    def check(result: Result, code: int) -> str:
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("certserve: ")
        return lines[0].removeprefix("certserve: ")

    return check


@pytest.fixture
def one_line() -> Callable[[str], str]:
    """Console text as it reads without the breaks of its lines."""

    def join(text: str) -> str:
        return " ".join(text.split())

    return join
