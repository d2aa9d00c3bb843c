"""What both clients make of a target, a token and an error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from certserve.errors import CertserveError
from certserve.wire.errors import from_status

__all__ = ["OPTIONS", "credentials_of", "error_of", "metadata_of"]

_LARGEST_MESSAGE = 64 << 20
OPTIONS = (
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
)


def credentials_of(root_certificates: str | os.PathLike[str] | None) -> grpc.ChannelCredentials | None:
    """TLS that trusts the authorities of a PEM file; None: no TLS."""
    if root_certificates is None:
        return None
    return grpc.ssl_channel_credentials(Path(root_certificates).read_bytes())


def metadata_of(token: str | None) -> tuple[tuple[str, str], ...]:
    """What every call carries."""
    return () if token is None else (("authorization", f"Bearer {token}"),)


def error_of(error: Any) -> CertserveError:
    """What the server raised, or what gRPC found on the way."""
    status = rpc_status.from_call(error)
    if status is None:
        status = Status(code=error.code().value[0], message=error.details() or "")
    return from_status(status)
