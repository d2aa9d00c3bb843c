"""Robustify: an image in, a safer 8-bit image near it out, with the certificates of both.

The label to keep is Predict's; the search draws noise of its own, keyed by the question; the certificates are those
that Certify gives of the image as it came and of the file as it went, so none of them shares a draw with the search,
and only the one file that is handed out is certified.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from certserve import images
from certserve.attacks.norms import Norm
from certserve.defences.preemptive.methods import Budget, How, Method, how_of
from certserve.endpoints.checks import Checks
from certserve.endpoints.models import Models, ServedModel
from certserve.endpoints.requests import CertifyRequest, PredictRequest, RobustifyRequest
from certserve.endpoints.smoothing import Progress, SmoothingEndpoints
from certserve.errors import DeadlineExceeded, InvalidRequest, Violation
from certserve.images import EncodedImage, ImageError, ImageFit, ImageInput, Limits
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.grid import LEVELS
from certserve.smoothing.outcomes import Abstention, Certificate, CertifyOutcome, Prediction, PredictOutcome

if TYPE_CHECKING:
    from certserve.defences.preemptive.eight_bit import Moved

__all__ = ["Robustified", "RobustifyEndpoint"]

_SEED_BYTES = 7  # what a generator of torch takes is below 2^63


@dataclass(frozen=True, slots=True, eq=False)
class Robustified:
    """An image that was moved, and what is known of it before and after.

    The only guarantee is `after`, about the pixels of `png` as they are: shown at another size, cropped, or encoded
    with loss, it is another image.

    Attributes:
        pixels: uint8, (channels, height, width), at the model's size. png: the same as a file.
        budget: what was allowed. method: what was searched with.
        l2, linf: how far it was moved, in input units; the norm of the budget is at most delta as a real number.
        predicted_before, predicted_after: Predict's answers.
        before: Certify's answer about the image as it came. after: about `png`, with the same sigma, n0, n, alpha and
            bound. Each on draws of its own, unless the image stayed as it was: then they are one answer.
        judged_safe: whether the search estimates that the label survives an adversary of epsilon.
        passes: rows that went through the network forward and back.
    """

    pixels: npt.NDArray[np.uint8] = field(repr=False)
    png: bytes = field(repr=False)
    budget: Budget
    method: How
    l2: float
    linf: float
    predicted_before: PredictOutcome
    predicted_after: PredictOutcome
    before: CertifyOutcome
    after: CertifyOutcome
    judged_safe: bool
    passes: int

    @property
    def label_kept(self) -> bool:
        """Whether the file is certified, for the label that the image was predicted to have."""
        return isinstance(self.after, Certificate) and self.after.label == _label(self.predicted_before)

    @property
    def success(self) -> bool:
        """Whether the label was kept, and the search judges it safe."""
        return self.label_kept and self.judged_safe

    @property
    def radius_before(self) -> float:
        """The certified radius before, for the label that was predicted; 0 where there is none."""
        return self._radius(self.before)

    @property
    def radius_after(self) -> float:
        """The certified radius after, for the label that was predicted before; 0 where there is none."""
        return self._radius(self.after)

    @property
    def uplift_efficiency(self) -> float | None:
        """(radius_after - radius_before) / delta, an estimate; None where delta is no L2 distance.

        For the true radii of the smoothed classifier it is at most 1.
        """
        if self.budget.norm is not Norm.L2:
            return None
        return (self.radius_after - self.radius_before) / self.budget.delta

    def _radius(self, outcome: CertifyOutcome) -> float:
        same = isinstance(outcome, Certificate) and outcome.label == _label(self.predicted_before)
        return outcome.radius if same and isinstance(outcome, Certificate) else 0.0


class RobustifyEndpoint:
    """Moves images, one at a time.

    Args:
        models: what is served. smoothing: what predicts and certifies. pool: threads that decode and search.
        limits: what an image may be.
    """

    def __init__(self, models: Models, smoothing: SmoothingEndpoints, pool: ThreadPoolExecutor, limits: Limits) -> None:
        self._models, self._smoothing, self._pool, self._limits = models, smoothing, pool, limits
        self._networks: dict[str, Any] = {}

    async def robustify(
        self, request: RobustifyRequest, *, timeout: float | None = None, on_progress: Progress | None = None
    ) -> Robustified:
        """A safer image near the request's; see `Robustified`.

        Cancelled, or out of time, the search ends with the pass that is running.

        Args:
            timeout: seconds after which to give up; None: never.
            on_progress: told (done, planned): passes through the network and draws.

        Raises:
            BundleError: the model has no gradients. The rest as `SmoothingEndpoints.predict`.
        """
        model = self._models.get(request.model)
        checks = Checks(model, self._limits, request.malformed)
        question = _certify(request, request.image, request.fit)
        plan = checks.certify_plan(question.plan, checks.budgets(question, model.bundle.defaults.n)[0])
        budget = checks.budget(request)
        image = checks.conclude(request.image, request.nonce, None)
        assert budget is not None
        how = how_of(request.method) if isinstance(request.method, Method) else request.method
        draws = plan.n0 + plan.n + model.bundle.defaults.predict_n
        told = _Told(on_progress, draws, how.most_passes)
        try:
            async with asyncio.timeout(timeout):
                return await self._robustify(request, model, image, budget, how, told)
        except TimeoutError:
            if timeout is None:
                raise
            raise DeadlineExceeded(
                f"No image within {timeout:g} s; ask for fewer draws, the method fast, or allow more time."
            ) from None

    async def _robustify(
        self, request: RobustifyRequest, model: ServedModel, image: ImageInput, budget: Budget, how: How, told: _Told
    ) -> Robustified:
        loop = asyncio.get_running_loop()
        network = await loop.run_in_executor(self._pool, self._network, model)
        pixels = await loop.run_in_executor(self._pool, _decoded, image, model, request.fit, self._limits)
        predicted, before = await self._asked(request, image, request.fit, told)
        stop = threading.Event()

        def watched(rows: Any) -> Any:
            if stop.is_set():
                raise _Stopped
            if rows.requires_grad:
                told.passes(len(rows))
            return network(rows)

        seed, sigma = _seed(request, model, pixels, budget, how), before.setting.sigma
        try:
            moved = await loop.run_in_executor(
                self._pool, _search, watched, pixels, _label(predicted), budget, sigma, how, seed
            )
        finally:
            stop.set()
        png = images.encode_png(moved.images[0], model.bundle.colour)
        predicted_after, after = await self._asked(request, EncodedImage(png), ImageFit.EXACT, told)
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
        self, request: RobustifyRequest, image: ImageInput, fit: ImageFit, told: _Told
    ) -> tuple[PredictOutcome, CertifyOutcome]:
        """What the model predicts and certifies of an image."""
        asked = PredictRequest(
            image=image,
            model=request.model,
            fit=fit,
            sigma=request.sigma,
            alpha=request.alpha,
            arithmetic=Arithmetic.GRID,
            nonce=request.nonce,
        )
        predicted = await self._smoothing.predict(asked, on_progress=told.draws())
        certified = await self._smoothing.certify(_certify(request, image, fit), on_progress=told.draws())
        return predicted, certified

    def _network(self, model: ServedModel) -> Any:
        """The model's float weights, from which gradients come; read once."""
        from certserve.backends.torch import differentiable

        name = model.bundle.name
        if name not in self._networks:
            self._networks[name] = differentiable(model.bundle).requires_grad_(False)
        return self._networks[name]


class _Stopped(Exception):
    """Nobody waits for the search any more."""


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


def _label(predicted: PredictOutcome) -> int:
    """What was predicted; of an abstention, the class with the most votes."""
    if isinstance(predicted, Prediction):
        return predicted.label
    assert isinstance(predicted, Abstention)  # only a time budget leaves it undecided
    return predicted.candidate


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
) -> Moved:
    from certserve.defences.preemptive.eight_bit import robustify, seeded

    labels = np.array([label], dtype=np.int64)
    return robustify(network, pixels[None], labels, budget=budget, sigma=sigma, how=how, generator=seeded(seed))
