"""The client that waits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
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

__all__ = ["Client"]


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
        credentials = credentials_of(root_certificates)
        self._channel = (
            grpc.secure_channel(target, credentials, options=OPTIONS)
            if credentials
            else grpc.insecure_channel(target, options=OPTIONS)
        )
        self._stub = CertServeStub(self._channel)  # type: ignore[no-untyped-call]
        self._metadata = metadata_of(token)

    def predict(
        self, image: AnyImage, *, timeout: float | None = None, **question: Unpack[PredictArguments]
    ) -> PredictOutcome:
        """The smoothed classifier's label; see `PredictRequest` for the question, `Prediction` for the guarantee.

        Args:
            timeout: seconds after which to give up; None: never.

        Raises:
            CertserveError: see `certserve.errors`.
        """
        message = predict_request_to_wire(PredictRequest(image=as_image(image), **question))
        return predict_outcome_from_wire(self._call(self._stub.Predict, message, timeout))

    def certify(
        self, image: AnyImage, *, timeout: float | None = None, **question: Unpack[CertifyArguments]
    ) -> CertifyOutcome:
        """A certificate; see `CertifyRequest` for the question, `Certificate` for the guarantee.

        `timeout` and errors as for `predict`.
        """
        message = certify_request_to_wire(CertifyRequest(image=as_image(image), **question))
        return certify_outcome_from_wire(self._call(self._stub.Certify, message, timeout))

    def certify_stream(
        self, image: AnyImage, *, timeout: float | None = None, **question: Unpack[CertifyArguments]
    ) -> Iterator[CertifyOutcome]:
        """`certify`, with each better certificate as it comes; the last one is the outcome.

        Every certificate is valid, all of them together at the one alpha, whenever the caller stops listening.
        """
        message = certify_request_to_wire(CertifyRequest(image=as_image(image), **question))
        for reply in self._stream(self._stub.CertifyStream, message, timeout):
            yield certify_outcome_from_wire(reply)

    def certify_many(
        self,
        images: Iterable[tuple[str, AnyImage]],
        *,
        timeout: float | None = None,
        **question: Unpack[CertifyArguments],
    ) -> Iterator[tuple[str, CertifyOutcome | CertserveError]]:
        """Certify (tag, image) pairs under one question: (tag, outcome or error), as the answers are ready.

        Images are read as the server takes them up, so there may be any number of them. Where `images` raises, or has
        one that cannot be read, the answers to those before it come first, then what was raised.
        """
        failures: list[Exception] = []

        def messages() -> Iterator[pb.CertifyManyRequest]:
            try:
                for tag, image in images:
                    request = certify_request_to_wire(CertifyRequest(image=as_image(image), **question))
                    yield pb.CertifyManyRequest(tag=tag, request=request)
            except Exception as error:  # gRPC would end the call, and tell only that it did
                failures.append(error)

        for reply in self._stream(self._stub.CertifyMany, messages(), timeout):
            yield certify_many_reply_from_wire(reply)
        for failure in failures:
            raise failure

    def detect(
        self, images: AnyImages, *, timeout: float | None = None, model: str = "", fit: ImageFit = ImageFit.EXACT
    ) -> tuple[Verdict, ...]:
        """What the detectors say of an image, or of each of up to 256; no guarantee follows from it.

        Args:
            timeout: seconds after which to give up; None: never. model: its name; empty for the default one.
            fit: what to do with an image of another size.

        Raises:
            Infeasible: the model has none. CertserveError: see `certserve.errors`.
        """
        message = detect_request_to_wire(DetectRequest(images=as_images(images, fit), model=model))
        return verdicts_from_wire(self._call(self._stub.Detect, message, timeout))

    def reform(
        self,
        images: AnyImages,
        *,
        timeout: float | None = None,
        model: str = "",
        fit: ImageFit = ImageFit.EXACT,
        png: bool = False,
    ) -> tuple[Reformation, ...]:
        """An image after the reformer, or each of up to 256, with the base classifier's answers before and after.

        No guarantee follows from it. The rest as for `detect`; `png`: as PNG files too.
        """
        message = reform_request_to_wire(ReformRequest(images=as_images(images, fit), model=model, png=png))
        return reformations_from_wire(self._call(self._stub.Reform, message, timeout))

    def robustify(
        self,
        image: AnyImage,
        *,
        delta: float,
        timeout: float | None = None,
        on_progress: Progress | None = None,
        **question: Unpack[RobustifyArguments],
    ) -> Robustified:
        """A safer 8-bit image near this one, with the certificates of both; see `Robustified`.

        Args:
            delta: how far the image may be moved, in input units; see `RobustifyRequest` for the rest.
            on_progress: told (done, planned), in passes through the network and draws, as the server tells.

        `timeout` and errors as for `predict`; also `BundleError`, where the model has no gradients, and `Infeasible`,
        where the server robustifies nothing.
        """
        message = robustify_request_to_wire(RobustifyRequest(image=as_image(image), delta=delta, **question))
        if on_progress is None:
            return robustified_from_wire(self._call(self._stub.Robustify, message, timeout))
        for reply in self._stream(self._stub.RobustifyStream, message, timeout):
            if reply.HasField("result"):
                return robustified_from_wire(reply.result)
            on_progress(reply.progress.done, reply.progress.planned)
        raise InternalError("The server ended the call without a result.")

    def get_surrogate(self, model: str = "", *, timeout: float | None = None) -> Surrogate:
        """A model's weights, to robustify with them here; `Surrogate.store` checks them and makes a bundle of them.

        Raises:
            Infeasible: the server hands out none. BundleError: the model has none. The rest as for `predict`.
        """
        arriving = Arriving()
        for reply in self._stream(self._stub.GetSurrogate, pb.GetSurrogateRequest(model=model), timeout):
            arriving.take(reply)
        return arriving.surrogate()

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
            raise error_of(error) from error
        except ValueError as error:  # how gRPC says that the channel is closed
            raise Unavailable("This client was closed; open another.") from error

    def _stream(self, method: Callable[..., Any], message: object, timeout: float | None) -> Iterator[Any]:
        try:
            replies = method(message, timeout=timeout, metadata=self._metadata)
        except ValueError as error:  # as above
            raise Unavailable("This client was closed; open another.") from error
        try:
            yield from replies
        except grpc.RpcError as error:
            raise error_of(error) from error
        finally:
            replies.cancel()
