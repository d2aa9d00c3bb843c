"""The client raises what the server raised, and nothing of an unexpected failure leaves the server."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status

import certserve.client
import certserve.endpoints.local
import certserve.serving.server  # noqa: F401 - so that every subclass there is has been defined
from certserve import errors
from certserve.errors import CertserveError, InvalidRequest, Violation
from certserve.wire.errors import CODES, from_status, to_status


def subclasses(base: type[CertserveError]) -> Iterator[type[CertserveError]]:
    """All that inherit from it, at any depth."""
    for child in base.__subclasses__():
        yield child
        yield from subclasses(child)


EVERY_CLASS = sorted(subclasses(CertserveError), key=lambda cls: cls.__name__)


def example(cls: type[CertserveError]) -> CertserveError:
    """An error of that class with everything that it can carry."""
    if cls is errors.InvalidRequest:
        return errors.InvalidRequest([Violation("n", "too small"), Violation("image", "größer als erlaubt")])
    if cls is errors.ModelNotFound:
        return errors.ModelNotFound("who", ["cats", "dogs"])
    if cls is errors.Overloaded:
        return errors.Overloaded("Too much.", retry_after=2.75)
    if cls is errors.VerificationFailed:
        return errors.VerificationFailed(["the radius is too large", "the label does not lead"])
    return cls("What to do.")


def carried(error: CertserveError) -> dict[str, object]:
    """What an error says besides its class."""
    return {"message": str(error), **{name: value for name, value in vars(error).items() if name != "request_id"}}


def through_bytes(status: Status) -> CertserveError:
    """What the client raises for a status."""
    return from_status(Status.FromString(status.SerializeToString()))


def test_every_class_has_a_code() -> None:
    """A class without one would be raised in the server and reach no client."""
    assert set(CODES) == set(EVERY_CLASS)
    assert all(cls.__module__ == "certserve.errors" for cls in EVERY_CLASS)
    assert {name for name in errors.__all__ if inspect.isclass(getattr(errors, name))} == {
        *(cls.__name__ for cls in EVERY_CLASS),
        "CertserveError",
        "Violation",
    }


def test_no_class_is_sent_as_ok() -> None:
    """OK with an error inside would be read as an answer."""
    assert all(code != code_pb2.OK for code in CODES.values())


@pytest.mark.parametrize("cls", EVERY_CLASS, ids=lambda cls: cls.__name__)
def test_round_trip(cls: type[CertserveError]) -> None:
    """Class, message and everything that the class carries come back."""
    error = example(cls)
    status = to_status(error, "req-1")
    assert status.code == CODES[cls]
    assert status.message == str(error)
    back = through_bytes(status)
    assert type(back) is cls
    assert carried(back) == carried(error)


@pytest.mark.parametrize("cls", EVERY_CLASS, ids=lambda cls: cls.__name__)
def test_standard_details_for_other_languages(cls: type[CertserveError]) -> None:
    """Callers without this package read the reason and the request id from google.rpc's own messages."""
    status = to_status(example(cls), "req-1")
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(request)
    assert (info.domain, info.reason, request.request_id) == ("certserve", cls.__name__, "req-1")


def test_a_long_error_stays_small_enough_to_travel() -> None:
    """gRPC drops a status of over 8 KiB, and then the caller learns nothing."""
    wrong = [Violation(f"field {k}", "x" * 100_000) for k in range(1_000)]
    for error in (InvalidRequest(wrong), errors.VerificationFailed(["x" * 100_000] * 1_000)):
        status = to_status(error, "id")
        assert status.ByteSize() < 6_000
        assert type(from_status(status)) is type(error)


def test_violations_are_a_bad_request() -> None:
    """Field and description of each, in the order in which they were found."""
    status = to_status(example(errors.InvalidRequest), "")
    bad = error_details_pb2.BadRequest()
    assert status.details[2].Unpack(bad)
    assert [(v.field, v.description) for v in bad.field_violations] == [
        ("n", "too small"),
        ("image", "größer als erlaubt"),
    ]


