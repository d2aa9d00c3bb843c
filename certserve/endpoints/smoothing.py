"""Predict and Certify: a request in, an outcome out, whatever carries them.

A request is checked as a whole before anything costs time: model, then every parameter and the image's header,
all violations at once; then admission; only then is the image decoded, and the job's key derived,
from the secret that was current at its admission.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from certserve import images
from certserve.endpoints.checks import Checks
from certserve.endpoints.magnet import judge, require_detectors
from certserve.endpoints.models import Models, ServedModel
from certserve.endpoints.requests import CertifyRequest, ModelInfo, PredictRequest, Progress
from certserve.errors import DeadlineExceeded, InvalidRequest, Violation
from certserve.images import ImageError, ImageFit, ImageInput, Limits, RawImage
from certserve.noise.arithmetic import Arithmetic, arithmetic_error
from certserve.noise.grid import LEVELS
from certserve.noise.keystream import Secret
from certserve.sampling.engine import Job
from certserve.sampling.source import DrawSource
from certserve.smoothing.outcomes import (
    Case,
    Certificate,
    CertifyOutcome,
    Origin,
    PredictOutcome,
    Rejected,
    Setting,
    Space,
    Votes,
)
from certserve.smoothing.plans import Decider, Looks, Plan

__all__ = ["OnBetter", "SmoothingEndpoints"]

OnBetter = Callable[[Certificate], None]
"""Told of each certificate that is better than those before, on any thread; must be quick and wait for nobody."""

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]

_UNITS = "pixels in [0, 1]"
_FEW_VALUES, _FEW_BYTES = 1 << 16, 1 << 12  # of an image, decoded and as sent


@dataclass(frozen=True, slots=True)
class _Question:
    """A checked request: nothing in it is left to a default."""

    procedure: str
    model: ServedModel
    image: ImageInput
    fit: ImageFit
    sigma: float
    plan: Plan
    arithmetic: Arithmetic
    nonce: bytes
    time_budget: float | None
    guard: bool


@dataclass(frozen=True, slots=True)
class _Telling:
    """A decider that tells of each certificate that is better than those before."""

    decider: Decider[Any]
    on_better: OnBetter
    sign: Callable[[Certificate], Certificate]

    def look(self, selection: Votes, votes: Votes) -> Any:
        before = self.decider.best
        outcome = self.decider.look(selection, votes)
        if self.decider.best is not None and self.decider.best is not before:
            self.on_better(self.sign(self.decider.best))
        return outcome

    def end(self, reason: str) -> Any:
        return self.decider.end(reason)


class SmoothingEndpoints:
    """The smoothed classifier's endpoints.

    Args:
        models: what is served. decoder: a small pool that decodes all but small images.
        limits: what an image may be.
    """

    def __init__(self, models: Models, decoder: ThreadPoolExecutor, limits: Limits) -> None:
        self._models = models
        self._decoder = decoder
        self._limits = limits

    async def predict(
        self, request: PredictRequest, *, timeout: float | None = None, on_progress: Progress | None = None
    ) -> PredictOutcome:
        """The smoothed classifier's label, or an Abstention; see `Prediction` for the guarantee.

        Args:
            timeout: seconds after which to give up; None: never.

        Raises:
            InvalidRequest, ModelNotFound, Infeasible, Overloaded, DeadlineExceeded, BackendFailed, Unavailable: see
                `certserve.errors`.
        """
        model = self._models.get(request.model)
        checks = Checks(model, self._limits, request.malformed)
        budgets, arithmetic = checks.budgets(request, model.bundle.defaults.predict_n)
        plan = checks.predict_plan(request.plan, budgets)
        image = checks.conclude(request.image, request.nonce, request.time_budget)
        question = _question("predict", model, image, request, budgets.sigma, plan, arithmetic)
        outcome: PredictOutcome = await self._answer(question, timeout, on_progress)
        return outcome

    async def certify(
        self,
        request: CertifyRequest,
        *,
        timeout: float | None = None,
        on_progress: Progress | None = None,
        on_better: OnBetter | None = None,
    ) -> CertifyOutcome:
        """A certificate, or an Abstention; see `Certificate` for the guarantee. Arguments and errors as `predict`.

        Args:
            on_better: told of the certificate at each look that improves it.
        """
        model = self._models.get(request.model)
        checks = Checks(model, self._limits, request.malformed)
        budgets, arithmetic = checks.budgets(request, model.bundle.defaults.n)
        plan = checks.certify_plan(request.plan, budgets)
        image = checks.conclude(request.image, request.nonce, request.time_budget)
        question = _question("certify", model, image, request, budgets.sigma, plan, arithmetic)
        outcome: CertifyOutcome = await self._answer(question, timeout, on_progress, on_better)
        return outcome

    async def certify_stream(
        self, request: CertifyRequest, *, timeout: float | None = None, on_progress: Progress | None = None
    ) -> AsyncGenerator[tuple[CertifyOutcome, bool]]:
        """Each better certificate as it comes, with False; then the outcome, with True. Errors as `certify`."""
        news: asyncio.Queue[Certificate | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(better: Certificate) -> None:
            loop.call_soon_threadsafe(news.put_nowait, better)

        task = asyncio.create_task(self.certify(request, timeout=timeout, on_progress=on_progress, on_better=tell))
        task.add_done_callback(lambda _: news.put_nowait(None))
        try:
            while (better := await news.get()) is not None:
                yield better, False
            yield await task, True
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

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
        timeout: float | None,
        on_progress: Progress | None,
        on_better: OnBetter | None = None,
    ) -> Any:
        ends = None if question.time_budget is None else time.monotonic() + question.time_budget
        plan, engine = question.plan, question.model.engine
        total = plan.n0 + plan.n
        sign = key.signed if (key := question.model.signing_key) else _unsigned
        if question.guard:
            require_detectors(question.model)
            question.model.questions.check_room(1)
        engine.check_admission(plan.n, plan.n0, timeout, first_look=_first_answer(question, on_better is not None))
        try:
            async with asyncio.timeout(timeout):
                with question.model.epochs.held() as secret:
                    pixels = await self._decode(question)
                    case = _case_of(question, pixels, secret)
                    decider = plan.begin(case)
                    try:
                        async with asyncio.timeout(_left(ends)):
                            rejected = await _rejected(question, case, pixels)
                    except TimeoutError:
                        return sign(decider.end("the time budget ended before the detectors had judged the image"))
                    if rejected is not None:
                        return sign(rejected)
                    job: Job[Any] = Job(
                        source=_source_of(question, case, pixels, secret),
                        n0=plan.n0,
                        looks=plan.looks,
                        decider=decider if on_better is None else _Telling(decider, on_better, sign),
                        on_progress=None if on_progress is None else lambda done: on_progress(done, total),
                    )
                    outcome = sign(await engine.run(job, _left(ends)))
        except TimeoutError:
            if timeout is None:
                raise
            raise DeadlineExceeded(f"No answer within {timeout:g} s; ask for fewer draws or allow more time.") from None
        if on_progress is not None:
            on_progress(total, total)
        return outcome

    async def _decode(self, question: _Question) -> Pixels:
        """The pixels that noise is added to: uint8 in grid arithmetic, float32 in float arithmetic."""
        try:
            if _is_quick(question):
                return _pixels_of(question, self._limits)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._decoder, _pixels_of, question, self._limits)
        except ImageError as error:
            raise InvalidRequest([Violation("image", str(error))]) from error


def _question(
    procedure: str,
    model: ServedModel,
    image: ImageInput,
    request: PredictRequest | CertifyRequest,
    sigma: float,
    plan: Plan,
    arithmetic: Arithmetic,
) -> _Question:
    return _Question(
        procedure,
        model,
        image,
        request.fit,
        sigma,
        plan,
        arithmetic,
        request.nonce,
        request.time_budget,
        request.guard,
    )


def _first_answer(question: _Question, streamed: bool) -> int:
    """The look at which an answer may come first: the last where the plan does not stop before and nobody listens."""
    plan = question.plan
    waits = isinstance(plan, Looks) and not plan.precision and question.time_budget is None and not streamed
    return plan.n if waits else plan.looks[0]


def _left(ends: float | None) -> float | None:
    """Seconds until then."""
    return None if ends is None else ends - time.monotonic()


async def _rejected(question: _Question, case: Case, pixels: Pixels) -> Rejected | None:
    """The rejection, where the detectors were to be asked and flag the image."""
    if not question.guard:
        return None
    verdict = await judge(question.model, pixels)
    return Rejected(verdict.detectors, case.setting, case.origin) if verdict.flagged else None


def _unsigned(outcome: Any) -> Any:
    return outcome


def _is_quick(question: _Question) -> bool:
    """Whether decoding, of what was checked, takes less than waiting for a thread on cores that are busy with draws."""
    image, fit = question.image, question.fit
    few_bytes = isinstance(image, RawImage) or (fit is ImageFit.EXACT and len(image.data) <= _FEW_BYTES)
    return few_bytes and math.prod(question.model.geometry.shape) <= _FEW_VALUES


def _pixels_of(question: _Question, limits: Limits) -> Pixels:
    pixels = images.decode(question.image, question.model.geometry, question.fit, limits)
    if question.arithmetic is Arithmetic.FLOAT:
        return pixels if pixels.dtype == np.float32 else (pixels / np.float32(LEVELS)).astype(np.float32)
    on_grid = pixels if pixels.dtype == np.uint8 else images.on_grid(pixels.astype(np.float32))
    if on_grid is None:
        raise ImageError("grid arithmetic needs multiples of 1/255")
    return on_grid


def _case_of(question: _Question, pixels: Pixels, secret: Secret) -> Case:
    model, plan = question.model, question.plan
    setting = Setting(
        sigma=question.sigma,
        n0=plan.n0,
        n=plan.n,
        alpha=plan.alpha,
        plan=plan.name,
        looks=() if plan.schedule.every else tuple(plan.looks),
        bound=plan.bound,
        arithmetic=question.arithmetic.value,
        stream=model.execution.stream(question.arithmetic),
        arithmetic_error=arithmetic_error(question.arithmetic, question.sigma, pixels.size),
        nonce=question.nonce.hex(),
        schedule=plan.schedule,
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
        commitment=secret.commitment,
        space=space,
    )
    return Case(setting, origin, model.bundle.labels)


def _source_of(question: _Question, case: Case, pixels: Pixels, secret: Secret) -> DrawSource:
    """The noisy copies, under the key that the whole question gives: the same question, the same draws.

    Everything that the answer depends on is in the key, so a changed question draws fresh noise. The time budget, which
    only ends the same looks earlier, is not; nor is the guard, which looks at the pixels alone and either leaves the
    votes as they are or nothing of them: in the key it would give whoever asks with and without it two draws of noise.
    """
    setting = case.setting
    schedule = setting.schedule
    key = secret.key(
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
            "looks": " ".join(map(str, setting.looks)),
            "every": schedule.every,
            "alphas": " ".join(map(float.hex, (*schedule.alphas, *schedule.runner_up_alphas))),
            "radii": " ".join(map(float.hex, schedule.radii)),
            "precision": schedule.precision,
            "nonce": question.nonce,
        }
    )
    return DrawSource(key, pixels, setting.sigma, question.arithmetic)
