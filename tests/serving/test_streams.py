"""CertifyStream and CertifyMany: what comes when, what is left when the listener goes, and who may ask."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import pytest

import certserve
from certserve import errors
from certserve.endpoints.plans import LooksPlan, TargetPlan
from certserve.errors import CertserveError
from certserve.serving import server as serving
from certserve.serving.config import Address, Config, Security
from certserve.smoothing.outcomes import Abstention, Certificate
from certserve.v1 import certserve_pb2 as pb

LOOKS: dict[str, Any] = {"plan": LooksPlan(), "n": 20_000}
LONG: dict[str, Any] = {"plan": LooksPlan(), "n": 5_000_000}
AT_ONCE = 16
AHEAD = 16
"""What the connection itself may hold of either direction, and a message in each hand."""
FIXED = ("grpc.http2.bdp_probe", 0)
"""Of an end that holds no more where the machine is slow: gRPC else widens its window by the round trip's length."""


_LISTENER = """
import sys, numpy, certserve
from certserve.endpoints.plans import LooksPlan
print("asking", flush=True)
for outcome in certserve.Client(sys.argv[1]).certify_stream(numpy.load(sys.argv[2]), plan=LooksPlan(), n=5_000_000):
    print(type(outcome).__name__, flush=True)
"""


class TestStream:
    """Each better certificate, and the outcome."""

    def test_grows_and_ends_with_what_certify_says(self, server: Any, harness: ModuleType) -> None:
        """Every one of them verifies; no alpha is larger than the one that was asked for."""
        with server.client() as client:
            found = list(client.certify_stream(harness.image(), **LOOKS))
            assert found[-1] == client.certify(harness.image(), **LOOKS)
        radii = [outcome.radius for outcome in found]
        assert len(radii) > 3
        assert radii[:-1] == sorted(set(radii[:-1]))
        assert radii[-1] >= radii[-2]
        for outcome in found:
            assert certserve.verify(outcome)
            assert outcome.setting == found[-1].setting
        totals = [outcome.estimation[0].total for outcome in found]
        assert totals == sorted(totals)
        assert set(totals) <= set(found[-1].setting.looks)

    def test_a_growing_target(self, server: Any, harness: ModuleType) -> None:
        """One certificate for each radius that crosses."""
        plan = TargetPlan(0.05, (0.1, 0.15))
        with server.client() as client:
            found = list(client.certify_stream(harness.image(), n=20_000, plan=plan))
            assert found[-1] == client.certify(harness.image(), n=20_000, plan=plan)
        assert {outcome.radius for outcome in found} <= {0.05, 0.1, 0.15}
        assert found[-1].radius == 0.15
        assert all(certserve.verify(outcome) for outcome in found)

    def test_without_any_certificate(self, server: Any, harness: ModuleType) -> None:
        """The abstention is the only reply."""
        with server.client() as client:
            (outcome,) = client.certify_stream(harness.image(128), plan=LooksPlan(), n=800)
        assert isinstance(outcome, Abstention)

    def test_the_last_says_so(self, channel: grpc.Channel, harness: ModuleType) -> None:
        """Other clients need not wait for the end of the call."""
        message = pb.CertifyRequest(image=_tensor(harness), n=2_000, plan=pb.Plan(looks=pb.LooksPlan()))
        replies = list(harness.stub(channel).CertifyStream(message, timeout=harness.PATIENCE))
        assert [reply.final for reply in replies] == [False] * (len(replies) - 1) + [True]
        assert len(replies) > 1

    def test_both_clients(self, server: Any, harness: ModuleType, loop: Any) -> None:
        """The asynchronous one gets the same."""

        async def listen() -> list[Any]:
            async with harness.AsyncClient(server.target) as client:
                return [outcome async for outcome in client.certify_stream(harness.image(), **LOOKS)]

        with server.client() as client:
            assert loop.run(listen()) == list(client.certify_stream(harness.image(), **LOOKS))

    def test_whoever_stops_listening_ends_the_job(self, server: Any, harness: ModuleType) -> None:
        """Nothing is left of five million draws."""
        with server.client() as client:
            replies = client.certify_stream(harness.image(), **LONG)
            assert isinstance(next(replies), Certificate)
            assert not server.idle()
            replies.close()
            assert harness.eventually(server.idle)

    @pytest.mark.parametrize("replies", [0, 1, 3])
    def test_a_client_that_is_killed(self, server: Any, harness: ModuleType, tmp_path: Path, replies: int) -> None:
        """Before the first certificate or after some, without a word: nothing is left either."""
        np.save(tmp_path / "image.npy", harness.image(180 + replies))
        listen = (sys.executable, "-c", _LISTENER, server.target, str(tmp_path / "image.npy"))
        with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "asking\n"
            for _ in range(replies):
                assert process.stdout.readline() == "Certificate\n"
            assert harness.eventually(lambda: not server.idle())
            process.kill()
        assert harness.eventually(server.idle)

    def test_in_process_too(self, bundles: dict[str, Path], harness: ModuleType) -> None:
        """The same, without a server."""
        with certserve.open(bundles["half"], key_source=harness.SECRET) as model:
            replies: Any = model.certify_stream(harness.image(), **LONG)
            assert isinstance(next(replies), Certificate)
            engine: Any = model._service.models.get("").engine
            assert engine._running
            replies.close()
            assert harness.eventually(lambda: not engine._running)
            assert model.certify(harness.image(), n=100)

    def test_bad_input(self, server: Any, harness: ModuleType) -> None:
        """The one error that Certify would give."""
        with server.client() as client:
            error = harness.raised(lambda: list(client.certify_stream(harness.image(), plan=TargetPlan(-1.0))))
        assert [violation.field for violation in error.violations] == ["plan"]


