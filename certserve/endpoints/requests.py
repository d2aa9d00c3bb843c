"""What can be asked, and what is known of a model: plain values that every transport shares; no runtime."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import numpy as np

from certserve.attacks.norms import Norm
from certserve.bundle import Defaults
from certserve.defences.preemptive.methods import Bilevel, CertMargin, Fast, How, Method
from certserve.endpoints.plans import AnytimePlan, CertifyPlan, FixedPlan, LooksPlan, PredictPlan, TargetPlan
from certserve.errors import InvalidRequest, Violation
from certserve.images import EncodedImage, ImageFit, ImageInput, RawImage
from certserve.noise.arithmetic import Arithmetic
from certserve.smoothing.outcomes import Bound

__all__ = [
    "AnyImage",
    "AnyImages",
    "CertifyArguments",
    "CertifyRequest",
    "DetectRequest",
    "DetectorInfo",
    "ExecutionInfo",
    "FittedImage",
    "MagnetInfo",
    "ModelInfo",
    "PredictArguments",
    "PredictRequest",
    "ReformRequest",
    "RobustifyArguments",
    "RobustifyRequest",
    "as_image",
    "as_images",
]

AnyImage: TypeAlias = "ImageInput | bytes | str | os.PathLike[str] | np.ndarray[Any, Any]"
"""An encoded file's bytes or path, or an array of shape (channels, height, width), uint8 or float32 in [0, 1]."""


AnyImages: TypeAlias = "AnyImage | Iterable[AnyImage]"
"""One image, or several; an array of four axes is several."""

Request: TypeAlias = "PredictRequest | CertifyRequest | DetectRequest | ReformRequest | RobustifyRequest"


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


@dataclass(frozen=True, slots=True)
class FittedImage:
    """One of several images, None where the message was wrong, and what to do with one of another size."""

    image: ImageInput | None
    fit: ImageFit = ImageFit.EXACT


def as_images(images: AnyImages, fit: ImageFit = ImageFit.EXACT) -> tuple[FittedImage, ...]:
    """One image or several as a request carries them.

    Raises:
        InvalidRequest: the fit is none. OSError, TypeError: as `as_image`.
    """
    if fit not in tuple(ImageFit):
        raise InvalidRequest([Violation("fit", f"{fit!r:.100} is not {_EXPECTED['fit']}")])
    several = isinstance(images, Iterable) and not isinstance(images, EncodedImage | RawImage | bytes | str)
    if isinstance(images, np.ndarray):
        several = images.ndim > 3
    listed: Any = images if several else (images,)
    return tuple(FittedImage(as_image(image), ImageFit(fit)) for image in listed)


def _normalise(request: Request, kinds: Mapping[str, Callable[[Any], Any]]) -> None:
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


def _truth(value: Any) -> bool:
    if value not in (True, False):
        raise TypeError("not a truth value")
    return bool(value)


def _bytes(value: Any) -> bytes:
    return bytes(memoryview(value))


def _one_of(*kinds: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, kinds):
            raise TypeError("not one of them")
        return value

    return check


def _method(value: Any) -> Method | How:
    return value if isinstance(value, CertMargin | Bilevel | Fast) else Method(value)


_REQUIRED = frozenset({"model", "fit", "plan", "bound", "nonce", "guard", "png", "norm", "method"})
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
    "guard": "True or False",
    "png": "True or False",
    "delta": "a number",
    "epsilon": "a number",
    "norm": "one of " + ", ".join(Norm),
    "method": "one of " + ", ".join(Method) + ", or the settings of one",
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
    "guard": _truth,
}
_PREDICT_KINDS = {**_KINDS, "plan": _one_of(FixedPlan, AnytimePlan)}
_CERTIFY_KINDS = {**_KINDS, "plan": _one_of(FixedPlan, TargetPlan, LooksPlan), "bound": Bound}
_ROBUSTIFY_KINDS = {
    **{name: kind for name, kind in _KINDS.items() if name not in ("time_budget", "arithmetic")},
    "bound": Bound,
    "delta": _real,
    "epsilon": _real,
    "norm": Norm,
    "method": _method,
}


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
    guard: bool


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
    guard: bool


class RobustifyArguments(TypedDict, total=False):
    """What may be said of a Robustify besides its image and delta; see `RobustifyRequest`."""

    epsilon: float | None
    norm: Norm
    method: Method | How
    model: str
    fit: ImageFit
    sigma: float | None
    n0: int | None
    n: int | None
    alpha: float | None
    bound: Bound
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
        guard: ask the model's detectors first, and where they flag the image draw nothing: the answer is `Rejected`.
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
    guard: bool = False
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
    guard: bool = False
    malformed: tuple[Violation, ...] = ()

    def __post_init__(self) -> None:
        _normalise(self, _CERTIFY_KINDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectRequest:
    """A question to the detectors: 1 to 256 images, the model's name (empty: the default one); see `PredictRequest`."""

    images: tuple[FittedImage, ...]
    model: str = ""
    malformed: tuple[Violation, ...] = ()

    def __post_init__(self) -> None:
        _normalise(self, {"model": _text})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReformRequest:
    """A question to the reformer: as `DetectRequest`; `png`: send the images as PNG files too."""

    images: tuple[FittedImage, ...]
    model: str = ""
    png: bool = False
    malformed: tuple[Violation, ...] = ()

    def __post_init__(self) -> None:
        _normalise(self, {"model": _text, "png": _truth})


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustifyRequest:
    """A question for an image near this one that is safer; None means the model's default.

    Attributes:
        delta: how far the image may be moved, in input units. epsilon: how far an adversary may move it afterwards;
            None: delta. norm: that bounds both.
        method: how to search, with the settings of `how_of` or with others.
        n0, n, alpha, bound: of the certificates before and after, by FixedPlan.
        The rest as for `PredictRequest`.
    """

    image: ImageInput | None
    delta: float | None = None
    epsilon: float | None = None
    norm: Norm = Norm.L2
    method: Method | How = Method.CERT_MARGIN
    model: str = ""
    fit: ImageFit = ImageFit.EXACT
    sigma: float | None = None
    n0: int | None = None
    n: int | None = None
    alpha: float | None = None
    bound: Bound = Bound.BINARY
    nonce: bytes = b""
    malformed: tuple[Violation, ...] = ()

    def __post_init__(self) -> None:
        _normalise(self, _ROBUSTIFY_KINDS)


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
class DetectorInfo:
    """A detector of a model: its name and its nominal false-positive rate."""

    name: str
    rate: float


@dataclass(frozen=True, slots=True)
class MagnetInfo:
    """What a model detects and reforms with: `rate` of all detectors together, the reformer's name or ""."""

    detectors: tuple[DetectorInfo, ...]
    rate: float
    reformer: str


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
    magnet: MagnetInfo | None = None
