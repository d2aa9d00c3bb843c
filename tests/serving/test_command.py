"""`certserve serve` as a process: it says where it listens, answers, and ends on a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from certserve import errors
from certserve.client import Client

_ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 60


def arguments(*words: str) -> list[str]:
    """The command, whether or not the console script is installed."""
    return [sys.executable, "-c", "from certserve.cli import main; main()", "serve", *words]


def environment() -> dict[str, str]:
    """This process's, with this copy of the package first and no setting of the caller's own."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    return {k: v for k, v in os.environ.items() if not k.startswith("CERTSERVE_")} | {"PYTHONPATH": path}


@contextmanager
def started(*words: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """The process and what its ready line says; it is killed where the test did not end it."""
    process = subprocess.Popen(
        arguments(*words), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(_SECONDS, process.kill)
    watchdog.start()
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.rstrip() in ("}", "") or line.rstrip().endswith("}"):
                break
        if not lines:
            raise AssertionError(f"the server said nothing and ended: {process.stderr.read()}")
        yield process, json.loads("".join(lines))
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_a_signal(
    harness: ModuleType, bundles: dict[str, Path], server: Any, tmp_path: Path, number: signal.Signals
) -> None:
    """It listens on the port that it says, answers as the same secret does elsewhere, and ends with 0."""
    secret = tmp_path / "secret"
    secret.write_text(harness.SECRET.secret_bytes.hex(), encoding="ascii")
    words = ["--address", "127.0.0.1:0", "--json", "--secret-file", str(secret)]
    for path in bundles.values():
        words += ["--model", str(path)]
    with started(*words) as (process, said):
        assert (said["host"], said["models"], said["pid"]) == ("127.0.0.1", ["half", "waves"], process.pid)
        with Client(f"127.0.0.1:{said['port']}") as client, server.client() as same:
            assert client.certify(harness.image()) == same.certify(harness.image())
        process.send_signal(number)
        assert process.wait(_SECONDS) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_a_running_call_survives_the_signal(harness: ModuleType, bundles: dict[str, Path]) -> None:
    """SIGTERM lets it finish; new connections are refused."""
    with started("--address", "127.0.0.1:0", "--json", "--model", str(bundles["half"])) as (process, said):
        target = f"127.0.0.1:{said['port']}"
        answers: list[Any] = []
        with Client(target) as client:
            client.get_model()  # so that the call below is not still connecting when the signal comes
            asking = threading.Thread(target=lambda: answers.append(client.certify(harness.image(), n=400_000)))
            asking.start()
            asking.join(0.5)
            process.send_signal(signal.SIGTERM)
            asking.join(_SECONDS)
        assert [answer.setting.n for answer in answers] == [400_000]
        assert process.wait(_SECONDS) == 0
        with Client(target) as late:
            assert isinstance(harness.raised(lambda: late.list_models(timeout=10)), errors.Unavailable)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--address", "0.0.0.0:0"], "--allow-insecure"),
        (["--model", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--address", "8700"], "HOST:PORT"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_sentence(words: list[str], said: str) -> None:
    """No traceback, nothing on the standard output, and an exit code that is not 0."""
    done = subprocess.run(
        arguments(*words), env=environment(), capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
