"""Errors, to and from google.rpc.Status: the one table of status codes.

A status carries the class as an ErrorInfo (domain "certserve"), so that the client raises what the server raised;
violations as a BadRequest, a retry hint as a RetryInfo, and the request id as a RequestInfo.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status

from certserve import errors
from certserve.errors import CertserveError, InvalidRequest, Violation

__all__ = ["CODES", "from_status", "to_status"]

CODES: Mapping[type[CertserveError], int] = {
    errors.InvalidRequest: code_pb2.INVALID_ARGUMENT,
    errors.ModelNotFound: code_pb2.NOT_FOUND,
    errors.Infeasible: code_pb2.FAILED_PRECONDITION,
    errors.Overloaded: code_pb2.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: code_pb2.DEADLINE_EXCEEDED,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.InternalError: code_pb2.INTERNAL,
    errors.BundleError: code_pb2.FAILED_PRECONDITION,
    errors.ModelRefused: code_pb2.FAILED_PRECONDITION,
    errors.BackendFailed: code_pb2.INTERNAL,
    errors.OutOfMemory: code_pb2.INTERNAL,
    errors.VerificationFailed: code_pb2.DATA_LOSS,
}

_DOMAIN = "certserve"
_GENERIC = "The server failed on this request; its log holds the cause under the request id."
_LONGEST_NAME = 200
_LONGEST_MESSAGE, _LONGEST_DETAIL, _MOST_DETAILS = 1_000, 300, 12  # gRPC carries a status of 8 KiB, no larger one
_BARE: Mapping[int, type[CertserveError]] = {
    code_pb2.UNAVAILABLE: errors.Unavailable,
    code_pb2.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    code_pb2.UNAUTHENTICATED: errors.Unauthenticated,
    code_pb2.PERMISSION_DENIED: errors.Unauthenticated,
    code_pb2.CANCELLED: errors.Unavailable,
}


def to_status(error: Exception, request_id: str) -> Status:
    """The status of an error. One that is not ours becomes a generic sentence: its text stays in the log."""
    if not isinstance(error, CertserveError):
        error = errors.InternalError(_GENERIC)
    info = error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=_DOMAIN)
    details: list[Any] = [info, error_details_pb2.RequestInfo(request_id=request_id)]
    if isinstance(error, errors.InvalidRequest):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(
                field=v.field, description=_short(v.description, _LONGEST_DETAIL)
            )
            for v in error.violations[:_MOST_DETAILS]
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    elif isinstance(error, errors.Overloaded):
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    elif isinstance(error, errors.ModelNotFound):
        info.metadata["name"] = error.name[:_LONGEST_NAME]
        details += [error_details_pb2.ResourceInfo(resource_type="model", resource_name=n) for n in error.available]
    elif isinstance(error, errors.VerificationFailed):
        told = [_short(discrepancy, _LONGEST_DETAIL) for discrepancy in error.discrepancies[:_MOST_DETAILS]]
        details.append(error_details_pb2.DebugInfo(stack_entries=told))
    status = Status(code=CODES[type(error)], message=_short(str(error), _LONGEST_MESSAGE))
    for detail in details:
        status.details.add().Pack(detail)
    return status


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def from_status(status: Status) -> CertserveError:
    """The error of a status: of the class that the server raised, where a certserve server sent it."""
    info = _detail(status, error_details_pb2.ErrorInfo)
    request_id = getattr(_detail(status, error_details_pb2.RequestInfo), "request_id", "")
    name = info.reason if info is not None and info.domain == _DOMAIN else ""
    if name == "InvalidRequest":
        found = _detail(status, error_details_pb2.BadRequest)
        return InvalidRequest([Violation(v.field, v.description) for v in getattr(found, "field_violations", ())])
    if name == "ModelNotFound":
        resources = _details(status, error_details_pb2.ResourceInfo)
        return errors.ModelNotFound(info.metadata["name"], [r.resource_name for r in resources])
    if name == "Overloaded":
        retry = _detail(status, error_details_pb2.RetryInfo)
        seconds = retry.retry_delay.ToNanoseconds() / 1e9 if retry is not None else 1.0
        return errors.Overloaded(status.message, retry_after=seconds)
    if name == "VerificationFailed":
        found = _detail(status, error_details_pb2.DebugInfo)
        return errors.VerificationFailed(getattr(found, "stack_entries", (status.message,)))
    if name == "InternalError":
        return errors.InternalError(status.message, request_id=request_id)
    by_name = {cls.__name__: cls for cls in CODES}
    if name in by_name:
        return by_name[name](status.message)
    return _bare(status, request_id)


def _bare(status: Status, request_id: str) -> CertserveError:
    """A status that no certserve endpoint made: gRPC itself, or something between client and server."""
    if status.code in _BARE:
        return _BARE[status.code](status.message)
    if status.code == code_pb2.RESOURCE_EXHAUSTED and "larger than max" not in status.message:
        return errors.Overloaded(status.message, retry_after=1.0)
    if status.code == code_pb2.RESOURCE_EXHAUSTED:
        return InvalidRequest([Violation("image", f"the message is too large: {status.message}")])
    return errors.InternalError(status.message, request_id=request_id)


def _detail(status: Status, kind: Any) -> Any:
    return next(iter(_details(status, kind)), None)


def _details(status: Status, kind: Any) -> list[Any]:
    found = []
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            detail = kind()
            packed.Unpack(detail)
            found.append(detail)
    return found
