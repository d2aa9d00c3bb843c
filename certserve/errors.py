"""What can go wrong, as one tree. Outcomes (abstained, undecided) are values, not errors.

    CertserveError
    ├── InvalidRequest      the question cannot be asked; every violation is named
    ├── ModelNotFound       no such model; the models there are
    ├── Infeasible          the model as served cannot do this, even when idle
    ├── Overloaded          too much work is waiting; try again after a while
    ├── DeadlineExceeded    the caller's time ended before the answer
    ├── Unauthenticated     the bearer token is missing or wrong
    ├── Unavailable         the server cannot be reached, is starting or is stopping
    ├── InternalError       an unexpected failure; the server's log has the rest under the request id
    ├── BundleError         a bundle on disk is incomplete, damaged or not understood
    ├── ModelRefused        a model is no base classifier for smoothing (rows coupled, outputs not finite)
    ├── BackendFailed       a runtime failed while it ran the model
    │   └── OutOfMemory     it had no memory for so many rows
    └── VerificationFailed  a certificate does not follow from its own numbers

No status code of any transport is named here: `certserve.wire.errors` holds that table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "BackendFailed",
    "BundleError",
    "CertserveError",
    "DeadlineExceeded",
    "Infeasible",
    "InternalError",
    "InvalidRequest",
    "ModelNotFound",
    "ModelRefused",
    "OutOfMemory",
    "Overloaded",
    "Unauthenticated",
    "Unavailable",
    "VerificationFailed",
    "Violation",
]


class CertserveError(Exception):
    """Base of every error of this package; `str()` is one sentence that says what to do."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with a request: the field's name in the protocol, and a sentence about it."""

    field: str
    description: str


class InvalidRequest(CertserveError):
    """The question cannot be asked. `violations` names everything that is wrong with it at once."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))


class ModelNotFound(CertserveError):
    """There is no model of that name; `available` lists those there are."""

    def __init__(self, name: str, available: Sequence[str]) -> None:
        self.name = name
        self.available = tuple(available)
        there_are = ", ".join(self.available) or "none"
        super().__init__(f"There is no model named {name[:100]!r}; the models served are: {there_are}.")


class Infeasible(CertserveError):
    """The model as served cannot do this, even when nothing else is running."""


class Overloaded(CertserveError):
    """Too much work is waiting. `retry_after` is a hint in seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class DeadlineExceeded(CertserveError):
    """The caller's time ended before the answer was there; nothing is returned."""


class Unauthenticated(CertserveError):
    """The server asks for a bearer token, and the call carried none or a wrong one."""


class Unavailable(CertserveError):
    """The server cannot be reached, is starting or is stopping; the same call may succeed later."""


class InternalError(CertserveError):
    """An unexpected failure. The server's log holds the cause under `request_id`."""

    def __init__(self, message: str, *, request_id: str = "") -> None:
        self.request_id = request_id
        super().__init__(message)


class BundleError(CertserveError):
    """A bundle on disk is incomplete, damaged, or of a form this version does not understand."""


class ModelRefused(CertserveError):
    """A model that cannot be a base classifier for smoothing, with the reason."""


class BackendFailed(CertserveError):
    """A runtime failed while it ran the model on a slice of draws."""


class OutOfMemory(BackendFailed):
    """A runtime had no memory for a batch of so many rows; fewer may run."""


class VerificationFailed(CertserveError):
    """A certificate claims more than its own numbers carry. `discrepancies` lists each claim."""

    def __init__(self, discrepancies: Sequence[str]) -> None:
        self.discrepancies = tuple(discrepancies)
        super().__init__("; ".join(self.discrepancies))
