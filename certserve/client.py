"""Clients of a certserve server: the methods of `certserve.open` over gRPC, with typed results and errors.

Encoding and decoding are `certserve.wire`'s; a method here is: encode, call, decode. No runtime is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from certserve.endpoints.requests import AnyImage, CertifyRequest, ModelInfo, PredictRequest, as_image
from certserve.errors import CertserveError, Unavailable
from certserve.images import ImageFit
from certserve.noise.arithmetic import Arithmetic
from certserve.smoothing.outcomes import Bound, CertifyOutcome, PredictOutcome
from certserve.v1 import certserve_pb2 as pb
from certserve.v1.certserve_pb2_grpc import CertServeStub
from certserve.wire.errors import from_status
from certserve.wire.outcomes import certify_outcome_from_wire, predict_outcome_from_wire
from certserve.wire.requests import certify_request_to_wire, model_from_wire, predict_request_to_wire

__all__ = ["AsyncClient", "Client"]

Message = TypeVar("Message")

_LARGEST_MESSAGE = 64 << 20
_OPTIONS = (
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
)


class Client:
    """A connection to a server; a context manager. Methods may be called from any thread.

    Args:
        target: "host:port".
        root_certificates: a PEM file of the authorities to trust; given, the connection uses TLS.
        token: the server's bearer token.

    Raises:
        OSError: the PEM file cannot be read.
    """

    def __init__(
        self,
        target: str,
        *,
        root_certificates: str | os.PathLike[str] | None = None,
        token: str | None = None,
    ) -> None:
        credentials = _credentials(root_certificates)
        self._channel = (
            grpc.secure_channel(target, credentials, options=_OPTIONS)
            if credentials
            else grpc.insecure_channel(target, options=_OPTIONS)
        )
        self._stub = CertServeStub(self._channel)  # type: ignore[no-untyped-call]
        self._metadata = _metadata(token)

    def predict(
        self,
        image: AnyImage,
        *,
        model: str = "",
        fit: ImageFit = ImageFit.EXACT,
        sigma: float | None = None,
        n: int | None = None,
        alpha: float | None = None,
        arithmetic: Arithmetic | None = None,
        nonce: bytes = b"",
        timeout: float | None = None,
    ) -> PredictOutcome:
        """The smoothed classifier's label; see `PredictRequest` for the arguments, `Prediction` for the guarantee.

        Args:
            timeout: seconds after which to give up; None: never.

        Raises:
            CertserveError: see `certserve.errors`.
        """
        request = PredictRequest(
            image=as_image(image),
            model=model,
            fit=fit,
            sigma=sigma,
            n=n,
            alpha=alpha,
            arithmetic=arithmetic,
            nonce=nonce,
        )
        return predict_outcome_from_wire(self._call(self._stub.Predict, predict_request_to_wire(request), timeout))

    def certify(
        self,
        image: AnyImage,
        *,
        model: str = "",
        fit: ImageFit = ImageFit.EXACT,
        sigma: float | None = None,
        n0: int | None = None,
        n: int | None = None,
        alpha: float | None = None,
        plan: str = "fixed",
        bound: Bound = Bound.BINARY,
        arithmetic: Arithmetic | None = None,
        nonce: bytes = b"",
        timeout: float | None = None,
    ) -> CertifyOutcome:
        """A certificate; see `CertifyRequest` for the arguments, `Certificate` for the guarantee.

        `timeout` and errors as for `predict`.
        """
        request = CertifyRequest(
            image=as_image(image),
            model=model,
            fit=fit,
            sigma=sigma,
            n0=n0,
            n=n,
            alpha=alpha,
            plan=plan,
            bound=bound,
            arithmetic=arithmetic,
            nonce=nonce,
        )
        return certify_outcome_from_wire(self._call(self._stub.Certify, certify_request_to_wire(request), timeout))

    def list_models(self, *, timeout: float | None = None) -> tuple[ModelInfo, ...]:
        """The server's models, the default one first."""
        reply = self._call(self._stub.ListModels, pb.ListModelsRequest(), timeout)
        return tuple(model_from_wire(model) for model in reply.models)

    def get_model(self, name: str = "", *, timeout: float | None = None) -> ModelInfo:
        """One model; the default one for an empty name.

        Raises:
            ModelNotFound: there is none of that name.
        """
        return model_from_wire(self._call(self._stub.GetModel, pb.GetModelRequest(model=name), timeout).model)

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: Callable[..., Any], message: object, timeout: float | None) -> Any:
        try:
            return method(message, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _error_of(error) from error
        except ValueError as error:  # how gRPC says that the channel is closed
            raise Unavailable("This client was closed; open another.") from error


class AsyncClient:
    """`Client` for asyncio: the same constructor, methods and errors, to be awaited."""

    def __init__(
        self,
        target: str,
        *,
        root_certificates: str | os.PathLike[str] | None = None,
        token: str | None = None,
    ) -> None:
        credentials = _credentials(root_certificates)
        self._channel = (
            grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
            if credentials
            else grpc.aio.insecure_channel(target, options=_OPTIONS)
        )
        self._stub = CertServeStub(self._channel)  # type: ignore[no-untyped-call]
        self._metadata = _metadata(token)

    async def predict(
        self,
        image: AnyImage,
        *,
        model: str = "",
        fit: ImageFit = ImageFit.EXACT,
        sigma: float | None = None,
        n: int | None = None,
        alpha: float | None = None,
        arithmetic: Arithmetic | None = None,
        nonce: bytes = b"",
        timeout: float | None = None,
    ) -> PredictOutcome:
        """As `Client.predict`; cancelling the awaiting task cancels the request in the server."""
        request = PredictRequest(
            image=as_image(image),
            model=model,
            fit=fit,
            sigma=sigma,
            n=n,
            alpha=alpha,
            arithmetic=arithmetic,
            nonce=nonce,
        )
        reply = await self._call(self._stub.Predict, predict_request_to_wire(request), timeout)
        return predict_outcome_from_wire(reply)

    async def certify(
        self,
        image: AnyImage,
        *,
        model: str = "",
        fit: ImageFit = ImageFit.EXACT,
        sigma: float | None = None,
        n0: int | None = None,
        n: int | None = None,
        alpha: float | None = None,
        plan: str = "fixed",
        bound: Bound = Bound.BINARY,
        arithmetic: Arithmetic | None = None,
        nonce: bytes = b"",
        timeout: float | None = None,
    ) -> CertifyOutcome:
        """As `Client.certify`; cancelling the awaiting task cancels the request in the server."""
        request = CertifyRequest(
            image=as_image(image),
            model=model,
            fit=fit,
            sigma=sigma,
            n0=n0,
            n=n,
            alpha=alpha,
            plan=plan,
            bound=bound,
            arithmetic=arithmetic,
            nonce=nonce,
        )
        reply = await self._call(self._stub.Certify, certify_request_to_wire(request), timeout)
        return certify_outcome_from_wire(reply)

    async def list_models(self, *, timeout: float | None = None) -> tuple[ModelInfo, ...]:
        """The server's models, the default one first."""
        reply = await self._call(self._stub.ListModels, pb.ListModelsRequest(), timeout)
        return tuple(model_from_wire(model) for model in reply.models)

    async def get_model(self, name: str = "", *, timeout: float | None = None) -> ModelInfo:
        """As `Client.get_model`."""
        reply = await self._call(self._stub.GetModel, pb.GetModelRequest(model=name), timeout)
        return model_from_wire(reply.model)

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(self, method: Callable[..., Any], message: object, timeout: float | None) -> Any:
        try:
            return await method(message, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _error_of(error) from error
        except grpc.aio.UsageError as error:
            raise Unavailable("This client was closed; open another.") from error


def _credentials(root_certificates: str | os.PathLike[str] | None) -> grpc.ChannelCredentials | None:
    if root_certificates is None:
        return None
    return grpc.ssl_channel_credentials(Path(root_certificates).read_bytes())


def _metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    return () if token is None else (("authorization", f"Bearer {token}"),)


def _error_of(error: Any) -> CertserveError:
    """What the server raised, or what gRPC found on the way."""
    status = rpc_status.from_call(error)
    if status is None:
        status = Status(code=error.code().value[0], message=error.details() or "")
    return from_status(status)
