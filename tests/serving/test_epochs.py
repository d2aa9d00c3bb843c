"""The noise's secret is rotated while the server answers, and published afterwards."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import certserve
from certserve.client import Client
from certserve.endpoints.plans import LooksPlan
from certserve.endpoints.verification import verify_by_drawing
from certserve.errors import VerificationFailed
from certserve.noise.keystream import Secret

NEXT = Secret(bytes(reversed(range(32))))
LONG = 400_000


@pytest.fixture(params=[False, True], ids=["thread", "process"])
def own(request: pytest.FixtureRequest, harness: ModuleType, bundles: dict[str, Path]) -> Iterator[Any]:
    """A server that this test may change, with its model in a thread or in a process."""
    with harness.Server([harness.LoadedModel.read(bundles["half"], isolate=request.param)]) as running:
        yield running


def begin(server: Any, secret: Secret) -> None:
    """A new epoch."""
    server.call(lambda: server.running.service.models.epochs.begin(secret))


def test_under_load(own: Any, harness: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """What runs is finished under the old commitment, what is asked next is drawn anew; repeats repeat."""
    caplog.set_level(logging.INFO, "certserve.endpoints.epochs")
    old = harness.SECRET.commitment
    with own.client() as client, ThreadPoolExecutor(2) as pool:
        before = client.certify(harness.image())
        assert client.get_model().commitment == before.origin.commitment == old
        running = pool.submit(client.certify, harness.image(), n=LONG)
        streamed = pool.submit(lambda: list(client.certify_stream(harness.image(), n=LONG, plan=LooksPlan())))
        assert harness.eventually(lambda: own.waiting() > 1.5 * LONG)  # both
        begin(own, NEXT)
        assert client.get_model().commitment == NEXT.commitment
        after = client.certify(harness.image())
        assert not running.done()
        assert not [message for message in caplog.messages if message.startswith("no request")]
        assert after.origin.commitment == NEXT.commitment
        assert after.estimation != before.estimation
        assert client.certify(harness.image()) == after
        assert running.result(harness.PATIENCE).origin.commitment == old
        assert {outcome.origin.commitment for outcome in streamed.result(harness.PATIENCE)} == {old}
        assert harness.eventually(lambda: caplog.messages[-1].startswith("no request"))
        assert old in caplog.messages[-1]
        finished = running.result()
    with certserve.open(own.running.service.models.get("").bundle.path, key_source=harness.SECRET) as same:
        assert same.certify(harness.image(), n=LONG) == finished


def test_a_published_secret_checks_what_it_drew(
    harness: ModuleType, bundles: dict[str, Path], loaded: tuple[Any, ...]
) -> None:
    """Everybody can draw the certificates of its epoch again, and no other ones."""
    with harness.Server(loaded[:1]) as server, server.client() as client:
        old = client.certify(harness.image())
        begin(server, NEXT)
        new = client.certify(harness.image())
    with certserve.open(bundles["half"], key_source=harness.SECRET) as anybody:
        assert "every vote" in verify_by_drawing(old, anybody, harness.image())
        with pytest.raises(VerificationFailed, match=f"commitment to the secret is {NEXT.commitment}"):
            verify_by_drawing(new, anybody, harness.image())


def test_a_signal(harness: ModuleType, bundles: dict[str, Path], command: ModuleType, tmp_path: Path) -> None:
    """SIGHUP to the command: the file is read again; a bad file, or an old secret, changes nothing and ends nothing."""
    path = tmp_path / "secret.hex"
    first = Secret.fresh()
    first.to_file(path)
    words = ["--address", "127.0.0.1:0", "--json", "--secret-file", str(path), "--model", str(bundles["half"])]
    with command.started(*words, "--isolate") as (process, said), Client(f"127.0.0.1:{said['port']}") as client:

        def commitment() -> str:
            return client.get_model().commitment

        assert commitment() == first.commitment
        second = Secret.fresh()
        kept = second.replace_file(path)
        assert commitment() == first.commitment
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(client.certify, harness.image(), n=LONG)
            assert not harness.eventually(running.done, 0.3)
            process.send_signal(signal.SIGHUP)
            assert harness.eventually(lambda: commitment() == second.commitment)
            assert client.certify(harness.image()).origin.commitment == second.commitment
            assert running.result(harness.PATIENCE).origin.commitment == first.commitment
        for content in (b"no secret", kept.read_bytes()):
            path.write_bytes(content)
            process.send_signal(signal.SIGHUP)
            assert client.certify(harness.image()).origin.commitment == second.commitment
        path.unlink()
        process.send_signal(signal.SIGHUP)
        assert commitment() == second.commitment
        process.send_signal(signal.SIGTERM)
        assert process.wait(harness.PATIENCE) == 0
        assert process.stderr is not None
        log = process.stderr.read()
    assert log.count("a new epoch: ") == 1
    assert log.count("no new epoch: ") == 3
    assert f"no request is drawn with the secret of commitment {first.commitment}" in log
    assert first.secret_bytes.hex() not in log
    assert "Traceback" not in log


def test_without_a_file_a_hangup_ends_it(bundles: dict[str, Path], command: ModuleType) -> None:
    """As it ends every program whose terminal is closed."""
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, here and in what is started
    try:
        with command.started("--address", "127.0.0.1:0", "--json", "--model", str(bundles["half"])) as (process, _):
            process.send_signal(signal.SIGHUP)
            assert process.wait(60) == -signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, inherited)


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_that_others_can_read_is_told(
    bundles: dict[str, Path], command: ModuleType, tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "secret.hex"
    Secret.fresh().to_file(path)
    path.chmod(mode)
    words = ["--address", "127.0.0.1:0", "--json", "--secret-file", str(path), "--model", str(bundles["half"])]
    with command.started(*words) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert ("can be read by others" in process.stderr.read()) == (mode == 0o644)
