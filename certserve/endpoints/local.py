"""A model in this process: the endpoints with a synchronous face, under the method names of `certserve.Client`."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Awaitable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self, TypeVar, Unpack

from certserve.endpoints.answers import Reformation, Robustified
from certserve.endpoints.models import LoadedModel
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
from certserve.endpoints.service import Service, running
from certserve.endpoints.smoothing import SmoothingEndpoints
from certserve.errors import Unavailable
from certserve.images import ImageFit
from certserve.noise.keystream import Secret
from certserve.smoothing.outcomes import CertifyOutcome, PredictOutcome
from certserve.smoothing.verdicts import Verdict
from certserve.zoo import path_of

__all__ = ["LocalModel", "open_model"]

Result = TypeVar("Result")


def open_model(
    bundle: str | os.PathLike[str] | None = None,
    *,
    execution: str | None = None,
    trust: bool = False,
    reform: bool = False,
    key_source: Secret | None = None,
) -> LocalModel:
    """A model to be asked in this process: a bundle's directory, or the name of a packaged one.

    Args:
        bundle: default: the packaged default model.
        execution: which of the bundle's, by name; default: as `certserve.backends.choice` says.
        trust: allow a bundle whose file is a program that can run code of its own (torch.export).
        reform: put the bundle's reformer before the classifier, as part of the model that is smoothed: noise, reform,
            classify. What is certified is then about that execution, and about the image as it is given.
        key_source: the secret that keys the noise; default: a fresh one from the operating system.

    Raises:
        BundleError: the bundle is incomplete, damaged or not understood.
        ModelRefused: the model is no base classifier for smoothing.
    """
    loaded = LoadedModel.read(path_of(bundle), execution=execution, trust=trust, reform=reform)
    return LocalModel(loaded, key_source or Secret.fresh())


class LocalModel:
    """One model. A context manager; `close` ends it. Methods may be called from any thread, and run together."""

    def __init__(self, loaded: LoadedModel, secret: Secret) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="certserve-loop", daemon=True)
        self._thread.start()
        self._stack = AsyncExitStack()
        self._lock = threading.Lock()  # no request is handed to the loop once it is to stop
        self._closed = False
        self._service: Service = self._wait(self._stack.enter_async_context(running([loaded], secret)))

    def predict(
        self,
        image: AnyImage,
        *,
        timeout: float | None = None,
        on_progress: Progress | None = None,
        **question: Unpack[PredictArguments],
    ) -> PredictOutcome:
        """The smoothed classifier's label; see `PredictRequest` for the question, `Prediction` for the guarantee.

        Args:
            timeout: seconds after which to give up; None: never.
            on_progress: told (draws counted, draws planned) from another thread.

        Raises:
            CertserveError: see `certserve.errors`.
        """
        request = PredictRequest(image=as_image(image), **question)
        return self._wait(self._endpoints.predict(request, timeout=timeout, on_progress=on_progress))

    def certify(
        self,
        image: AnyImage,
        *,
        timeout: float | None = None,
        on_progress: Progress | None = None,
        **question: Unpack[CertifyArguments],
    ) -> CertifyOutcome:
        """A certificate; see `CertifyRequest` for the question, `Certificate` for the guarantee.

        `timeout`, `on_progress` and errors as for `predict`.
        """
        request = CertifyRequest(image=as_image(image), **question)
        return self._wait(self._endpoints.certify(request, timeout=timeout, on_progress=on_progress))

    def certify_stream(
        self,
        image: AnyImage,
        *,
        timeout: float | None = None,
        on_progress: Progress | None = None,
        **question: Unpack[CertifyArguments],
    ) -> Iterator[CertifyOutcome]:
        """`certify`, with each better certificate as it comes; the last one is the outcome.

        Every certificate is valid, all of them together at the one alpha, whenever the caller stops listening.
        """
        request = CertifyRequest(image=as_image(image), **question)
        replies = self._endpoints.certify_stream(request, timeout=timeout, on_progress=on_progress)
        try:
            while (reply := self._wait(anext(replies, None))) is not None:
                outcome, final = reply
                yield outcome
                if final:
                    return
        finally:
            self._wait(replies.aclose())

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
        request = DetectRequest(images=as_images(images, fit), model=model)
        return self._wait(self._open.magnet.detect(request, timeout=timeout))

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
        request = ReformRequest(images=as_images(images, fit), model=model, png=png)
        return self._wait(self._open.magnet.reform(request, timeout=timeout))

    def robustify(
        self,
        image: AnyImage,
        *,
        delta: float,
        timeout: float | None = None,
        on_progress: Progress | None = None,
        **question: Unpack[RobustifyArguments],
    ) -> Robustified:
        """A safer 8-bit image near this one, with the certificates of both; see `Robustified`. Needs torch.

        Args:
            delta: how far the image may be moved, in input units; see `RobustifyRequest` for the rest.
            on_progress: told (done, planned), in passes through the network and draws.

        `timeout` and errors as for `predict`; also `BundleError`, where the bundle has no gradients.
        """
        request = RobustifyRequest(image=as_image(image), delta=delta, **question)
        return self._wait(self._open.robustify.robustify(request, timeout=timeout, on_progress=on_progress))

    def list_models(self) -> tuple[ModelInfo, ...]:
        """The one model there is."""
        return self._endpoints.list_models()

    def get_model(self, name: str = "") -> ModelInfo:
        """The model; see `ModelInfo`.

        Raises:
            ModelNotFound: it has another name.
        """
        return self._endpoints.get_model(name)

    def close(self) -> None:
        """End the model; requests still running fail with `Unavailable`. Closing twice is allowed."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            ended = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        ended.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _open(self) -> Service:
        if self._closed:
            raise Unavailable("This model was closed; open it again.")
        return self._service

    @property
    def _endpoints(self) -> SmoothingEndpoints:
        return self._open.smoothing

    async def _end(self) -> None:
        await self._stack.aclose()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    def _wait(self, awaitable: Awaitable[Result]) -> Result:
        # Not wrapped, where it is a coroutine: closing the wrapper would not close it.
        coroutine = awaitable if inspect.iscoroutine(awaitable) else _awaited(awaitable)
        with self._lock:
            if self._closed:
                coroutine.close()
                raise Unavailable("This model was closed; open it again.")
            future: Future[Result] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise Unavailable("This model was closed before the answer was there.") from None
        except BaseException:  # such as KeyboardInterrupt in the waiting thread: the request goes with it
            future.cancel()
            raise


async def _awaited(awaitable: Awaitable[Result]) -> Result:
    return await awaitable
