"""The replies of a CertifyMany stream, to and from protobuf."""

from __future__ import annotations

from certserve.errors import CertserveError, InternalError, InvalidRequest, Violation
from certserve.smoothing.outcomes import CertifyOutcome
from certserve.v1 import certserve_pb2 as pb
from certserve.wire.errors import from_status, to_status
from certserve.wire.outcomes import certify_outcome_from_wire, certify_outcome_to_wire

__all__ = ["certify_many_reply_from_wire", "certify_many_reply_to_wire", "check_tag"]

_LARGEST_TAG = 256  # bytes


def check_tag(tag: str) -> None:
    """Raises InvalidRequest: a question's tag is longer than the protocol allows."""
    if (length := len(tag.encode())) > _LARGEST_TAG:
        raise InvalidRequest([Violation("tag", f"has {length} bytes; at most {_LARGEST_TAG} are allowed")])


def certify_many_reply_to_wire(
    tag: str, result: tuple[CertifyOutcome, float] | Exception, request_id: str
) -> pb.CertifyManyResponse:
    """The reply to the question with this tag: what it came to and in how many seconds, or what went wrong."""
    if isinstance(result, Exception):
        return pb.CertifyManyResponse(tag=tag, status=to_status(result, request_id))
    return pb.CertifyManyResponse(tag=tag, response=certify_outcome_to_wire(*result))


def certify_many_reply_from_wire(message: pb.CertifyManyResponse) -> tuple[str, CertifyOutcome | CertserveError]:
    """The tag, and the outcome or the error.

    Raises:
        InternalError: the reply holds neither, or something that this version does not know.
    """
    if message.HasField("status"):
        return message.tag, from_status(message.status)
    if message.HasField("response"):
        return message.tag, certify_outcome_from_wire(message.response)
    raise InternalError("The reply holds nothing that this version knows; the server is newer: update certserve.")
