"""The client for asyncio."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any, Self, Unpack

import grpc

from certserve.client.channels import OPTIONS, credentials_of, error_of, metadata_of
from certserve.endpoints.answers import Reformation, Robustified
from certserve.endpoints.requests import (
    AnyImage,
    AnyImages,
    CertifyArguments,
    CertifyRequest,
    DetectRequest,
    ModelInfo,
    PredictArguments,
    PredictRequest,
    Progress,
    ReformRequest,
    RobustifyArguments,
    RobustifyRequest,
    as_image,
    as_images,
)
from certserve.endpoints.surrogates import Surrogate
from certserve.errors import CertserveError, InternalError, Unavailable
from certserve.images import ImageFit
from certserve.smoothing.outcomes import CertifyOutcome, PredictOutcome
from certserve.smoothing.verdicts import Verdict
from certserve.v1 import certserve_pb2 as pb
from certserve.v1.certserve_pb2_grpc import CertServeStub
from certserve.wire.magnet import (
    detect_request_to_wire,
    reform_request_to_wire,
    reformations_from_wire,
    verdicts_from_wire,
)
from certserve.wire.many import certify_many_reply_from_wire
from certserve.wire.outcomes import certify_outcome_from_wire, predict_outcome_from_wire
from certserve.wire.requests import certify_request_to_wire, model_from_wire, predict_request_to_wire
from certserve.wire.robustify import robustified_from_wire, robustify_request_to_wire
from certserve.wire.surrogates import Arriving

__all__ = ["AsyncClient"]


class AsyncClient:
    """`Client` for asyncio: the same constructor, methods and errors, to be awaited."""

    def __init__(
        self,
        target: str,
        *,
        root_certificates: str | os.PathLike[str] | None = None,
        token: str | None = None,
    ) -> None:
        credentials = credentials_of(root_certificates)
        self._channel = (
            grpc.aio.secure_channel(target, credentials, options=OPTIONS)
            if credentials
            else grpc.aio.insecure_channel(target, options=OPTIONS)
        )
        self._stub = CertServeStub(self._channel)  # type: ignore[no-untyped-call]
        self._metadata = metadata_of(token)

    async def predict(
        self, image: AnyImage, *, timeout: float | None = None, **question: Unpack[PredictArguments]
    ) -> PredictOutcome:
        """As `Client.predict`; cancelling the awaiting task cancels the request in the server."""
        message = predict_request_to_wire(PredictRequest(image=as_image(image), **question))
        return predict_outcome_from_wire(await self._call(self._stub.Predict, message, timeout))

    async def certify(
        self, image: AnyImage, *, timeout: float | None = None, **question: Unpack[CertifyArguments]
    ) -> CertifyOutcome:
        """As `Client.certify`; cancelling the awaiting task cancels the request in the server."""
        message = certify_request_to_wire(CertifyRequest(image=as_image(image), **question))
        return certify_outcome_from_wire(await self._call(self._stub.Certify, message, timeout))

    async def certify_stream(
        self, image: AnyImage, *, timeout: float | None = None, **question: Unpack[CertifyArguments]
    ) -> AsyncIterator[CertifyOutcome]:
        """As `Client.certify_stream`; ending the iteration cancels the request in the server."""
        message = certify_request_to_wire(CertifyRequest(image=as_image(image), **question))
        async for reply in self._stream(self._stub.CertifyStream, message, timeout):
            yield certify_outcome_from_wire(reply)

    async def certify_many(
        self,
        images: AsyncIterable[tuple[str, AnyImage]],
        *,
        timeout: float | None = None,
        **question: Unpack[CertifyArguments],
    ) -> AsyncIterator[tuple[str, CertifyOutcome | CertserveError]]:
        """As `Client.certify_many`."""
        failures: list[Exception] = []

        async def messages() -> AsyncIterator[pb.CertifyManyRequest]:
            try:
                async for tag, image in images:
                    request = certify_request_to_wire(CertifyRequest(image=as_image(image), **question))
                    yield pb.CertifyManyRequest(tag=tag, request=request)
            except Exception as error:  # as there
                failures.append(error)

        async for reply in self._stream(self._stub.CertifyMany, messages(), timeout):
            yield certify_many_reply_from_wire(reply)
        for failure in failures:
            raise failure

    async def detect(
        self, images: AnyImages, *, timeout: float | None = None, model: str = "", fit: ImageFit = ImageFit.EXACT
    ) -> tuple[Verdict, ...]:
        """As `Client.detect`."""
        message = detect_request_to_wire(DetectRequest(images=as_images(images, fit), model=model))
        return verdicts_from_wire(await self._call(self._stub.Detect, message, timeout))

    async def reform(
        self,
        images: AnyImages,
        *,
        timeout: float | None = None,
        model: str = "",
        fit: ImageFit = ImageFit.EXACT,
        png: bool = False,
    ) -> tuple[Reformation, ...]:
        """As `Client.reform`."""
        message = reform_request_to_wire(ReformRequest(images=as_images(images, fit), model=model, png=png))
        return reformations_from_wire(await self._call(self._stub.Reform, message, timeout))

    async def robustify(
        self,
        image: AnyImage,
        *,
        delta: float,
        timeout: float | None = None,
        on_progress: Progress | None = None,
        **question: Unpack[RobustifyArguments],
    ) -> Robustified:
        """As `Client.robustify`; cancelling the awaiting task ends the search in the server."""
        message = robustify_request_to_wire(RobustifyRequest(image=as_image(image), delta=delta, **question))
        if on_progress is None:
            return robustified_from_wire(await self._call(self._stub.Robustify, message, timeout))
        async for reply in self._stream(self._stub.RobustifyStream, message, timeout):
            if reply.HasField("result"):
                return robustified_from_wire(reply.result)
            on_progress(reply.progress.done, reply.progress.planned)
        raise InternalError("The server ended the call without a result.")

    async def get_surrogate(self, model: str = "", *, timeout: float | None = None) -> Surrogate:
        """As `Client.get_surrogate`."""
        arriving = Arriving()
        async for reply in self._stream(self._stub.GetSurrogate, pb.GetSurrogateRequest(model=model), timeout):
            arriving.take(reply)
        return arriving.surrogate()

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
            raise error_of(error) from error
        except grpc.aio.UsageError as error:
            raise Unavailable("This client was closed; open another.") from error

    async def _stream(self, method: Callable[..., Any], message: object, timeout: float | None) -> AsyncIterator[Any]:
        try:
            replies = method(message, timeout=timeout, metadata=self._metadata)
        except grpc.aio.UsageError as error:
            raise Unavailable("This client was closed; open another.") from error
        try:
            async for reply in replies:
                yield reply
        except grpc.RpcError as error:
            raise error_of(error) from error
        finally:
            replies.cancel()
