"""Deadlines, cancellation, health, and an orderly end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from certserve import errors
from certserve.client import AsyncClient
from certserve.endpoints.requests import CertifyRequest
from certserve.endpoints.smoothing import SmoothingEndpoints
from certserve.images import RawImage
from certserve.serving.config import Address, Config, RequestLimits
from certserve.wire.requests import certify_request_to_wire

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE = "certserve.v1.CertServe"
LONG = 5_000_000
"""Draws that take many seconds."""


def health_of(channel: grpc.Channel, service: str = "") -> int:
    """What the health service says."""
    reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
    return int(reply.status)


class TestDeadline:
    """Who cannot wait is told so, and leaves nothing behind."""

    @pytest.mark.parametrize("procedure", ["predict", "certify"])
    def test_ends_promptly(self, client: Any, server: Any, harness: ModuleType, procedure: str) -> None:
        """The call ends near its deadline, or at once where the pace is known, and the engine is empty again."""
        start = time.monotonic()
        error = harness.raised(lambda: getattr(client, procedure)(harness.image(), n=LONG, timeout=0.3))
        assert isinstance(error, errors.DeadlineExceeded | errors.Infeasible)
        assert time.monotonic() - start < 5.0
        assert harness.eventually(server.idle, 5.0)

    def test_no_deadline_is_none(self, client: Any, harness: ModuleType) -> None:
        """Leaving it out waits."""
        assert client.certify(harness.image(), n=30_000).setting.n == 30_000


class TestCancellation:
    """Whoever leaves takes only his own work with him."""

    def test_leaves_no_job_and_touches_no_other(self, server: Any, harness: ModuleType, loop: Any) -> None:
        """A concurrent request's counts are those of an undisturbed run, and nothing is left of the cancelled ones."""
        companion: dict[str, Any] = {"n": 60_000, "nonce": b"companion"}
        with server.client() as one:
            undisturbed = one.certify(harness.image(), **companion)

        async def story() -> Any:
            async with AsyncClient(server.target) as client:
                leaving = [
                    asyncio.create_task(client.certify(harness.image(160 + k), n=LONG, nonce=bytes([k])))
                    for k in range(3)
                ]
                staying = asyncio.create_task(client.certify(harness.image(), **companion))
                while await asyncio.to_thread(server.waiting) < LONG:
                    await asyncio.sleep(0.005)
                for task in leaving:
                    await asyncio.sleep(0.02)
                    task.cancel()
                ends = await asyncio.gather(*leaving, return_exceptions=True)
                assert all(isinstance(end, asyncio.CancelledError) for end in ends)
                return await staying

        assert loop.run(story()) == undisturbed
        assert harness.eventually(server.idle, 5.0)

    def test_a_client_that_vanishes(self, server: Any, harness: ModuleType) -> None:
        """A closed connection is a cancelled request."""
        client = server.client()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(lambda: client.certify(harness.image(), n=LONG))
            assert harness.eventually(lambda: server.waiting() > 0)
            client.close()
            assert answer.exception(timeout=10) is not None
        assert harness.eventually(server.idle, 5.0)


class TestOverload:
    """A queue that is full says when to come again."""

    def test_admission(self, server: Any, harness: ModuleType, monkeypatch: pytest.MonkeyPatch, client: Any) -> None:
        """Busy carries a hint in seconds, impossible does not; requests that fit are still answered."""
        engine = server.engine()
        monkeypatch.setattr(engine._admission, "_largest_queue", 1000)
        error = harness.raised(lambda: client.certify(harness.image(), n=5000))
        assert isinstance(error, errors.Infeasible)
        with monkeypatch.context() as busy:
            busy.setattr(engine._scheduler, "_waiting", 600)
            error = harness.raised(lambda: client.certify(harness.image(), n=500))
        assert isinstance(error, errors.Overloaded)
        assert 0.0 < error.retry_after < 3600.0
        assert client.certify(harness.image(), n=500).setting.n == 500

    def test_calls_in_progress_are_limited(self, monkeypatch: pytest.MonkeyPatch, client: Any) -> None:
        """Each holds its image: fails if any number of them may be open at once."""
        with monkeypatch.context() as full:
            full.setattr("certserve.serving.interceptors._LARGEST_ACTIVE", 0)
            with pytest.raises(errors.Overloaded, match="in progress"):
                client.list_models()
        assert client.list_models()

    def test_what_calls_in_progress_hold_is_limited(
        self, monkeypatch: pytest.MonkeyPatch, client: Any, server: Any, harness: ModuleType
    ) -> None:
        """A large message beside others fails; one alone, whatever its size, does not, nor do calls that ended."""
        message = certify_request_to_wire(CertifyRequest(image=RawImage(harness.image()), n=100))
        monkeypatch.setattr("certserve.serving.interceptors._LARGEST_HELD", message.ByteSize() + 10)
        began, go, decode = threading.Event(), threading.Event(), SmoothingEndpoints._decode

        async def held(self: SmoothingEndpoints, question: Any) -> Any:
            if not began.is_set():
                began.set()
                await asyncio.to_thread(go.wait, 60.0)
            return await decode(self, question)

        monkeypatch.setattr(SmoothingEndpoints, "_decode", held)
        asked = [(str(k), harness.image()) for k in range(2)]
        with ThreadPoolExecutor(1) as threads, server.client() as other:
            first = threads.submit(client.certify, harness.image(), n=100)
            assert began.wait(60.0)
            with pytest.raises(errors.Overloaded, match="hold as much as this server keeps"):
                client.certify(harness.image(), n=100)
            with pytest.raises(errors.Overloaded, match="hold as much as this server keeps"):
                dict(other.certify_many(asked, n=100))
            assert client.list_models()
            go.set()
            assert first.result(harness.PATIENCE).setting.n == 100
            assert client.certify(harness.image(), n=100).setting.n == 100
            assert len(dict(other.certify_many(asked, n=100))) == 2

    def test_a_smaller_limit_of_draws(self, loaded: Any, harness: ModuleType) -> None:
        """[limits] largest_n holds for requests, clips the defaults, and is told by the model."""
        config = Config(server=Address(port=0), limits=RequestLimits(largest_n=300, image_bytes=100))
        with harness.Server(loaded, config=config) as server, server.client() as client:
            assert client.get_model().largest_n == 300
            assert client.certify(harness.image()).setting.n == 300
            error = harness.raised(lambda: client.certify(bytes(101), n=301, n0=301))
            assert sorted(v.field for v in error.violations) == ["image", "n", "n0"]


