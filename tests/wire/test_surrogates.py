"""Weights on the wire: in pieces, all of them, and no more than was said."""

from __future__ import annotations

import pytest

from certserve.bundle import Defaults
from certserve.endpoints.requests import ExecutionInfo, ModelInfo
from certserve.endpoints.surrogates import Surrogate
from certserve.errors import InternalError
from certserve.v1 import certserve_pb2 as pb
from certserve.wire.surrogates import LARGEST_SURROGATE, Arriving, surrogate_to_wire

INFO = ModelInfo(
    name="model",
    version="1",
    description="",
    labels=("a", "b"),
    shape=(1, 2, 2),
    colour="grey",
    resize=0,
    sigmas=(0.25,),
    defaults=Defaults(0.25),
    largest_n=100,
    execution=ExecutionInfo("float32", "torch 2", "float32", "cpu", "f" * 64, (1,)),
    commitment="c" * 64,
    robustify=True,
    largest_passes=7,
    surrogate=True,
)


def arrived(*messages: pb.GetSurrogateResponse) -> Surrogate:
    """What comes of the replies, through the bytes."""
    arriving = Arriving()
    for message in messages:
        arriving.take(pb.GetSurrogateResponse.FromString(message.SerializeToString()))
    return arriving.surrogate()


def said(size: int) -> pb.GetSurrogateResponse:
    return pb.GetSurrogateResponse(surrogate=pb.Surrogate(size=size))


def data(content: bytes) -> pb.GetSurrogateResponse:
    return pb.GetSurrogateResponse(data=content)


@pytest.mark.parametrize("size", [1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_what_is_sent_arrives_in_pieces(size: int) -> None:
    surrogate = Surrogate(INFO, '{"name": "residual"}', "d" * 64, bytes(i % 251 for i in range(size)))
    messages = list(surrogate_to_wire(surrogate))
    assert arrived(*messages) == surrogate
    assert all(message.ByteSize() < (1 << 20) + 100 for message in messages)
    assert len(messages) == 1 + -(-size // (1 << 20))


@pytest.mark.parametrize(
    "messages",
    [
        (),
        (data(b"x"),),
        (said(0),),
        (said(-1),),
        (said(LARGEST_SURROGATE + 1),),
        (said(2),),
        (said(2), data(b"x")),
        (said(2), data(b"xyz")),
        (said(2), data(b"xy"), data(b"z")),
        (said(2), data(b"")),
        (said(2), said(2)),
    ],
)
def test_what_is_not_that_is_refused(messages: tuple[pb.GetSurrogateResponse, ...]) -> None:
    with pytest.raises(InternalError):
        arrived(*messages)


@pytest.mark.parametrize("more", [data(b"xyz"), said(2)])
def test_what_is_too_much_is_refused_as_it_comes(more: pb.GetSurrogateResponse) -> None:
    arriving = Arriving()
    arriving.take(said(2))
    with pytest.raises(InternalError, match="More comes"):
        arriving.take(more)
