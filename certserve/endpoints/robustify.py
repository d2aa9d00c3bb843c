"""Robustify: an image in, a safer 8-bit image near it out, with the certificates of both.

The label to keep is Predict's; the search draws noise of its own, keyed by the question; the certificates are those
that Certify gives of the image as it came and of the file as it went, so none of them shares a draw with the search,
and only the one file that is handed out is certified.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from certserve import images
from certserve.defences.preemptive.methods import Budget, How, Method, how_of
from certserve.endpoints.answers import Robustified, leading
from certserve.endpoints.checks import Checks
from certserve.endpoints.many import patiently
from certserve.endpoints.models import Models, ServedModel, require_gradients
from certserve.endpoints.requests import CertifyRequest, PredictRequest, Progress, RobustifyRequest
from certserve.endpoints.searches import Searches
from certserve.endpoints.smoothing import SmoothingEndpoints
from certserve.errors import DeadlineExceeded, InvalidRequest, Violation
from certserve.images import EncodedImage, ImageError, ImageFit, ImageInput, Limits
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.grid import LEVELS
from certserve.smoothing.outcomes import CertifyOutcome, PredictOutcome

if TYPE_CHECKING:
    from certserve.defences.preemptive.eight_bit import Moved

__all__ = ["RobustifyEndpoint"]

_SEED_BYTES = 7  # what a generator of torch takes is below 2^63
_BETWEEN = 0.1  # seconds between two replies that say how far it is


class RobustifyEndpoint:
    """Moves images, a few at a time.

    Args:
        models: what is served. smoothing: what predicts and certifies. searches: runs what is searched.
        decoder: a small pool that decodes images. limits: what an image may be.
    """

    def __init__(
        self,
        models: Models,
        smoothing: SmoothingEndpoints,
        searches: Searches,
        decoder: ThreadPoolExecutor,
        limits: Limits,
    ) -> None:
        self._models, self._smoothing, self._searches = models, smoothing, searches
        self._decoder, self._limits = decoder, limits
        self._networks: dict[str, Any] = {}
        self._reading = threading.Lock()

    async def robustify(
        self, request: RobustifyRequest, *, timeout: float | None = None, on_progress: Progress | None = None
    ) -> Robustified:
        """A safer image near the request's; see `Robustified`.

        Cancelled, or out of time, the search ends with the pass that is running. Where too many draws wait when it
        has ended, the certificates of what it found wait too.

        Args:
            timeout: seconds after which to give up; None: never.
            on_progress: told (done, planned): passes through the network and draws; from other threads too.

        Raises:
            Infeasible: it is not offered here. BundleError: the model has no gradients. Overloaded: too many wait.
                The rest as `SmoothingEndpoints.predict`.
        """
        model = self._models.get(request.model)
        require_gradients(model)
        how = how_of(request.method) if isinstance(request.method, Method) else request.method
        checks = Checks(model, self._limits, request.malformed)
        question = _certify(request, request.image, request.fit)
        plan = checks.certify_plan(question.plan, checks.budgets(question, model.bundle.defaults.n)[0])
        budget = checks.budget(request)
        checks.search(how, self._searches.limits)
        image = checks.conclude(request.image, request.nonce, None)
        assert budget is not None
        told = _Told(
            on_progress, plan.n0 + plan.n + checks.draws("n", None, model.bundle.defaults.predict_n), how.most_passes
        )
        with self._searches.place():
            try:
                async with asyncio.timeout(timeout):
                    return await self._robustify(_Task(request, model, image, budget, how, told))
            except TimeoutError:
                if timeout is None:
                    raise
                raise DeadlineExceeded(
                    f"No image within {timeout:g} s; ask for fewer draws, the method fast, or allow more time."
                ) from None

    async def robustify_stream(
        self, request: RobustifyRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[tuple[int, int] | Robustified]:
        """How far it is, (done, planned), ten times a second at most; then what came of it. Errors as `robustify`."""
        latest = told = (0, 0)

        def note(done: int, planned: int) -> None:
            nonlocal latest
            latest = done, planned

        task = asyncio.create_task(self.robustify(request, timeout=timeout, on_progress=note))
        try:
            while not (await asyncio.wait({task}, timeout=_BETWEEN))[0]:
                if latest != told:
                    told = latest
                    yield told
            found = await task
            yield latest
            yield found
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    async def _robustify(self, task: _Task) -> Robustified:
        request, model, budget, how, told = task.request, task.model, task.budget, task.how, task.told
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self._decoder, _decoded, task.image, model, request.fit, self._limits)
        predicted, before = await self._asked(request, task.image, request.fit, told, patient=False)
        label, sigma = leading(predicted), before.setting.sigma
        seed = _seed(request, model, pixels, budget, how)

        def search(check: Callable[[], None]) -> Moved:
            network = self._network(model)

            def watched(rows: Any) -> Any:
                check()
                if rows.requires_grad:
                    told.passes(len(rows))
                return network(rows)

            return _search(watched, pixels, label, budget, sigma, how, seed, model.bundle.colour)

        moved = await self._searches.run(search)
        png = images.encode_png(moved.images[0], model.bundle.colour)
        predicted_after, after = await self._asked(request, EncodedImage(png), ImageFit.EXACT, told, patient=True)
        told.end()
        change = np.abs(moved.images[0].astype(np.int64) - pixels)
        return Robustified(
            pixels=moved.images[0],
            png=png,
            budget=budget,
            method=how,
            l2=math.sqrt(int((change**2).sum())) / LEVELS,
            linf=int(change.max()) / LEVELS,
            predicted_before=predicted,
            predicted_after=predicted_after,
            before=before,
            after=after,
            judged_safe=bool(moved.successes[0]),
            passes=int(moved.passes[0]),
        )

    async def _asked(
        self, request: RobustifyRequest, image: ImageInput, fit: ImageFit, told: _Told, *, patient: bool
    ) -> tuple[PredictOutcome, CertifyOutcome]:
        """What the model predicts and certifies of an image; patient, it asks again while too many draws wait."""
        asked = PredictRequest(
            image=image,
            model=request.model,
            fit=fit,
            sigma=request.sigma,
            alpha=request.alpha,
            arithmetic=Arithmetic.GRID,
            nonce=request.nonce,
        )
        certify = _certify(request, image, fit)

        def predicted() -> Awaitable[PredictOutcome]:
            return self._smoothing.predict(asked, on_progress=told.draws())

        def certified() -> Awaitable[CertifyOutcome]:
            return self._smoothing.certify(certify, on_progress=told.draws())

        if patient:
            return await patiently(predicted), await patiently(certified)
        return await predicted(), await certified()

    def _network(self, model: ServedModel) -> Any:
        """The model's network, from which gradients come; read once."""
        from certserve.backends.torch import gradients

        name = model.bundle.name
        with self._reading:
            if name not in self._networks:
                self._networks[name] = gradients(model.bundle)
            return self._networks[name]


