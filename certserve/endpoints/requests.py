"""What can be asked, and what is known of a model: plain values that every transport shares; no runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import numpy as np

from certserve.attacks.norms import Norm
from certserve.bundle import Defaults
from certserve.defences.preemptive.methods import How, Method
from certserve.endpoints.fields import CERTIFY, DETECT, EXPECTED, PREDICT, REFORM, ROBUSTIFY, normalise
from certserve.endpoints.plans import CertifyPlan, FixedPlan, PredictPlan
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
    "Progress",
    "ReformRequest",
    "RobustifyArguments",
    "RobustifyRequest",
    "as_image",
    "as_images",
]

AnyImage: TypeAlias = "ImageInput | bytes | str | os.PathLike[str] | np.ndarray[Any, Any]"
"""An encoded file's bytes or path, or an array of shape (channels, height, width), uint8 or float32 in [0, 1]."""


Progress: TypeAlias = Callable[[int, int], None]
"""Told how much of a request's work has been done (draws; of Robustify passes too), and how much there is at most."""


AnyImages: TypeAlias = "AnyImage | Iterable[AnyImage]"
"""One image, or several; an array of four axes is several."""


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
        raise InvalidRequest([Violation("fit", f"{fit!r:.100} is not {EXPECTED['fit']}")])
    several = isinstance(images, Iterable) and not isinstance(images, EncodedImage | RawImage | bytes | str)
    if isinstance(images, np.ndarray):
        several = images.ndim > 3
    listed: Any = images if several else (images,)
    return tuple(FittedImage(as_image(image), ImageFit(fit)) for image in listed)


_FIXED = FixedPlan()


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
        normalise(self, PREDICT)


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
        normalise(self, CERTIFY)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectRequest:
    """A question to the detectors: 1 to 256 images, the model's name (empty: the default one); see `PredictRequest`."""

    images: tuple[FittedImage, ...]
    model: str = ""
    malformed: tuple[Violation, ...] = ()

    def __post_init__(self) -> None:
        normalise(self, DETECT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReformRequest:
    """A question to the reformer: as `DetectRequest`; `png`: send the images as PNG files too."""

    images: tuple[FittedImage, ...]
    model: str = ""
    png: bool = False
    malformed: tuple[Violation, ...] = ()

    def __post_init__(self) -> None:
        normalise(self, REFORM)


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
        normalise(self, ROBUSTIFY)


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
    robustify: bool = False
    largest_passes: int = 0
    surrogate: bool = False