class TestMany:
    """Many questions on one call."""

    @pytest.fixture
    def sent(self, harness: ModuleType) -> list[tuple[str, Any]]:
        """Images by tag, one of them no image."""
        good = [(f"image {k}", harness.image(160 + k)) for k in range(40)]
        return [*good[:20], ("bad", b"junk"), *good[20:]]

    def test_every_answer_has_its_tag(self, server: Any, harness: ModuleType, sent: list[Any]) -> None:
        """What Certify says of each; the bad one gets its own error, and only that one."""
        with server.client() as client:
            found = dict(client.certify_many(iter(sent), plan=TargetPlan(0.05), n=2_000))
            assert found.keys() == dict(sent).keys()
            assert isinstance(found["bad"], errors.InvalidRequest)
            assert [violation.field for violation in found["bad"].violations] == ["image"]
            for tag, image in sent:
                if tag != "bad":
                    assert found[tag] == client.certify(image, plan=TargetPlan(0.05), n=2_000)

    def test_the_asynchronous_client(self, server: Any, harness: ModuleType, loop: Any, sent: list[Any]) -> None:
        """The same answers."""

        async def ask() -> dict[str, Any]:
            async def images() -> Any:
                for pair in sent:
                    yield pair

            async with harness.AsyncClient(server.target) as client:
                return {tag: outcome async for tag, outcome in client.certify_many(images(), n=100)}

        with server.client() as client:
            expected = dict(client.certify_many(sent, n=100))
        found = loop.run(ask())
        assert isinstance(found.pop("bad"), CertserveError)
        assert isinstance(expected.pop("bad"), CertserveError)
        assert found == expected

    def test_the_quick_do_not_wait_for_the_slow(self, server: Any, harness: ModuleType) -> None:
        """Answers come as they are ready."""
        stub_messages = [
            pb.CertifyManyRequest(tag="slow", request=pb.CertifyRequest(image=_tensor(harness), n=100_000)),
            pb.CertifyManyRequest(tag="quick", request=pb.CertifyRequest(image=_tensor(harness), n=50)),
        ]
        with grpc.insecure_channel(server.target) as channel:
            replies = harness.stub(channel).CertifyMany(iter(stub_messages), timeout=harness.PATIENCE)
            assert [reply.tag for reply in replies] == ["quick", "slow"]

    @pytest.mark.parametrize("n", [2_000_000, 50], ids=["busy server", "slow listener"])
    def test_back_pressure(self, loaded: Any, harness: ModuleType, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a thousand questions, few are taken up ahead of the answers; long tags fill what the connection holds."""
        pulled: list[int] = []

        def messages() -> Iterator[Any]:
            for k in range(1_000):
                pulled.append(k)
                request = pb.CertifyRequest(image=_tensor(harness), n=n, nonce=k.to_bytes(2, "big"))
                yield pb.CertifyManyRequest(tag=str(k).ljust(1 << 20, "x"), request=request)

        monkeypatch.setattr(serving, "_OPTIONS", (*serving._OPTIONS, FIXED))
        monkeypatch.setattr("certserve.wire.many._LARGEST_TAG", 1 << 20)
        options = [FIXED, ("grpc.max_receive_message_length", -1)]
        with harness.Server(loaded[:1]) as server, grpc.insecure_channel(server.target, options=options) as channel:
            replies = harness.stub(channel).CertifyMany(messages(), timeout=harness.PATIENCE)
            last = -1
            while last != len(pulled):
                last = len(pulled)
                time.sleep(1.0)
            replies.cancel()
            assert AT_ONCE <= last <= AT_ONCE + AHEAD
            assert harness.eventually(server.idle)

    def test_whoever_leaves_ends_all_of_them(self, server: Any, harness: ModuleType) -> None:
        """Nothing is left in the engine."""
        asked = [("quick", harness.image(255)), *((str(k), harness.image(180 + k)) for k in range(8))]
        with server.client() as client:
            replies = client.certify_many(iter(asked), n=2_000_000, plan=TargetPlan(0.19))
            next(replies)
            replies.close()
            assert harness.eventually(server.idle)

    def test_a_tag_that_is_too_long(self, server: Any, harness: ModuleType) -> None:
        """Its own error, and 256 bytes are not."""
        with server.client() as client:
            found = dict(client.certify_many([("é" * 129, harness.image()), ("é" * 128, harness.image())], n=100))
        assert [violation.field for violation in found["é" * 129].violations] == ["tag"]
        assert found["é" * 128].setting.n == 100

    @pytest.mark.parametrize("unreadable", [Path("there is no such file.png"), np.zeros((1, 8, 8), np.float64)])
    def test_an_image_that_cannot_be_read_is_told_of_after_the_answers(
        self, server: Any, harness: ModuleType, loop: Any, unreadable: Any
    ) -> None:
        """The answers before it lost, or another error than its own, fails."""
        asked = [("one", harness.image()), ("two", harness.image()), ("bad", unreadable), ("never", harness.image())]

        async def ask() -> tuple[list[str], Exception]:
            async def images() -> Any:
                for pair in asked:
                    yield pair

            found: list[str] = []
            async with harness.AsyncClient(server.target) as client:
                try:
                    async for tag, _ in client.certify_many(images(), n=100):
                        found.append(tag)
                except Exception as error:
                    return found, error
            raise AssertionError("nothing was raised")

        expected = FileNotFoundError if isinstance(unreadable, Path) else errors.InvalidRequest
        with server.client() as client:
            answers = client.certify_many(asked, n=100)
            assert sorted(tag for tag, _ in itertools.islice(answers, 2)) == ["one", "two"]
            with pytest.raises(expected):
                next(answers)
        tags, error = loop.run(ask())
        assert (sorted(tags), type(error)) == (["one", "two"], expected)

    def test_no_questions(self, server: Any) -> None:
        """No answers."""
        with server.client() as client:
            assert list(client.certify_many([])) == []


class TestCallers:
    """Streams are calls like the others."""

    def test_the_token(self, harness: ModuleType, loaded: Any, tmp_path: Path) -> None:
        """Without it nothing is answered, on streams too."""
        path = tmp_path / "token"
        path.write_text("correct-horse-battery-staple\n", encoding="ascii")
        config = Config(server=Address(port=0), security=Security(token_file=str(path)))
        with harness.Server(loaded[:1], config=config) as server:
            with server.client(token="wrong") as client:
                for ask in (
                    lambda: list(client.certify_stream(harness.image(), n=100)),
                    lambda: list(client.certify_many([("a", harness.image())], n=100)),
                ):
                    assert type(harness.raised(ask)) is errors.Unauthenticated
            with server.client(token="correct-horse-battery-staple") as client:
                assert len(list(client.certify_many([("a", harness.image())], n=100))) == 1

    @pytest.mark.parametrize("kind", ["CertifyStream", "CertifyMany"])
    def test_the_request_id(self, harness: ModuleType, channel: grpc.Channel, kind: str) -> None:
        """In the trailers, as the caller named it."""
        request = pb.CertifyRequest(image=_tensor(harness), n=50)
        sent: Any = iter([pb.CertifyManyRequest(tag="a", request=request)]) if kind == "CertifyMany" else request
        replies = getattr(harness.stub(channel), kind)(
            sent, metadata=[("x-request-id", "trace-7")], timeout=harness.PATIENCE
        )
        assert list(replies)
        assert ("x-request-id", "trace-7") in [tuple(pair) for pair in replies.trailing_metadata()]


def _tensor(harness: ModuleType) -> Any:
    return pb.Image(tensor=pb.Tensor(data=harness.image().tobytes(), shape=harness.SHAPE, dtype=pb.DATA_TYPE_UINT8))