@dataclass(frozen=True, slots=True)
class _Task:
    """A checked request."""

    request: RobustifyRequest
    model: ServedModel
    image: ImageInput
    budget: Budget
    how: How
    told: _Told


class _Told:
    """Tells how far a request is, in passes and draws; both images are asked about with as many draws."""

    def __init__(self, on_progress: Progress | None, draws: int, passes: int) -> None:
        self._on_progress = on_progress
        self._done, self._total = 0, 2 * draws + passes

    def draws(self) -> Progress:
        """To be told of one question's draws."""
        before = 0

        def told(done: int, _: int) -> None:
            nonlocal before
            self.passes(done - before)
            before = done

        return told

    def passes(self, more: int) -> None:
        """So many more are done."""
        self._done = min(self._done + more, self._total)
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)

    def end(self) -> None:
        """All is done, and less than planned may have been enough."""
        self.passes(self._total - self._done)


def _certify(request: RobustifyRequest, image: ImageInput | None, fit: ImageFit) -> CertifyRequest:
    return CertifyRequest(
        image=image,
        model=request.model,
        fit=fit,
        sigma=request.sigma,
        n0=request.n0,
        n=request.n,
        alpha=request.alpha,
        bound=request.bound,
        arithmetic=Arithmetic.GRID,
        nonce=request.nonce,
    )


def _decoded(image: ImageInput, model: ServedModel, fit: ImageFit, limits: Limits) -> npt.NDArray[np.uint8]:
    try:
        pixels = images.decode(image, model.geometry, fit, limits)
    except ImageError as error:
        raise InvalidRequest([Violation("image", str(error))]) from error
    found = pixels if pixels.dtype == np.uint8 else images.on_grid(pixels.astype(np.float32))
    assert found is not None  # `Checks` asked for grid arithmetic
    return found.astype(np.uint8)


def _seed(
    request: RobustifyRequest, model: ServedModel, pixels: npt.NDArray[np.uint8], budget: Budget, how: How
) -> int:
    """Of the search's noise: the same question, the same image, and nothing that a certificate draws."""
    key = model.epochs.current.key(
        {
            "procedure": "robustify",
            "pixels": images.pixel_digest(pixels),
            "model": model.bundle.name,
            "version": model.bundle.version,
            "norm": budget.norm.value,
            "delta": budget.delta,
            "epsilon": budget.epsilon,
            "method": repr(how),
            "nonce": request.nonce,
        }
    )
    return int.from_bytes(key.domain("search")[:_SEED_BYTES], "big")


def _search(
    network: Callable[[Any], Any],
    pixels: npt.NDArray[np.uint8],
    label: int,
    budget: Budget,
    sigma: float,
    how: How,
    seed: int,
    colour: str,
) -> Moved:
    from certserve.defences.preemptive.eight_bit import robustify, seeded

    labels, generator = np.array([label], dtype=np.int64), seeded(seed)
    return robustify(
        network, pixels[None], labels, budget=budget, sigma=sigma, how=how, generator=generator, colour=colour
    )
