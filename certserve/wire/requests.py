"""Requests and models, to and from protobuf.

What a message gets wrong on its own (an unknown enum value, a tensor whose bytes do not fill its shape) travels in
the request's `malformed`, so that the endpoint can name it together with everything else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from certserve.bundle import Defaults
from certserve.endpoints.requests import (
    CertifyRequest,
    DetectorInfo,
    ExecutionInfo,
    MagnetInfo,
    ModelInfo,
    PredictRequest,
    RobustifyRequest,
)
from certserve.errors import InvalidRequest, Violation
from certserve.images import EncodedImage, ImageFit, ImageInput, RawImage
from certserve.noise.arithmetic import Arithmetic
from certserve.smoothing.outcomes import Bound
from certserve.v1 import certserve_pb2 as pb
from certserve.wire.plans import (
    certify_plan_from_wire,
    plan_to_wire,
    predict_plan_from_wire,
    time_budget_from_wire,
)

__all__ = [
    "ARITHMETICS",
    "BOUNDS",
    "FITS",
    "asked_image",
    "certify_request_from_wire",
    "certify_request_to_wire",
    "check_well_formed",
    "count_to_wire",
    "enum_from_wire",
    "image_from_wire",
    "image_to_wire",
    "model_from_wire",
    "model_to_wire",
    "predict_request_from_wire",
    "predict_request_to_wire",
]

Value = TypeVar("Value")

FITS: Mapping[ImageFit, Any] = {
    ImageFit.EXACT: pb.IMAGE_FIT_EXACT,
    ImageFit.RESIZE_CROP: pb.IMAGE_FIT_RESIZE_CROP,
}
ARITHMETICS: Mapping[Arithmetic, Any] = {
    Arithmetic.GRID: pb.ARITHMETIC_GRID,
    Arithmetic.FLOAT: pb.ARITHMETIC_FLOAT,
}
BOUNDS: Mapping[Bound, Any] = {Bound.BINARY: pb.BOUND_BINARY, Bound.TWO_CLASS: pb.BOUND_TWO_CLASS}

_DTYPES: dict[Any, np.dtype[Any]] = {pb.DATA_TYPE_UINT8: np.dtype("u1"), pb.DATA_TYPE_FLOAT32: np.dtype("<f4")}


def predict_request_to_wire(request: PredictRequest) -> pb.PredictRequest:
    """Raises InvalidRequest: the request is malformed, or holds an image or a number that the protocol cannot carry."""
    check_well_formed(request)
    return pb.PredictRequest(
        model=request.model,
        image=asked_image(request),
        sigma=request.sigma,
        n0=count_to_wire("n0", request.n0),
        n=count_to_wire("n", request.n),
        alpha=request.alpha,
        plan=plan_to_wire(request.plan, request.time_budget),
        arithmetic=_arithmetic_to_wire(request.arithmetic),
        nonce=request.nonce,
        guard=request.guard,
    )


def predict_request_from_wire(message: pb.PredictRequest) -> PredictRequest:
    """Never raises: what is wrong with the message is in `malformed`."""
    wrong: list[Violation] = []
    return PredictRequest(
        model=message.model,
        image=image_from_wire(message.image, wrong),
        fit=enum_from_wire("image.fit", message.image.fit, FITS, wrong) or ImageFit.EXACT,
        sigma=message.sigma if message.HasField("sigma") else None,
        n0=message.n0 if message.HasField("n0") else None,
        n=message.n if message.HasField("n") else None,
        alpha=message.alpha if message.HasField("alpha") else None,
        plan=predict_plan_from_wire(message, wrong),
        time_budget=time_budget_from_wire(message.plan),
        arithmetic=enum_from_wire("arithmetic", message.arithmetic, ARITHMETICS, wrong),
        nonce=message.nonce,
        guard=message.guard,
        malformed=tuple(wrong),
    )


def certify_request_to_wire(request: CertifyRequest) -> pb.CertifyRequest:
    """Raises InvalidRequest: as `predict_request_to_wire`."""
    check_well_formed(request)
    return pb.CertifyRequest(
        model=request.model,
        image=asked_image(request),
        sigma=request.sigma,
        n0=count_to_wire("n0", request.n0),
        n=count_to_wire("n", request.n),
        alpha=request.alpha,
        bound=BOUNDS[request.bound],
        plan=plan_to_wire(request.plan, request.time_budget),
        arithmetic=_arithmetic_to_wire(request.arithmetic),
        nonce=request.nonce,
        guard=request.guard,
    )


def certify_request_from_wire(message: pb.CertifyRequest) -> CertifyRequest:
    """Never raises: what is wrong with the message is in `malformed`."""
    wrong: list[Violation] = []
    return CertifyRequest(
        model=message.model,
        image=image_from_wire(message.image, wrong),
        fit=enum_from_wire("image.fit", message.image.fit, FITS, wrong) or ImageFit.EXACT,
        sigma=message.sigma if message.HasField("sigma") else None,
        n0=message.n0 if message.HasField("n0") else None,
        n=message.n if message.HasField("n") else None,
        alpha=message.alpha if message.HasField("alpha") else None,
        plan=certify_plan_from_wire(message, wrong),
        bound=enum_from_wire("bound", message.bound, BOUNDS, wrong) or Bound.BINARY,
        time_budget=time_budget_from_wire(message.plan),
        arithmetic=enum_from_wire("arithmetic", message.arithmetic, ARITHMETICS, wrong),
        nonce=message.nonce,
        guard=message.guard,
        malformed=tuple(wrong),
    )


def model_to_wire(info: ModelInfo) -> pb.Model:
    """The message `Model`."""
    defaults, execution = info.defaults, info.execution
    return pb.Model(
        name=info.name,
        version=info.version,
        description=info.description,
        labels=info.labels,
        shape=info.shape,
        colour=info.colour,
        resize=info.resize,
        sigmas=info.sigmas,
        defaults=pb.Defaults(
            sigma=defaults.sigma,
            n0=defaults.n0,
            n=defaults.n,
            alpha=defaults.alpha,
            predict_n=defaults.predict_n,
        ),
        largest_n=info.largest_n,
        execution=pb.Execution(
            name=execution.name,
            runtime=execution.runtime,
            precision=execution.precision,
            device=execution.device,
            fingerprint=execution.fingerprint,
            batch_shapes=execution.batch_shapes,
        ),
        commitment=info.commitment,
        public_key=info.public_key,
        magnet=_magnet_to_wire(info.magnet),
        robustify=info.robustify,
        largest_passes=info.largest_passes,
        surrogate=info.surrogate,
    )


def model_from_wire(message: pb.Model) -> ModelInfo:
    """The value that `model_to_wire` took."""
    defaults, execution = message.defaults, message.execution
    return ModelInfo(
        name=message.name,
        version=message.version,
        description=message.description,
        labels=tuple(message.labels),
        shape=tuple(message.shape),
        colour=message.colour,
        resize=message.resize,
        sigmas=tuple(message.sigmas),
        defaults=Defaults(defaults.sigma, defaults.n0, defaults.n, defaults.alpha, defaults.predict_n),
        largest_n=message.largest_n,
        execution=ExecutionInfo(
            name=execution.name,
            runtime=execution.runtime,
            precision=execution.precision,
            device=execution.device,
            fingerprint=execution.fingerprint,
            batch_shapes=tuple(execution.batch_shapes),
        ),
        commitment=message.commitment,
        public_key=message.public_key,
        magnet=_magnet_from_wire(message.magnet) if message.HasField("magnet") else None,
        robustify=message.robustify,
        largest_passes=message.largest_passes,
        surrogate=message.surrogate,
    )


def _magnet_to_wire(magnet: MagnetInfo | None) -> pb.Magnet | None:
    if magnet is None:
        return None
    detectors = [pb.Detector(name=detector.name, rate=detector.rate) for detector in magnet.detectors]
    return pb.Magnet(detectors=detectors, rate=magnet.rate, reformer=magnet.reformer)


def _magnet_from_wire(message: pb.Magnet) -> MagnetInfo:
    detectors = tuple(DetectorInfo(detector.name, detector.rate) for detector in message.detectors)
    return MagnetInfo(detectors, message.rate, message.reformer)


def image_to_wire(image: ImageInput | None, fit: ImageFit, field: str = "image") -> pb.Image:
    """The message `Image`; empty for None.

    Raises:
        InvalidRequest: the protocol cannot carry it; `field` says which it is.
    """
    if image is None:
        return pb.Image()
    if isinstance(image, EncodedImage):
        return pb.Image(encoded=image.data, fit=FITS[fit])
    for dtype, known in _DTYPES.items():
        if image.pixels.dtype == known:
            data = np.ascontiguousarray(image.pixels, dtype=known).tobytes()
            return pb.Image(tensor=pb.Tensor(data=data, shape=image.pixels.shape, dtype=dtype), fit=FITS[fit])
    raise InvalidRequest([Violation(field, f"expected uint8 or float32 pixels, not {image.pixels.dtype}")])


def image_from_wire(message: pb.Image, wrong: list[Violation], field: str = "image") -> ImageInput | None:
    """The image; None where there is none, or one that is wrong, of which `wrong` is told."""
    source = message.WhichOneof("source")
    if source == "encoded":
        return EncodedImage(message.encoded)
    if source == "tensor":
        return _tensor_from_wire(message.tensor, wrong, f"{field}.tensor")
    return None


def _tensor_from_wire(tensor: pb.Tensor, wrong: list[Violation], field: str) -> RawImage | None:
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        wrong.append(Violation(f"{field}.dtype", "must be UINT8 or FLOAT32"))
        return None
    if len(tensor.shape) != 3 or min(tensor.shape) < 1:
        shape = list(tensor.shape) if len(tensor.shape) <= 8 else f"{len(tensor.shape)} numbers"
        wrong.append(Violation(f"{field}.shape", f"expected [channels, height, width], not {shape}"))
        return None
    expected = math.prod(tensor.shape) * dtype.itemsize
    if len(tensor.data) != expected:
        description = f"has {len(tensor.data)} bytes; a tensor of shape {list(tensor.shape)} has {expected}"
        wrong.append(Violation(f"{field}.data", description))
        return None
    return RawImage(np.frombuffer(tensor.data, dtype=dtype).reshape(tensor.shape))


def asked_image(request: PredictRequest | CertifyRequest | RobustifyRequest) -> pb.Image | None:
    """The request's image; errors as `image_to_wire`."""
    return None if request.image is None else image_to_wire(request.image, request.fit)


def check_well_formed(request: PredictRequest | CertifyRequest | RobustifyRequest) -> None:
    """Accept a request with nothing malformed.

    Raises:
        InvalidRequest: a value could not be converted and was left out: sending the rest would ask another question.
    """
    if request.malformed:
        raise InvalidRequest(request.malformed)


def count_to_wire(field: str, number: int | None) -> int | None:
    """The number, if the protocol can carry it.

    Raises:
        InvalidRequest: it does not fit into 64 bits.
    """
    if number is not None and not -(1 << 63) <= number < 1 << 63:
        raise InvalidRequest([Violation(field, "must fit into 64 bits")])
    return number


def _arithmetic_to_wire(arithmetic: Arithmetic | None) -> Any:
    return pb.ARITHMETIC_UNSPECIFIED if arithmetic is None else ARITHMETICS[arithmetic]


def enum_from_wire(field: str, number: int, values: Mapping[Value, Any], wrong: list[Violation]) -> Value | None:
    """The value whose number it is; None for 0, which means that the caller left it out, and for an unknown one."""
    for value, known in values.items():
        if number == known:
            return value
    if number:
        wrong.append(Violation(field, f"{number} is no value that this version knows"))
    return None
