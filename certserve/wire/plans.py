"""Plans, to and from protobuf."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.unknown_fields import UnknownFieldSet

from certserve.endpoints.plans import AnytimePlan, CertifyPlan, FixedPlan, LooksPlan, PredictPlan, TargetPlan
from certserve.errors import InvalidRequest, Violation
from certserve.smoothing.plans.plan import MOST_STEPS
from certserve.v1 import certserve_pb2 as pb

__all__ = ["certify_plan_from_wire", "plan_to_wire", "predict_plan_from_wire", "time_budget_from_wire"]

_LONGEST_BUDGET = 10_000 * 365 * 86_400.0  # seconds: what a Duration holds


def plan_to_wire(plan: CertifyPlan | PredictPlan, time_budget: float | None) -> pb.Plan:
    """Raises InvalidRequest: a number that the protocol cannot carry."""
    message = pb.Plan(time_budget=_duration(time_budget))
    if isinstance(plan, TargetPlan):
        message.target.CopyFrom(pb.TargetPlan(radius=plan.radius, grow=plan.grow))
    elif isinstance(plan, LooksPlan):
        if not all(-(1 << 63) <= look < 1 << 63 for look in plan.looks):
            raise InvalidRequest([Violation("plan.looks.looks", "must fit into 64 bits")])
        message.looks.CopyFrom(pb.LooksPlan(looks=plan.looks, precision=plan.precision))
    elif isinstance(plan, AnytimePlan):
        message.anytime.CopyFrom(pb.AnytimePlan())
    else:
        message.fixed.CopyFrom(pb.FixedPlan())
    return message


def certify_plan_from_wire(message: pb.CertifyRequest, wrong: list[Violation]) -> CertifyPlan:
    """The plan of a Certify; what is wrong with it is added to `wrong`."""
    kind = message.plan.WhichOneof("kind")
    target, looks = message.plan.target, message.plan.looks
    if len(target.grow) >= MOST_STEPS or len(looks.looks) > MOST_STEPS:  # before they are copied
        wrong.append(Violation("plan", f"may name at most {MOST_STEPS} looks or radii"))
        return FixedPlan()
    if kind == "target":
        return TargetPlan(target.radius, tuple(target.grow))
    if kind == "looks":
        return LooksPlan(tuple(looks.looks), looks.precision if looks.HasField("precision") else None)
    if kind == "anytime":
        wrong.append(Violation("plan", "AnytimePlan is for Predict; use FixedPlan, TargetPlan or LooksPlan"))
    elif kind is None:
        _check_kind(message.plan, wrong)
    return FixedPlan()


def predict_plan_from_wire(message: pb.PredictRequest, wrong: list[Violation]) -> PredictPlan:
    """The plan of a Predict; what is wrong with it is added to `wrong`."""
    kind = message.plan.WhichOneof("kind")
    if kind == "anytime":
        return AnytimePlan()
    if kind in ("target", "looks"):
        wrong.append(Violation("plan", "TargetPlan and LooksPlan are for Certify; use FixedPlan or AnytimePlan"))
    elif kind is None:
        _check_kind(message.plan, wrong)
    return FixedPlan()


def time_budget_from_wire(plan: pb.Plan) -> float | None:
    """Seconds; None where there is none."""
    return plan.time_budget.ToNanoseconds() / 1e9 if plan.HasField("time_budget") else None


def _check_kind(plan: pb.Plan, wrong: list[Violation]) -> None:
    """A plan without a kind is a time budget for the usual one, or of a kind that this version does not know."""
    if len(UnknownFieldSet(plan)):
        wrong.append(Violation("plan", "has a kind that this version does not know"))


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    if not -_LONGEST_BUDGET <= seconds <= _LONGEST_BUDGET:
        raise InvalidRequest([Violation("time_budget", f"must be a number of seconds, not {seconds!r}")])
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
