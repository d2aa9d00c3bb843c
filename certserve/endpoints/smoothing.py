"""Predict and Certify: a request in, an outcome out, whatever carries them.

A request is checked as a whole before anything costs time: model, then every parameter and the image's header,
all violations at once; then admission; only then is the image decoded, and the job's key derived.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from certserve import images
from certserve.endpoints.checks import Checks
from certserve.endpoints.models import Models, ServedModel
from certserve.endpoints.requests import CertifyRequest, ModelInfo, PredictRequest
from certserve.errors import DeadlineExceeded, InvalidRequest, Violation
from certserve.images import ImageError, ImageInput, Limits
from certserve.noise.arithmetic import Arithmetic, arithmetic_error
from certserve.noise.grid import LEVELS
from certserve.noise.keystream import STREAM
from certserve.sampling.engine import Job
from certserve.sampling.source import DrawSource
from certserve.smoothing.bounds import smallest_certifying_n, smallest_predicting_n
from certserve.smoothing.outcomes import Abstention, Case, Certificate, Origin, Prediction, Setting, Space
from certserve.smoothing.plans import Fixed, FixedPredict, Plan

__all__ = ["Progress", "SmoothingEndpoints"]

Progress = Callable[[int, int], None]
"""Told how many of a request's draws have been counted, and how many there will be at most."""

Outcome = TypeVar("Outcome")
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]

_UNITS = "pixels in [0, 1]"


@dataclass(frozen=True, slots=True)
class _Question:
    """A checked request: nothing in it is left to a default."""

    procedure: str
    model: ServedModel
    image: ImageInput
    fit: images.ImageFit
    sigma: float
    plan: Plan
    arithmetic: Arithmetic
    nonce: bytes


