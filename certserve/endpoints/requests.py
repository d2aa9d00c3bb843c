"""What can be asked, and what is known of a model: plain values that every transport shares; no runtime."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import numpy as np

from certserve.bundle import Defaults
from certserve.endpoints.plans import AnytimePlan, CertifyPlan, FixedPlan, LooksPlan, PredictPlan, TargetPlan
from certserve.errors import Violation
from certserve.images import EncodedImage, ImageFit, ImageInput, RawImage
from certserve.noise.arithmetic import Arithmetic
from certserve.smoothing.outcomes import Bound

__all__ = [
    "AnyImage",
    "CertifyArguments",
    "CertifyRequest",
    "ExecutionInfo",
    "ModelInfo",
    "PredictArguments",
    "PredictRequest",
    "as_image",
]

AnyImage: TypeAlias = "ImageInput | bytes | str | os.PathLike[str] | np.ndarray[Any, Any]"
"""An encoded file's bytes or path, or an array of shape (channels, height, width), uint8 or float32 in [0, 1]."""


def as_image(image: AnyImage) -> ImageInput:
    """The image as a request carries it; files are read, nothing is decoded.

    Raises:
        OSError: the file cannot be read.
        TypeError: not an image in any of the forms of `AnyImage`.
    """
    if isinstance(image, EncodedImage | RawImage):
        return image
    if isinstance(image, bytes):
        return EncodedImage(image)
    if isinstance(image, str | os.PathLike):
        return EncodedImage(Path(image).read_bytes())
    if isinstance(image, np.ndarray):
        return RawImage(image)
    raise TypeError(f"expected an image as bytes, a path or a numpy array, not {type(image).__name__}")


def _normalise(request: PredictRequest | CertifyRequest, kinds: Mapping[str, Callable[[Any], Any]]) -> None:
    """Give every field its exact type, so that equal questions are one question, whatever Python type asked it.

    What cannot be converted is left out and named in `malformed`.
    """
    wrong = list(request.malformed)
    for name, convert in kinds.items():
        value = getattr(request, name)
        try:
            converted = None if value is None and name not in _REQUIRED else convert(value)
        except (TypeError, ValueError, OverflowError):
            wrong.append(Violation(name, f"{value!r:.100} is not {_EXPECTED[name]}"))
            converted = type(request).__dataclass_fields__[name].default
        object.__setattr__(request, name, converted)
    object.__setattr__(request, "malformed", tuple(wrong))


def _integer(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError("a truth value is no number of draws")
    return operator.index(value)


def _real(value: Any) -> float:
    if isinstance(value, bool | str | bytes):
        raise TypeError("not a number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value


def _bytes(value: Any) -> bytes:
    return bytes(memoryview(value))


def _one_of(*kinds: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, kinds):
            raise TypeError("not one of them")
        return value

    return check


_REQUIRED = frozenset({"model", "fit", "plan", "bound", "nonce"})
_EXPECTED = {
    "model": "a name",
    "fit": "one of " + ", ".join(ImageFit),
    "sigma": "a number",
    "n0": "a whole number",
    "n": "a whole number",
    "alpha": "a number",
    "plan": "a plan for this (FixedPlan, TargetPlan or LooksPlan to certify; FixedPlan or AnytimePlan to predict)",
    "bound": "one of " + ", ".join(Bound),
    "arithmetic": "one of " + ", ".join(Arithmetic),
    "time_budget": "a number of seconds",
    "nonce": "bytes",
}
_FIXED = FixedPlan()
_KINDS: Mapping[str, Callable[[Any], Any]] = {
    "model": _text,
    "fit": ImageFit,
    "sigma": _real,
    "n0": _integer,
    "n": _integer,
    "alpha": _real,
    "time_budget": _real,
    "arithmetic": Arithmetic,
    "nonce": _bytes,
}
_PREDICT_KINDS = {**_KINDS, "plan": _one_of(FixedPlan, AnytimePlan)}
_CERTIFY_KINDS = {**_KINDS, "plan": _one_of(FixedPlan, TargetPlan, LooksPlan), "bound": Bound}


class PredictArguments(TypedDict, total=False):
    """What may be said of a Predict besides its image; see `PredictRequest`."""

    model: str
    fit: ImageFit
    sigma: float | None
    n0: int | None
    n: int | None
    alpha: float | None
    plan: PredictPlan
    time_budget: float | None
    arithmetic: Arithmetic | None
    nonce: bytes


class CertifyArguments(TypedDict, total=False):
    """What may be said of a Certify besides its image; see `CertifyRequest`."""

    model: str
    fit: ImageFit
    sigma: float | None
    n0: int | None
    n: int | None
    alpha: float | None
    plan: CertifyPlan
    bound: Bound
    time_budget: float | None
    arithmetic: Arithmetic | None
    nonce: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest:
    """A question to the smoothed classifier; None means the model's default.

    Attributes:
        model: its name; empty for the default model.
        sigma: noise level in input units, one of the model's. n: draws. alpha: probability of a wrong label.
        plan: FixedPlan, or AnytimePlan, which takes n0 selection draws too.
        time_budget: seconds from receipt, > 0, after which the answer is `Undecided`; None: no limit.
        arithmetic: None: grid where the input allows it. nonce: at most 64 bytes; another one, another question.
        malformed: what the transport found wrong, to be named with everything else.
    """

    image: ImageInput | None
    model: str = ""
    fit: ImageFit = ImageFit.EXACT
    sigma: float | None = None
    n0: int | None = None
    n: int | None = None
    alpha: float | None = None
    plan: PredictPlan = _FIXED
    time_budget: float | None = None
    arithmetic: Arithmetic | None = None
    nonce: bytes = b""
    malformed: tuple[Violation, ...] = ()

    def __post_init__(self) -> None:
        _normalise(self, _PREDICT_KINDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifyRequest:
    """A question for a certificate; None means the model's default.

    Attributes:
        n0: selection draws. n: estimation draws. alpha: probability of a false certificate.
        plan: FixedPlan, TargetPlan or LooksPlan. bound: how the runner-up is bounded.
        time_budget: seconds from receipt, > 0, after which the answer is the best certificate of the completed looks,
            or `Undecided`; None: no limit.
        The rest as for `PredictRequest`.
    """

    image: ImageInput | None
    model: str = ""
    fit: ImageFit = ImageFit.EXACT
    sigma: float | None = None
    n0: int | None = None
    n: int | None = None
    alpha: float | None = None
    plan: CertifyPlan = _FIXED
    bound: Bound = Bound.BINARY
    time_budget: float | None = None
    arithmetic: Arithmetic | None = None
    nonce: bytes = b""
    malformed: tuple[Violation, ...] = ()

    def __post_init__(self) -> None:
        _normalise(self, _CERTIFY_KINDS)


@dataclass(frozen=True, slots=True)
class ExecutionInfo:
    """One way of running a model. `batch_shapes`: the numbers of rows it is run with, shown to be bit-equal."""

    name: str
    runtime: str
    precision: str
    device: str
    fingerprint: str
    batch_shapes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model being served; see the messages `Model`, `Defaults` and `Execution` of the protocol for units."""

    name: str
    version: str
    description: str
    labels: tuple[str, ...]
    shape: tuple[int, ...]
    colour: str
    resize: int
    sigmas: tuple[float, ...]
    defaults: Defaults
    largest_n: int
    execution: ExecutionInfo
    commitment: str
    public_key: bytes = b""
