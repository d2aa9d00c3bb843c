"""Every reply carries a request id, and an unexpected failure carries nothing else."""

from __future__ import annotations

import logging
import re
from types import ModuleType
from typing import Any

import grpc
import pytest

from certserve import errors
from certserve.endpoints.smoothing import SmoothingEndpoints
from certserve.v1 import certserve_pb2 as pb

MADE = re.compile(r"[0-9a-f]{32}")
NAME = "x-request-id"


def request_id(metadata: Any) -> str:
    """The one request id among the trailers."""
    (value,) = [value for name, value in metadata if name == NAME]
    assert isinstance(value, str)
    return value


def answered(stub: Any, sent: str | None) -> str:
    """The request id of a good answer."""
    metadata = [] if sent is None else [(NAME, sent)]
    _, call = stub.ListModels.with_call(pb.ListModelsRequest(), metadata=metadata, timeout=60)
    return request_id(call.trailing_metadata())


def failed(stub: Any, sent: str | None) -> str:
    """The request id of an error."""
    metadata = [] if sent is None else [(NAME, sent)]
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModel(pb.GetModelRequest(model="none"), metadata=metadata, timeout=60)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    return request_id(caught.value.trailing_metadata())


BOTH = pytest.mark.parametrize("ask", [answered, failed])


@BOTH
@pytest.mark.parametrize("sent", ["a", "Trace-1.2:3_4", "x" * 128])
def test_the_callers_own(harness: ModuleType, channel: grpc.Channel, ask: Any, sent: str) -> None:
    """So that both logs name the request alike."""
    assert ask(harness.stub(channel), sent) == sent


@BOTH
@pytest.mark.parametrize("sent", ["", "two words", "x" * 129, "semi;colon", "{json}", "a/b", "%0a"])
def test_an_unacceptable_one_is_replaced(harness: ModuleType, channel: grpc.Channel, ask: Any, sent: str) -> None:
    """What could forge lines of the log, or fill it."""
    assert MADE.fullmatch(ask(harness.stub(channel), sent))


@BOTH
def test_one_is_made_where_none_is_sent(harness: ModuleType, channel: grpc.Channel, ask: Any) -> None:
    """Another one for each request."""
    stub = harness.stub(channel)
    made = {ask(stub, None) for _ in range(3)}
    assert len(made) == 3
    assert all(MADE.fullmatch(one) for one in made)


class TestUnexpectedFailures:
    """One generic sentence and the id on the wire; the rest in the log."""

    @pytest.fixture(autouse=True)
    def broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Predict raises what nobody foresaw."""

        async def fail(*_: object, **__: object) -> None:
            raise ValueError("s3cret")

        monkeypatch.setattr(SmoothingEndpoints, "predict", fail)

    def test_on_the_wire(self, harness: ModuleType, channel: grpc.Channel, caplog: pytest.LogCaptureFixture) -> None:
        """Neither in the status nor in any trailer; the log has it under the id."""
        with caplog.at_level(logging.WARNING), pytest.raises(grpc.RpcError) as caught:
            harness.stub(channel).Predict(pb.PredictRequest(), metadata=[(NAME, "req-7")], timeout=60)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.INTERNAL
        assert request_id(error.trailing_metadata()) == "req-7"
        sent = " ".join([error.details(), error.debug_error_string(), *map(str, error.trailing_metadata())])
        assert "s3cret" not in sent
        assert "ValueError" not in sent
        assert "Traceback" not in sent
        assert "req-7" in caplog.text
        assert "s3cret" in caplog.text

    def test_at_the_client(self, client: Any, harness: ModuleType) -> None:
        """The exception names the id under which the log has the cause; other methods go on."""
        error = harness.raised(lambda: client.predict(harness.image()))
        assert isinstance(error, errors.InternalError)
        assert MADE.fullmatch(error.request_id)
        assert "s3cret" not in str(error)
        client.certify(harness.image())
