"""Detect and Reform, to and from protobuf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from certserve.endpoints.answers import Answer, Reformation
from certserve.endpoints.requests import DetectRequest, FittedImage, ReformRequest
from certserve.errors import InternalError, InvalidRequest, Violation
from certserve.images import ImageFit, RawImage
from certserve.smoothing.verdicts import DetectorVerdict, Verdict
from certserve.v1 import certserve_pb2 as pb
from certserve.wire.requests import FITS, enum_from_wire, image_from_wire, image_to_wire

__all__ = [
    "detect_request_from_wire",
    "detect_request_to_wire",
    "detectors_from_wire",
    "detectors_to_wire",
    "reform_request_from_wire",
    "reform_request_to_wire",
    "reformations_from_wire",
    "reformations_to_wire",
    "verdicts_from_wire",
    "verdicts_to_wire",
]


def detect_request_to_wire(request: DetectRequest) -> pb.DetectRequest:
    """Raises InvalidRequest: the request is malformed, or holds an image that the protocol cannot carry."""
    return pb.DetectRequest(model=request.model, images=_images_to_wire(request))


def detect_request_from_wire(message: pb.DetectRequest) -> DetectRequest:
    """Never raises: what is wrong with the message is in `malformed`."""
    wrong: list[Violation] = []
    images = _images_from_wire(message.images, wrong)
    return DetectRequest(images=images, model=message.model, malformed=tuple(wrong))


def reform_request_to_wire(request: ReformRequest) -> pb.ReformRequest:
    """Raises InvalidRequest: as `detect_request_to_wire`."""
    return pb.ReformRequest(model=request.model, images=_images_to_wire(request), png=request.png)


def reform_request_from_wire(message: pb.ReformRequest) -> ReformRequest:
    """Never raises: what is wrong with the message is in `malformed`."""
    wrong: list[Violation] = []
    images = _images_from_wire(message.images, wrong)
    return ReformRequest(images=images, model=message.model, png=message.png, malformed=tuple(wrong))


def verdicts_to_wire(verdicts: Sequence[Verdict], seconds: float) -> pb.DetectResponse:
    """The reply to Detect; `seconds` is the time in the server."""
    messages = [
        pb.Verdict(
            detectors=detectors_to_wire(verdict.detectors),
            flagged=verdict.flagged,
            p_value=verdict.p_value,
            rate=verdict.rate,
            statement=verdict.statement,
        )
        for verdict in verdicts
    ]
    return pb.DetectResponse(verdicts=messages, seconds=seconds)


def verdicts_from_wire(message: pb.DetectResponse) -> tuple[Verdict, ...]:
    """The verdicts in a reply to Detect; what follows from the detectors' is not read.

    Raises:
        InternalError: a verdict has no detector.
    """
    if not all(verdict.detectors for verdict in message.verdicts):
        raise InternalError("The reply holds a verdict of no detector.")
    return tuple(Verdict(detectors_from_wire(verdict.detectors)) for verdict in message.verdicts)


def detectors_to_wire(detectors: Sequence[DetectorVerdict]) -> list[pb.DetectorVerdict]:
    """What each detector says."""
    return [
        pb.DetectorVerdict(
            name=detector.name,
            score=detector.score,
            threshold=detector.threshold,
            p_value=detector.p_value,
            flagged=detector.flagged,
            rate=detector.rate,
            validation_images=detector.validation_images,
        )
        for detector in detectors
    ]


def detectors_from_wire(messages: Sequence[pb.DetectorVerdict]) -> tuple[DetectorVerdict, ...]:
    """The values that `detectors_to_wire` took."""
    return tuple(
        DetectorVerdict(m.name, m.score, m.threshold, m.p_value, m.flagged, m.rate, m.validation_images)
        for m in messages
    )


def reformations_to_wire(reformations: Sequence[Reformation], seconds: float) -> pb.ReformResponse:
    """The reply to Reform; `seconds` is the time in the server."""
    messages = [
        pb.Reformation(
            tensor=image_to_wire(found.image, ImageFit.EXACT).tensor,
            png=found.png,
            before=pb.Answer(label=found.before.label, label_name=found.before.label_name),
            after=pb.Answer(label=found.after.label, label_name=found.after.label_name),
            l2=found.l2,
            linf=found.linf,
        )
        for found in reformations
    ]
    return pb.ReformResponse(reformations=messages, seconds=seconds)


def reformations_from_wire(message: pb.ReformResponse) -> tuple[Reformation, ...]:
    """The reformations in a reply to Reform.

    Raises:
        InternalError: an image in it is none.
    """
    return tuple(
        Reformation(
            image=_reformed_from_wire(found.tensor),
            png=found.png,
            before=Answer(found.before.label, found.before.label_name),
            after=Answer(found.after.label, found.after.label_name),
            l2=found.l2,
            linf=found.linf,
        )
        for found in message.reformations
    )


def _reformed_from_wire(tensor: pb.Tensor) -> RawImage:
    image = image_from_wire(pb.Image(tensor=tensor), [], "image")
    if not isinstance(image, RawImage):
        raise InternalError("The reply holds an image that is none.")
    return RawImage(np.array(image.pixels))  # bytes of a message cannot be written to


def _images_to_wire(request: DetectRequest | ReformRequest) -> list[pb.Image]:
    if request.malformed:
        raise InvalidRequest(request.malformed)
    return [image_to_wire(item.image, item.fit, f"images[{i}]") for i, item in enumerate(request.images)]


def _images_from_wire(messages: Sequence[Any], wrong: list[Violation]) -> tuple[FittedImage, ...]:
    found = []
    for i, message in enumerate(messages):
        name = f"images[{i}]"
        fit = enum_from_wire(f"{name}.fit", message.fit, FITS, wrong) or ImageFit.EXACT
        found.append(FittedImage(image_from_wire(message, wrong, name), fit))
    return tuple(found)
