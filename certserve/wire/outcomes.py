"""Outcomes, to and from protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from certserve.errors import InternalError
from certserve.noise.arithmetic import Arithmetic
from certserve.smoothing.outcomes import (
    Abstention,
    Certificate,
    CertifyOutcome,
    Origin,
    Prediction,
    PredictOutcome,
    Rejected,
    Schedule,
    Setting,
    Space,
    Undecided,
    Votes,
)
from certserve.v1 import certserve_pb2 as pb
from certserve.wire.magnet import detectors_from_wire, detectors_to_wire
from certserve.wire.requests import ARITHMETICS, BOUNDS

__all__ = [
    "certify_outcome_from_wire",
    "certify_outcome_to_wire",
    "predict_outcome_from_wire",
    "predict_outcome_to_wire",
]

Value = TypeVar("Value")

_NEWER = "The reply holds something that this version does not know; the server is newer: update certserve."


def predict_outcome_to_wire(outcome: PredictOutcome, seconds: float) -> pb.PredictResponse:
    """The reply to Predict; `seconds` is the time in the server."""
    message = pb.PredictResponse(seconds=seconds, signature=outcome.signature)
    if isinstance(outcome, Prediction):
        message.prediction.CopyFrom(_prediction_to_wire(outcome))
    elif isinstance(outcome, Abstention):
        message.abstention.CopyFrom(_abstention_to_wire(outcome))
    elif isinstance(outcome, Rejected):
        message.rejected.CopyFrom(_rejected_to_wire(outcome))
    else:
        message.undecided.CopyFrom(_undecided_to_wire(outcome))
    return message


def predict_outcome_from_wire(message: pb.PredictResponse) -> PredictOutcome:
    """The outcome in a reply to Predict.

    Raises:
        InternalError: the reply holds none, or something that this version does not know.
    """
    kind = message.WhichOneof("outcome")
    if kind == "prediction":
        return replace(_prediction_from_wire(message.prediction), signature=message.signature)
    if kind == "abstention":
        return replace(_abstention_from_wire(message.abstention), signature=message.signature)
    if kind == "undecided":
        return replace(_undecided_from_wire(message.undecided), signature=message.signature)
    if kind == "rejected":
        return replace(_rejected_from_wire(message.rejected), signature=message.signature)
    raise InternalError(_NEWER)


def certify_outcome_to_wire(outcome: CertifyOutcome, seconds: float, *, final: bool = True) -> pb.CertifyResponse:
    """A reply to Certify; `seconds` is the time in the server. `final`: none follows it."""
    message = pb.CertifyResponse(seconds=seconds, final=final, signature=outcome.signature)
    if isinstance(outcome, Certificate):
        message.certificate.CopyFrom(_certificate_to_wire(outcome))
    elif isinstance(outcome, Abstention):
        message.abstention.CopyFrom(_abstention_to_wire(outcome))
    elif isinstance(outcome, Rejected):
        message.rejected.CopyFrom(_rejected_to_wire(outcome))
    else:
        message.undecided.CopyFrom(_undecided_to_wire(outcome))
    return message


def certify_outcome_from_wire(message: pb.CertifyResponse) -> CertifyOutcome:
    """The outcome in a reply to Certify; errors as for `predict_outcome_from_wire`."""
    kind = message.WhichOneof("outcome")
    if kind == "certificate":
        return replace(_certificate_from_wire(message.certificate), signature=message.signature)
    if kind == "abstention":
        return replace(_abstention_from_wire(message.abstention), signature=message.signature)
    if kind == "undecided":
        return replace(_undecided_from_wire(message.undecided), signature=message.signature)
    if kind == "rejected":
        return replace(_rejected_from_wire(message.rejected), signature=message.signature)
    raise InternalError(_NEWER)


def _certificate_to_wire(certificate: Certificate) -> pb.Certificate:
    return pb.Certificate(
        label=certificate.label,
        label_name=certificate.label_name,
        radius=certificate.radius,
        norm=certificate.norm,
        p_lower=certificate.p_lower,
        selection=_votes_to_wire(certificate.selection),
        estimation=[_votes_to_wire(votes) for votes in certificate.estimation],
        setting=_setting_to_wire(certificate.setting),
        origin=_origin_to_wire(certificate.origin),
        statement=certificate.statement,
        p_upper=certificate.p_upper,
        log_e_values=certificate.log_e_values,
    )


def _certificate_from_wire(message: pb.Certificate) -> Certificate:
    return Certificate(
        label=message.label,
        label_name=message.label_name,
        radius=message.radius,
        norm=message.norm,
        p_lower=message.p_lower,
        selection=_votes_from_wire(message.selection),
        estimation=tuple(_votes_from_wire(votes) for votes in message.estimation),
        setting=_setting_from_wire(message.setting),
        origin=_origin_from_wire(message.origin),
        p_upper=message.p_upper if message.HasField("p_upper") else 1.0,
        log_e_values=tuple(message.log_e_values),
    )


def _prediction_to_wire(prediction: Prediction) -> pb.Prediction:
    return pb.Prediction(
        label=prediction.label,
        label_name=prediction.label_name,
        p_value=prediction.p_value,
        votes=_votes_to_wire(prediction.votes),
        setting=_setting_to_wire(prediction.setting),
        origin=_origin_to_wire(prediction.origin),
        statement=prediction.statement,
        selection=_votes_to_wire(prediction.selection),
        reselections=[_votes_to_wire(votes) for votes in prediction.reselections],
    )


def _prediction_from_wire(message: pb.Prediction) -> Prediction:
    return Prediction(
        label=message.label,
        label_name=message.label_name,
        p_value=message.p_value,
        votes=_votes_from_wire(message.votes),
        setting=_setting_from_wire(message.setting),
        origin=_origin_from_wire(message.origin),
        selection=_votes_from_wire(message.selection),
        reselections=tuple(_votes_from_wire(votes) for votes in message.reselections),
    )


def _abstention_to_wire(abstention: Abstention) -> pb.Abstention:
    return pb.Abstention(
        candidate=abstention.candidate,
        candidate_name=abstention.candidate_name,
        p_lower=abstention.p_lower,
        p_value=abstention.p_value,
        selection=_votes_to_wire(abstention.selection),
        estimation=[_votes_to_wire(votes) for votes in abstention.estimation],
        setting=_setting_to_wire(abstention.setting),
        origin=_origin_to_wire(abstention.origin),
        statement=abstention.statement,
        p_upper=abstention.p_upper,
        radius=abstention.radius,
    )


def _abstention_from_wire(message: pb.Abstention) -> Abstention:
    return Abstention(
        candidate=message.candidate,
        candidate_name=message.candidate_name,
        selection=_votes_from_wire(message.selection),
        estimation=tuple(_votes_from_wire(votes) for votes in message.estimation),
        setting=_setting_from_wire(message.setting),
        origin=_origin_from_wire(message.origin),
        p_lower=message.p_lower if message.HasField("p_lower") else None,
        p_value=message.p_value if message.HasField("p_value") else None,
        p_upper=message.p_upper if message.HasField("p_upper") else 1.0,
        radius=message.radius if message.HasField("radius") else 0.0,
    )


def _undecided_to_wire(undecided: Undecided) -> pb.Undecided:
    return pb.Undecided(
        reason=undecided.reason,
        setting=_setting_to_wire(undecided.setting),
        origin=_origin_to_wire(undecided.origin),
        statement=undecided.statement,
    )


def _undecided_from_wire(message: pb.Undecided) -> Undecided:
    return Undecided(message.reason, _setting_from_wire(message.setting), _origin_from_wire(message.origin))


def _rejected_to_wire(rejected: Rejected) -> pb.Rejected:
    return pb.Rejected(
        detectors=detectors_to_wire(rejected.detectors),
        setting=_setting_to_wire(rejected.setting),
        origin=_origin_to_wire(rejected.origin),
        statement=rejected.statement,
    )


def _rejected_from_wire(message: pb.Rejected) -> Rejected:
    if not message.detectors:
        raise InternalError("The reply holds a rejection of no detector.")
    detectors = detectors_from_wire(message.detectors)
    return Rejected(detectors, _setting_from_wire(message.setting), _origin_from_wire(message.origin))


def _votes_to_wire(votes: Votes) -> pb.Votes:
    return pb.Votes(counts=votes.counts, non_finite=votes.non_finite)


def _votes_from_wire(message: pb.Votes) -> Votes:
    return Votes(tuple(message.counts), message.non_finite)


def _setting_to_wire(setting: Setting) -> pb.Setting:
    return pb.Setting(
        sigma=setting.sigma,
        n0=setting.n0,
        n=setting.n,
        alpha=setting.alpha,
        plan=setting.plan,
        looks=setting.looks,
        bound=BOUNDS[setting.bound],
        arithmetic=ARITHMETICS[Arithmetic(setting.arithmetic)],
        stream=setting.stream,
        arithmetic_error=setting.arithmetic_error,
        nonce=setting.nonce,
        schedule=_schedule_to_wire(setting.schedule),
    )


def _setting_from_wire(message: pb.Setting) -> Setting:
    return Setting(
        sigma=message.sigma,
        n0=message.n0,
        n=message.n,
        alpha=message.alpha,
        plan=message.plan,
        looks=tuple(message.looks),
        bound=_known(BOUNDS, message.bound),
        arithmetic=_known(ARITHMETICS, message.arithmetic).value,
        stream=message.stream,
        arithmetic_error=message.arithmetic_error,
        nonce=message.nonce,
        schedule=_schedule_from_wire(message.schedule),
    )


def _schedule_to_wire(schedule: Schedule) -> pb.Schedule:
    return pb.Schedule(
        every=schedule.every,
        alphas=schedule.alphas,
        runner_up_alphas=schedule.runner_up_alphas,
        radii=schedule.radii,
        precision=schedule.precision,
    )


def _schedule_from_wire(message: pb.Schedule) -> Schedule:
    return Schedule(
        every=message.every,
        alphas=tuple(message.alphas),
        runner_up_alphas=tuple(message.runner_up_alphas),
        radii=tuple(message.radii),
        precision=message.precision if message.HasField("precision") else 0.0,
    )


def _known(values: Mapping[Value, Any], number: int) -> Value:
    """The value whose number it is.

    Raises:
        InternalError: this version has none.
    """
    for value, known in values.items():
        if known == number:
            return value
    raise InternalError(_NEWER)


def _origin_to_wire(origin: Origin) -> pb.Origin:
    space = origin.space
    return pb.Origin(
        model=origin.model,
        version=origin.version,
        execution=origin.execution,
        fingerprint=origin.fingerprint,
        commitment=origin.commitment,
        space=pb.Space(description=space.description, shape=space.shape, units=space.units, digest=space.digest),
    )


def _origin_from_wire(message: pb.Origin) -> Origin:
    space = message.space
    return Origin(
        model=message.model,
        version=message.version,
        execution=message.execution,
        fingerprint=message.fingerprint,
        commitment=message.commitment,
        space=Space(space.description, tuple(space.shape), space.units, space.digest),
    )