class TestHealth:
    """What load balancers and orchestrators ask."""

    @pytest.mark.parametrize("service", ["", SERVICE])
    def test_serving(self, channel: grpc.Channel, service: str) -> None:
        """Of the server and of the service."""
        assert health_of(channel, service) == SERVING

    def test_a_dead_engine(self, loaded: Any, harness: ModuleType) -> None:
        """Within seconds nobody is sent here any more, and who comes is told why."""
        with (
            harness.Server(loaded) as server,
            grpc.insecure_channel(server.target) as channel,
            server.client() as client,
        ):
            assert health_of(channel) == SERVING
            server.engine("waves")._break(RuntimeError("told to"))
            for service in ("", SERVICE):
                assert harness.eventually(lambda service=service: health_of(channel, service) == NOT_SERVING, 10.0)
            error = harness.raised(lambda: client.certify(b"", model="waves"))
            assert isinstance(error, errors.InvalidRequest)
            error = harness.raised(lambda: client.predict(harness.np.zeros((3, 8, 8), "u1"), model="waves"))
            assert isinstance(error, errors.Unavailable)

    def test_an_engine_that_dies_under_a_request(self, loaded: Any, harness: ModuleType) -> None:
        """The request fails at once instead of waiting for ever."""
        with harness.Server(loaded) as server, server.client() as client, ThreadPoolExecutor(1) as pool:
            answer = pool.submit(lambda: client.certify(harness.image(), n=LONG))
            assert harness.eventually(lambda: server.waiting() > 0)
            server.engine()._break(RuntimeError("told to"))
            assert isinstance(answer.exception(timeout=10), errors.InternalError)


class Watched:
    """The states of health that a watcher is told, in order; it leaves when it is told NOT_SERVING."""

    def __init__(self, target: str) -> None:
        self.told: list[tuple[int, float]] = []
        self._channel = grpc.insecure_channel(target)
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        stream = health_pb2_grpc.HealthStub(self._channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        for reply in stream:
            self.told.append((reply.status, time.monotonic()))
            if reply.status == NOT_SERVING:
                stream.cancel()
                return

    def close(self) -> None:
        """Wait until the watcher has left."""
        self._thread.join(60)
        self._channel.close()


class TestTheEnd:
    """The server's context ends: calls in progress get the grace to finish, new ones go elsewhere."""

    @pytest.fixture
    def ending(self, loaded: Any, harness: ModuleType) -> Iterator[Any]:
        """A server for one end; its grace is long enough for the call and short enough for a failing test."""
        with harness.Server(loaded, config=Config(server=Address(port=0, grace_seconds=20.0))) as server:
            yield server

    def test_a_running_call_finishes(self, ending: Any, server: Any, harness: ModuleType) -> None:
        """Health says NOT_SERVING first; the call gets its answer, the same as ever; then nobody listens."""
        question = {"n": 400_000, "nonce": b"last"}
        watched = Watched(ending.target)
        assert harness.eventually(lambda: [status for status, _ in watched.told] == [SERVING])
        with ending.client() as client, ThreadPoolExecutor(2) as pool:
            last: Future[Any] = pool.submit(lambda: (client.certify(harness.image(), **question), time.monotonic()))
            assert harness.eventually(lambda: ending.waiting() > 0)
            end = pool.submit(ending.stop)
            answer, answered = last.result(timeout=60)
            end.result(timeout=60)
        watched.close()
        assert [status for status, _ in watched.told] == [SERVING, NOT_SERVING]
        assert watched.told[-1][1] < answered
        with ending.client() as late:
            assert isinstance(harness.raised(lambda: late.list_models(timeout=10)), errors.Unavailable)
        with server.client() as other:
            assert other.certify(harness.image(), **question) == answer

    def test_the_grace_ends(self, loaded: Any, harness: ModuleType) -> None:
        """A call that takes longer is told to come again, and the end does not wait for it."""
        config = Config(server=Address(port=0, grace_seconds=0.2))
        with harness.Server(loaded, config=config) as server, ThreadPoolExecutor(1) as pool, server.client() as client:
            answer = pool.submit(lambda: client.certify(harness.image(), n=LONG))
            assert harness.eventually(lambda: server.waiting() > 0)
            start = time.monotonic()
            server.stop()
            assert time.monotonic() - start < 10.0
            assert isinstance(answer.exception(timeout=10), errors.Unavailable)

    def test_watchers_of_health_do_not_hold_the_end(self, ending: Any, harness: ModuleType) -> None:
        """An open Watch stream, which lasts as long as the server, costs none of the 20 s of grace."""
        watched = Watched(ending.target)
        assert harness.eventually(lambda: [status for status, _ in watched.told] == [SERVING])
        start = time.monotonic()
        ending.stop()
        assert time.monotonic() - start < 10.0
        watched.close()
        assert [status for status, _ in watched.told] == [SERVING, NOT_SERVING]
