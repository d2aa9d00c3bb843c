"""GetSurrogate, to and from protobuf: what the weights are, then the file in pieces."""

from __future__ import annotations

from collections.abc import Iterator

from certserve.endpoints.surrogates import Surrogate
from certserve.errors import InternalError
from certserve.v1 import certserve_pb2 as pb
from certserve.wire.requests import model_from_wire, model_to_wire

__all__ = ["LARGEST_SURROGATE", "Arriving", "surrogate_to_wire"]

LARGEST_SURROGATE = 1 << 30
"""Bytes of weights that are taken in."""

_PIECE = 1 << 20


def surrogate_to_wire(surrogate: Surrogate) -> Iterator[pb.GetSurrogateResponse]:
    """The replies, in order."""
    yield pb.GetSurrogateResponse(
        surrogate=pb.Surrogate(
            model=model_to_wire(surrogate.model),
            digest=surrogate.digest,
            size=len(surrogate.data),
            architecture=surrogate.architecture,
        )
    )
    for first in range(0, len(surrogate.data), _PIECE):
        yield pb.GetSurrogateResponse(data=surrogate.data[first : first + _PIECE])


class Arriving:
    """A surrogate of which one reply after the other arrives."""

    def __init__(self) -> None:
        self._said: pb.Surrogate | None = None
        self._data = bytearray()

    def take(self, message: pb.GetSurrogateResponse) -> None:
        """Take the next reply.

        Raises:
            InternalError: it is not what should come next, or more than was said or is taken in.
        """
        if self._said is None:
            if message.WhichOneof("part") != "surrogate":
                raise InternalError("The first reply does not say what the weights are.")
            if not 0 < message.surrogate.size <= LARGEST_SURROGATE:
                raise InternalError(
                    f"The weights have {message.surrogate.size} bytes; 1 to {LARGEST_SURROGATE} are taken in."
                )
            self._said = message.surrogate
            return
        if not message.data or len(self._data) + len(message.data) > self._said.size:
            raise InternalError("More comes than was said, or something else than weights.")
        self._data += message.data

    def surrogate(self) -> Surrogate:
        """All of it; its digest is for `Surrogate.store` to check.

        Raises:
            InternalError: something is missing.
        """
        if self._said is None or len(self._data) != self._said.size:
            raise InternalError("The weights ended early; fetch them again.")
        said = self._said
        return Surrogate(model_from_wire(said.model), said.architecture, said.digest, bytes(self._data))
