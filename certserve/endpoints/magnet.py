"""Detect and Reform: images in, verdicts or reformed images out, whatever carries them. No guarantee follows.

As for Predict and Certify: everything wrong is named at once; then admission; only then are images decoded. Checks and
decoding run in the decoder's threads, the networks on the device's.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from certserve import images
from certserve.defences.questions import DetectQuestion, ReformedImages, ReformQuestion
from certserve.endpoints.answers import Answer, Reformation
from certserve.endpoints.models import Models, ServedModel
from certserve.endpoints.requests import DetectRequest, FittedImage, ReformRequest
from certserve.errors import DeadlineExceeded, Infeasible, InvalidRequest, Violation
from certserve.images import ImageError, Limits, RawImage, encode_png
from certserve.noise.grid import LEVELS
from certserve.smoothing.verdicts import Verdict

__all__ = ["LARGEST_BATCH", "MagnetEndpoints", "as_floats", "judge", "require_detectors"]

LARGEST_BATCH = 256
"""Images in a request."""

Pixels = npt.NDArray[np.float32]
Result = TypeVar("Result")

_PIECE = 32  # images asked about at once
_LARGEST_REPLY = 32 << 20  # bytes of float32 pixels
_NAMED = 8  # wrong images that are described; of more, only which they are: errors travel in headers of 8 kB


class MagnetEndpoints:
    """The endpoints of detectors and reformers.

    Args:
        models: what is served. decoder: a small pool that checks and decodes images. limits: what an image may be.
    """

    def __init__(self, models: Models, decoder: ThreadPoolExecutor, limits: Limits) -> None:
        self._models = models
        self._decoder = decoder
        self._limits = limits

    async def detect(self, request: DetectRequest, *, timeout: float | None = None) -> tuple[Verdict, ...]:
        """A verdict an image.

        Args:
            timeout: seconds after which to give up; None: never.

        Raises:
            Infeasible: the model has no detectors. InvalidRequest, ModelNotFound, Overloaded, DeadlineExceeded,
                BackendFailed, Unavailable: see `certserve.errors`.
        """
        model = self._models.get(request.model)
        require_detectors(model)
        _, answers = await self._answered(model, request, LARGEST_BATCH, DetectQuestion, timeout)
        return tuple(verdict for answer in answers for verdict in answer)

    async def reform(self, request: ReformRequest, *, timeout: float | None = None) -> tuple[Reformation, ...]:
        """Each image after the reformer, and the base classifier's answers. Arguments and errors as `detect`."""
        model = self._models.get(request.model)
        if not require_detectors(model).reformer:
            raise Infeasible(f"{model.bundle.name} has detectors but no reformer; {_make_one(model)}.")
        most = max(1, min(LARGEST_BATCH, _LARGEST_REPLY // (4 * math.prod(model.bundle.shape))))
        pixels, answers = await self._answered(model, request, most, ReformQuestion, timeout)
        return await self._aside(_reformations, model, pixels, answers, request.png)

    async def _answered(
        self,
        model: ServedModel,
        request: DetectRequest | ReformRequest,
        most: int,
        question: Callable[[Pixels], object],
        timeout: float | None,
    ) -> tuple[Pixels, list[Any]]:
        """The images' pixels, and the answers to the questions about them, piece by piece."""
        model.questions.check_room(0)
        try:
            async with asyncio.timeout(timeout):
                await self._aside(_check, model, request, most, self._limits)
                model.questions.check_room(len(request.images))
                pixels = await self._aside(_decoded, model, request.images, self._limits)
                pieces = [question(pixels[i : i + _PIECE]) for i in range(0, len(pixels), _PIECE)]
                return pixels, await model.questions.ask(pieces, len(pixels))
        except TimeoutError:
            if timeout is None:
                raise
            raise DeadlineExceeded(f"No answer within {timeout:g} s; send fewer images or allow more time.") from None

    async def _aside(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._decoder, function, *arguments)


def require_detectors(model: ServedModel) -> Any:
    """The bundle's MagNet.

    Raises:
        Infeasible: it has none; how to make it.
    """
    if model.bundle.magnet is None:
        raise Infeasible(f"{model.bundle.name} has no MagNet, so it can neither detect nor reform; {_make_one(model)}.")
    return model.bundle.magnet


async def judge(model: ServedModel, pixels: npt.NDArray[Any]) -> Verdict:
    """What the model's detectors say of one image; errors as `MagnetEndpoints.detect`."""
    (verdicts,) = await model.questions.ask([DetectQuestion(as_floats(pixels)[None])], 1)
    (verdict,) = verdicts
    assert isinstance(verdict, Verdict)
    return verdict


def as_floats(pixels: npt.NDArray[Any]) -> Pixels:
    """Pixels in [0, 1], float32: what is uint8 is divided by 255."""
    if pixels.dtype == np.float32:
        return pixels
    found: Pixels = np.divide(pixels, np.float32(LEVELS), dtype=np.float32)
    return found


def _make_one(model: ServedModel) -> str:
    return "make one with `certserve train magnet`, and serve the bundle again"


def _check(model: ServedModel, request: DetectRequest | ReformRequest, most: int, limits: Limits) -> None:
    """Raises InvalidRequest: everything that is wrong with the request."""
    wrong = list(request.malformed)
    count = len(request.images)
    if not 1 <= count <= most:
        why = "" if most == LARGEST_BATCH else f", whose pixels would not fit into one reply of {_LARGEST_REPLY} bytes"
        wrong.append(Violation("images", f"must be 1 to {most}, not {count}{why}"))
        raise InvalidRequest(wrong[: _NAMED + 1])
    for i, item in enumerate(request.images):
        name = f"images[{i}]"
        if item.image is not None:
            wrong += [Violation(name, text) for text in images.check(item.image, model.geometry, item.fit, limits)]
        elif not any(violation.field.startswith(name) for violation in request.malformed):
            wrong.append(Violation(name, "is missing; send an encoded image or a tensor"))
    _conclude(wrong)


def _decoded(model: ServedModel, wanted: Sequence[FittedImage], limits: Limits) -> Pixels:
    """The pixels as the model takes them, (images, *shape).

    Raises:
        InvalidRequest: files that are truncated or corrupt; all of them.
    """
    found = np.empty((len(wanted), *model.bundle.shape), dtype=np.float32)
    wrong = []
    for i, item in enumerate(wanted):
        assert item.image is not None
        try:
            found[i] = as_floats(images.decode(item.image, model.geometry, item.fit, limits))
        except ImageError as error:
            wrong.append(Violation(f"images[{i}]", str(error)))
    _conclude(wrong)
    return found


def _conclude(wrong: list[Violation]) -> None:
    if len(wrong) > _NAMED:
        more = list(dict.fromkeys(violation.field for violation in wrong[_NAMED:]))
        wrong = [*wrong[:_NAMED], Violation("images", f"are wrong in {len(more)} more places: {', '.join(more)}"[:300])]
    if wrong:
        raise InvalidRequest(wrong)


def _reformations(
    model: ServedModel, pixels: Pixels, answers: Sequence[ReformedImages], png: bool
) -> tuple[Reformation, ...]:
    """Each image with what became of it."""
    labels = model.bundle.labels
    after = np.concatenate([answer.pixels for answer in answers])
    changes = after.astype(np.float64) - pixels
    sizes = zip(np.sqrt((changes**2).sum(axis=(1, 2, 3))), np.abs(changes).max(axis=(1, 2, 3)), strict=True)
    answered = [pair for answer in answers for pair in zip(answer.before, answer.after, strict=True)]
    return tuple(
        Reformation(
            image=RawImage(image),
            png=_png(image, model.bundle.colour) if png else b"",
            before=Answer(int(first), labels[int(first)]),
            after=Answer(int(second), labels[int(second)]),
            l2=float(l2),
            linf=float(linf),
        )
        for image, (first, second), (l2, linf) in zip(after, answered, sizes, strict=True)
    )


def _png(image: Pixels, colour: str) -> bytes:
    return encode_png(np.rint(image * np.float32(LEVELS)).astype(np.uint8), colour)
