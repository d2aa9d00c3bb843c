"""A model served in a process of its own: the same answers, and none lost when that process dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from certserve import errors


@pytest.fixture
def isolated(harness: ModuleType, bundles: dict[str, Path]) -> Iterator[Any]:
    """A server of the linear model, which runs in a process of its own."""
    with harness.Server([harness.LoadedModel.read(bundles["half"], isolate=True)]) as running:
        yield running


def _child(server: Any) -> Any:
    return server.engine()._executor


def test_answers_are_those_of_a_server_that_runs_it_itself(isolated: Any, server: Any, harness: ModuleType) -> None:
    with isolated.client() as one, server.client() as other:
        for brightness in (128, 180, 250):
            assert one.certify(harness.image(brightness)) == other.certify(harness.image(brightness))
            assert one.predict(harness.image(brightness)) == other.predict(harness.image(brightness))
        assert one.get_model() == other.get_model()


def test_a_kill_loses_no_answer(isolated: Any, server: Any, harness: ModuleType) -> None:
    with isolated.client() as one, server.client() as other, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: one.certify(harness.image(), n=200_000))
        assert harness.eventually(lambda: 0 < isolated.waiting() < 190_000)
        os.kill(_child(isolated).pid, signal.SIGKILL)
        assert answer.result(harness.PATIENCE) == other.certify(harness.image(), n=200_000)


def test_a_process_that_stays_dead_is_told_by_the_health_service(
    isolated: Any, harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_start(self: object) -> None:
        raise errors.BackendFailed("no process")

    monkeypatch.setattr(type(_child(isolated)), "_start", no_start)
    monkeypatch.setattr("certserve.sampling.process._WAITS_SECONDS", (0.01, 0.01))
    os.kill(_child(isolated).pid, signal.SIGKILL)
    with grpc.insecure_channel(isolated.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def dead() -> bool:
            status = stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=30).status
            return bool(status == health_pb2.HealthCheckResponse.NOT_SERVING)

        assert harness.eventually(dead, 10.0)
    with isolated.client() as client:
        assert isinstance(harness.raised(lambda: client.certify(harness.image())), errors.Unavailable)