class SmoothingEndpoints:
    """The smoothed classifier's endpoints.

    Args:
        models: what is served. decoder: a small pool that decodes images. limits: what an image may be.
    """

    def __init__(self, models: Models, decoder: ThreadPoolExecutor, limits: Limits) -> None:
        self._models = models
        self._decoder = decoder
        self._limits = limits

    async def predict(
        self, request: PredictRequest, *, timeout: float | None = None, on_progress: Progress | None = None
    ) -> Prediction | Abstention:
        """The smoothed classifier's label, or an Abstention; see `Prediction` for the guarantee.

        Args:
            timeout: seconds after which to give up; None: never.

        Raises:
            InvalidRequest, ModelNotFound, Infeasible, Overloaded, DeadlineExceeded, BackendFailed, Unavailable: see
                `certserve.errors`.
        """
        model = self._models.get(request.model)
        checks = Checks(model, self._limits, request.malformed)
        sigma = checks.sigma(request.sigma)
        n = checks.draws("n", request.n, model.bundle.defaults.predict_n)
        alpha = checks.alpha(request.alpha)
        arithmetic = checks.image(request.image, request.fit, request.arithmetic)
        checks.enough(n, alpha, lambda: smallest_predicting_n(alpha))
        image = checks.conclude(request.image, request.nonce)
        plan = FixedPredict(n, alpha)
        question = _Question("predict", model, image, request.fit, sigma, plan, arithmetic, request.nonce)
        return await self._answer(question, plan.decide, timeout, on_progress)

    async def certify(
        self, request: CertifyRequest, *, timeout: float | None = None, on_progress: Progress | None = None
    ) -> Certificate | Abstention:
        """A certificate, or an Abstention; see `Certificate` for the guarantee. Arguments and errors as `predict`."""
        model = self._models.get(request.model)
        checks = Checks(model, self._limits, request.malformed)
        sigma = checks.sigma(request.sigma)
        n0 = checks.draws("n0", request.n0, model.bundle.defaults.n0)
        n = checks.draws("n", request.n, model.bundle.defaults.n)
        alpha = checks.alpha(request.alpha)
        arithmetic = checks.image(request.image, request.fit, request.arithmetic)
        error = arithmetic_error(arithmetic, sigma, math.prod(model.bundle.shape))
        checks.enough(n, alpha, lambda: smallest_certifying_n(alpha, error))
        checks.plan(request.plan)
        image = checks.conclude(request.image, request.nonce)
        plan = Fixed(n0, n, alpha, request.bound)
        question = _Question("certify", model, image, request.fit, sigma, plan, arithmetic, request.nonce)
        return await self._answer(question, plan.decide, timeout, on_progress)

    def list_models(self) -> tuple[ModelInfo, ...]:
        """Every model, the default one first."""
        return tuple(model.info for model in self._models.all())

    def get_model(self, name: str = "") -> ModelInfo:
        """One model; the default one for an empty name.

        Raises:
            ModelNotFound: there is none of that name.
        """
        return self._models.get(name).info

    async def _answer(
        self,
        question: _Question,
        decide: Callable[[Any, Case], Outcome],
        timeout: float | None,
        on_progress: Progress | None,
    ) -> Outcome:
        total = question.plan.n0 + question.plan.n
        question.model.engine.check_admission(question.plan.n, question.plan.n0, timeout)
        try:
            async with asyncio.timeout(timeout):
                pixels = await self._decode(question)
                case = _case_of(question, pixels)
                job = Job(
                    source=_source_of(question, case, pixels),
                    n0=question.plan.n0,
                    looks=question.plan.looks,
                    decide=lambda evidence: decide(evidence, case),
                    on_progress=None if on_progress is None else lambda done: on_progress(done, total),
                )
                outcome = await question.model.engine.run(job)
        except TimeoutError:
            if timeout is None:
                raise
            raise DeadlineExceeded(f"No answer within {timeout:g} s; ask for fewer draws or allow more time.") from None
        if on_progress is not None:
            on_progress(total, total)
        return outcome

    async def _decode(self, question: _Question) -> Pixels:
        """The pixels that noise is added to: uint8 in grid arithmetic, float32 in float arithmetic."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._decoder, _pixels_of, question, self._limits)
        except ImageError as error:
            raise InvalidRequest([Violation("image", str(error))]) from error


def _pixels_of(question: _Question, limits: Limits) -> Pixels:
    pixels = images.decode(question.image, question.model.geometry, question.fit, limits)
    if question.arithmetic is Arithmetic.FLOAT:
        return pixels if pixels.dtype == np.float32 else (pixels / np.float32(LEVELS)).astype(np.float32)
    on_grid = pixels if pixels.dtype == np.uint8 else images.on_grid(pixels.astype(np.float32))
    if on_grid is None:
        raise ImageError("grid arithmetic needs multiples of 1/255")
    return on_grid


def _case_of(question: _Question, pixels: Pixels) -> Case:
    model, plan = question.model, question.plan
    setting = Setting(
        sigma=question.sigma,
        n0=plan.n0,
        n=plan.n,
        alpha=plan.alpha,
        plan=plan.name,
        looks=tuple(plan.looks),
        bound=plan.bound,
        arithmetic=question.arithmetic.value,
        stream=STREAM,
        arithmetic_error=arithmetic_error(question.arithmetic, question.sigma, pixels.size),
        nonce=question.nonce.hex(),
    )
    space = Space(
        description=images.describe_space(question.image, model.geometry, question.fit),
        shape=tuple(pixels.shape),
        units=_UNITS,
        digest=images.pixel_digest(pixels),
    )
    origin = Origin(
        model=model.bundle.name,
        version=model.bundle.version,
        execution=model.execution.name,
        fingerprint=model.execution.fingerprint,
        commitment=model.secret.commitment,
        space=space,
    )
    return Case(setting, origin, model.bundle.labels)


def _source_of(question: _Question, case: Case, pixels: Pixels) -> DrawSource:
    """The noisy copies, under the key that the whole question gives: the same question, the same draws."""
    setting = case.setting
    key = question.model.secret.key(
        {
            "procedure": question.procedure,
            "fingerprint": case.origin.fingerprint,
            "pixels": case.origin.space.digest,
            "sigma": setting.sigma,
            "arithmetic": setting.arithmetic,
            "stream": setting.stream,
            "n0": setting.n0,
            "n": setting.n,
            "alpha": setting.alpha,
            "plan": setting.plan,
            "bound": setting.bound.value,
            "nonce": question.nonce,
        }
    )
    return DrawSource(key, pixels, setting.sigma, question.arithmetic)