@pytest.mark.parametrize("seconds", [0.0, 0.1, 1.0, 3600.5])
def test_retry_after_is_a_retry_info(seconds: float) -> None:
    """A hint that is rounded to whole seconds would make callers come too early."""
    status = to_status(errors.Overloaded("Later.", retry_after=seconds), "")
    back = through_bytes(status)
    assert isinstance(back, errors.Overloaded)
    assert back.retry_after == pytest.approx(seconds, abs=1e-8)


def test_an_internal_error_carries_the_request_id() -> None:
    """It is the caller's only way to the cause, which the log has."""
    back = through_bytes(to_status(errors.InternalError("Failed."), "req-7"))
    assert isinstance(back, errors.InternalError)
    assert back.request_id == "req-7"


class Odd(Exception):
    """An exception whose class name tells something, too."""


@pytest.mark.parametrize(
    "error", [ValueError("s3cret"), KeyError("s3cret"), Odd("s3cret"), OSError(2, "s3cret", "/s3cret"), MemoryError()]
)
def test_an_unexpected_exception_stays_in_the_log(error: Exception) -> None:
    """Neither its text nor its class is on the wire; one sentence and the request id are."""
    error.__cause__ = RuntimeError("s3cret cause")
    error.add_note("s3cret note")
    status = to_status(error, "req-9")
    sent = status.SerializeToString()
    for hidden in (b"s3cret", type(error).__name__.encode()):
        assert hidden not in sent
    back = through_bytes(status)
    assert isinstance(back, errors.InternalError)
    assert back.request_id == "req-9"
    assert "log" in str(back)


def test_the_cause_of_an_error_of_ours_stays_in_the_log() -> None:
    """What a runtime said may name paths; the sentence that we wrote may not."""
    error = errors.BackendFailed("The model failed.")
    error.__cause__ = RuntimeError("s3cret")
    assert b"s3cret" not in to_status(error, "").SerializeToString()


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (code_pb2.UNAVAILABLE, errors.Unavailable),
        (code_pb2.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (code_pb2.UNAUTHENTICATED, errors.Unauthenticated),
        (code_pb2.PERMISSION_DENIED, errors.Unauthenticated),
        (code_pb2.RESOURCE_EXHAUSTED, errors.Overloaded),
        (code_pb2.UNIMPLEMENTED, errors.InternalError),
        (code_pb2.UNKNOWN, errors.InternalError),
        (code_pb2.INTERNAL, errors.InternalError),
        (code_pb2.CANCELLED, errors.Unavailable),
        (16_000, errors.InternalError),
    ],
)
def test_a_bare_status(code: int, cls: type[CertserveError]) -> None:
    """What gRPC itself says is an error of this package too, with its sentence."""
    error = from_status(Status(code=code, message="words"))
    assert type(error) is cls
    assert "words" in str(error)


def test_a_message_that_grpc_itself_finds_too_large_is_a_wrong_request() -> None:
    """The caller can do something about it; a proxy's rate limit, of the same code, is another matter."""
    words = "CLIENT: Sent message larger than max (99 vs. 10)"
    error = from_status(Status(code=code_pb2.RESOURCE_EXHAUSTED, message=words))
    assert isinstance(error, errors.InvalidRequest)


def test_a_reason_of_another_domain_is_not_ours() -> None:
    """A proxy's ErrorInfo may use our words for its own matters."""
    status = Status(code=code_pb2.UNAVAILABLE, message="proxy")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="ModelNotFound", domain="proxy.example"))
    assert type(from_status(status)) is errors.Unavailable


@pytest.mark.parametrize("reason", [*[cls.__name__ for cls in EVERY_CLASS], "CertserveError", "OfALaterVersion"])
def test_a_status_without_its_details_is_still_an_error_of_ours(reason: str) -> None:
    """A proxy may drop details, and a later server may know more classes."""
    status = Status(code=code_pb2.FAILED_PRECONDITION, message="words")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="certserve"))
    assert isinstance(from_status(status), CertserveError)


def test_details_that_are_no_message_are_passed_over() -> None:
    """Details of a type this version does not know are not an error of their own."""
    status = Status(code=code_pb2.UNAVAILABLE, message="words")
    status.details.add(type_url="type.googleapis.com/of.a.later.Version", value=b"\xff\xff")
    assert type(from_status(status)) is errors.Unavailable
