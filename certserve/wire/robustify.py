"""Robustify, to and from protobuf."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from certserve.attacks.norms import Norm
from certserve.defences.preemptive.methods import Bilevel, Budget, CertMargin, Fast, How, Method, Qualities
from certserve.endpoints.answers import Robustified
from certserve.endpoints.requests import RobustifyRequest
from certserve.errors import InternalError, Violation
from certserve.images import ImageFit, RawImage
from certserve.smoothing.outcomes import Abstention, Bound, Prediction, PredictOutcome
from certserve.v1 import certserve_pb2 as pb
from certserve.wire.outcomes import (
    certify_outcome_from_wire,
    certify_outcome_to_wire,
    predict_outcome_from_wire,
    predict_outcome_to_wire,
)
from certserve.wire.requests import (
    BOUNDS,
    FITS,
    asked_image,
    check_well_formed,
    count_to_wire,
    enum_from_wire,
    image_from_wire,
    image_to_wire,
)

__all__ = [
    "progress_to_wire",
    "robustified_from_wire",
    "robustified_to_wire",
    "robustify_request_from_wire",
    "robustify_request_to_wire",
]

_NORMS: Mapping[Norm, Any] = {Norm.L2: pb.NORM_L2, Norm.LINF: pb.NORM_LINF}
_SEARCHES: Mapping[str, type[CertMargin] | type[Bilevel] | type[Fast]] = {
    "cert_margin": CertMargin,
    "bilevel": Bilevel,
    "fast": Fast,
}


def robustify_request_to_wire(request: RobustifyRequest) -> pb.RobustifyRequest:
    """Raises InvalidRequest: the request is malformed, or holds an image or a number that the protocol cannot carry."""
    check_well_formed(request)
    return pb.RobustifyRequest(
        model=request.model,
        image=asked_image(request),
        delta=request.delta,
        epsilon=request.epsilon,
        norm=_NORMS[request.norm],
        method=_search_to_wire(request.method),
        sigma=request.sigma,
        n0=count_to_wire("n0", request.n0),
        n=count_to_wire("n", request.n),
        alpha=request.alpha,
        bound=BOUNDS[request.bound],
        nonce=request.nonce,
    )


def robustify_request_from_wire(message: pb.RobustifyRequest) -> RobustifyRequest:
    """Never raises: what is wrong with the message is in `malformed`."""
    wrong: list[Violation] = []
    return RobustifyRequest(
        model=message.model,
        image=image_from_wire(message.image, wrong),
        fit=enum_from_wire("image.fit", message.image.fit, FITS, wrong) or ImageFit.EXACT,
        delta=message.delta if message.HasField("delta") else None,
        epsilon=message.epsilon if message.HasField("epsilon") else None,
        norm=enum_from_wire("norm", message.norm, _NORMS, wrong) or Norm.L2,
        method=_search_from_wire(message.method, wrong),
        sigma=message.sigma if message.HasField("sigma") else None,
        n0=message.n0 if message.HasField("n0") else None,
        n=message.n if message.HasField("n") else None,
        alpha=message.alpha if message.HasField("alpha") else None,
        bound=enum_from_wire("bound", message.bound, BOUNDS, wrong) or Bound.BINARY,
        nonce=message.nonce,
        malformed=tuple(wrong),
    )


def robustified_to_wire(found: Robustified, seconds: float) -> pb.RobustifyResponse:
    """The reply to Robustify; `seconds` is the time in the server."""
    return pb.RobustifyResponse(
        png=found.png,
        tensor=image_to_wire(RawImage(found.pixels), ImageFit.EXACT).tensor,
        l2=found.l2,
        linf=found.linf,
        norm=_NORMS[found.budget.norm],
        delta=found.budget.delta,
        epsilon=found.budget.epsilon,
        method=_search_to_wire(found.method),
        predicted_before=predict_outcome_to_wire(found.predicted_before, 0.0),
        predicted_after=predict_outcome_to_wire(found.predicted_after, 0.0),
        before=certify_outcome_to_wire(found.before, 0.0),
        after=certify_outcome_to_wire(found.after, 0.0),
        label_kept=found.label_kept,
        judged_safe=found.judged_safe,
        seconds=seconds,
        success=found.success,
        radius_before=found.radius_before,
        radius_after=found.radius_after,
        uplift_efficiency=found.uplift_efficiency,
        passes=found.passes,
    )


def robustified_from_wire(message: pb.RobustifyResponse) -> Robustified:
    """What a reply to Robustify says; what follows from its outcomes is not read.

    Raises:
        InternalError: the reply lacks something, or holds something that this version does not know.
    """
    wrong: list[Violation] = []
    norm = enum_from_wire("norm", message.norm, _NORMS, wrong) or Norm.L2
    how = _search_from_wire(message.method, wrong)
    pixels = _pixels(message.tensor, wrong)
    try:
        budget = Budget(norm=norm, delta=message.delta, epsilon=message.epsilon)
    except ValueError as error:
        raise InternalError(f"The reply is none: {error}.") from error
    if wrong or isinstance(how, Method):
        raise InternalError("The reply holds something that this version does not know, or lacks its method.")
    return Robustified(
        pixels=pixels,
        png=message.png,
        budget=budget,
        method=how,
        l2=message.l2,
        linf=message.linf,
        predicted_before=_predicted(message.predicted_before),
        predicted_after=_predicted(message.predicted_after),
        before=certify_outcome_from_wire(message.before),
        after=certify_outcome_from_wire(message.after),
        judged_safe=message.judged_safe,
        passes=message.passes,
    )


def progress_to_wire(done: int, planned: int) -> pb.RobustifyStreamResponse:
    """A reply that says how far it is."""
    return pb.RobustifyStreamResponse(progress=pb.RobustifyProgress(done=done, planned=planned))


def _search_to_wire(method: Method | How) -> pb.Search:
    for kind, settings in _SEARCHES.items():
        if method is settings.method:
            return pb.Search(**{kind: getattr(pb.Search(), kind)})
        if isinstance(method, settings):
            given = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
            checked = {key: _setting_to_wire(value) for key, value in given.items()}
            search = pb.Search()
            part = getattr(search, kind)
            part.CopyFrom(type(part)(**checked))
            return search
    raise AssertionError(f"{method!r} is no way to search")


def _setting_to_wire(value: float | Qualities | None) -> Any:
    if isinstance(value, Qualities):
        bounds = (count_to_wire("method", value.lowest), count_to_wire("method", value.highest))
        return pb.JpegQualities(lowest=bounds[0], highest=bounds[1])
    return count_to_wire("method", value) if isinstance(value, int) else value


def _setting_from_wire(value: Any) -> Any:
    """Raises ValueError: qualities out of their range."""
    return Qualities(value.lowest, value.highest) if isinstance(value, pb.JpegQualities) else value


def _search_from_wire(message: pb.Search, wrong: list[Violation]) -> Method | How:
    """The search; the default one where there is none, or one that is wrong, of which `wrong` is told."""
    kind = message.WhichOneof("kind")
    if kind is None:
        return Method.CERT_MARGIN
    settings = _SEARCHES[kind]
    try:
        said = {field.name: _setting_from_wire(value) for field, value in getattr(message, kind).ListFields()}
        return settings(**said) if said else settings.method
    except ValueError as error:
        wrong.append(Violation("method", str(error)))
        return settings.method


def _predicted(message: pb.PredictResponse) -> PredictOutcome:
    outcome = predict_outcome_from_wire(message)
    if not isinstance(outcome, Prediction | Abstention):
        raise InternalError("The reply holds a prediction that leaves no label to keep.")
    return outcome


def _pixels(tensor: pb.Tensor, wrong: list[Violation]) -> npt.NDArray[np.uint8]:
    image = image_from_wire(pb.Image(tensor=tensor), wrong)
    if not isinstance(image, RawImage) or image.pixels.dtype != np.uint8:
        raise InternalError("The reply holds an image that is none.")
    return np.array(image.pixels, dtype=np.uint8)  # bytes of a message cannot be written to
