"""Whether an outcome follows from its own numbers, and from the noise that it says it was drawn with."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from certserve.endpoints.local import LocalModel
from certserve.endpoints.plans import AnytimePlan, CertifyPlan, FixedPlan, LooksPlan, TargetPlan
from certserve.endpoints.requests import AnyImage
from certserve.endpoints.signatures import check_signature
from certserve.errors import VerificationFailed
from certserve.images import ImageFit
from certserve.noise.arithmetic import Arithmetic, arithmetic_error
from certserve.smoothing import verification
from certserve.smoothing.document import AnyOutcome
from certserve.smoothing.outcomes import Abstention, Certificate, Prediction, Rejected, Setting, Undecided
from certserve.smoothing.plans import Target

__all__ = ["verify", "verify_by_drawing"]

Settled: TypeAlias = Certificate | Prediction | Abstention | Rejected


def verify(outcome: AnyOutcome, *, public_key: bytes | None = None) -> tuple[str, ...]:
    """What was checked, a sentence each; the draws themselves are not repeated.

    The bound, the radius and the votes are recomputed by interval enclosures (`certserve.smoothing.verification`),
    d * eps from sigma, the arithmetic and the number of pixels.

    Args:
        public_key: demand the signature of the server with this Ed25519 key (32 bytes, as in `ModelInfo`); None: who
            answered is not asked.

    Raises:
        VerificationFailed: the outcome claims something that its numbers do not carry; all such claims. Or it is not
            signed with that key.
    """
    signed = () if public_key is None else (check_signature(outcome, public_key),)
    return (*signed, *_follows(outcome))


def _follows(outcome: AnyOutcome) -> tuple[str, ...]:
    if isinstance(outcome, Undecided):
        return verification.verify(outcome)
    setting, dimension = outcome.setting, math.prod(outcome.origin.space.shape)
    if setting.arithmetic not in tuple(Arithmetic):
        raise VerificationFailed([f"unknown arithmetic {setting.arithmetic!r}"])
    if min(outcome.origin.space.shape, default=0) < 1:
        raise VerificationFailed([f"there are no pixels of shape {outcome.origin.space.shape}"])
    try:
        needed = arithmetic_error(Arithmetic(setting.arithmetic), setting.sigma, dimension)
    except (OverflowError, ValueError) as error:
        raise VerificationFailed([f"there is no such noise: {error}"]) from error
    if setting.arithmetic_error < needed * (1.0 - 1e-9):
        raise VerificationFailed([f"d * eps is {setting.arithmetic_error!r}, but the noise needs at least {needed!r}"])
    checked = verification.verify(outcome)
    return (
        *checked,
        f"d * eps covers the {setting.arithmetic} noise of {dimension} pixels at sigma {setting.sigma:g}.",
    )


def verify_by_drawing(outcome: AnyOutcome, model: LocalModel, image: AnyImage, fit: ImageFit = ImageFit.EXACT) -> str:
    """Ask the outcome's question again, with the same noise, and compare every vote; what was found, in a sentence.

    Args:
        model: opened with the secret that the outcome was drawn with (`key_source`), and its execution.
        image: the image, as it was sent. fit: as it was asked for.

    Raises:
        VerificationFailed: another model, execution, secret, image or stream of noise; looks that this version takes
            elsewhere; or the answer is another one.
        CertserveError: as `LocalModel.certify`.
    """
    if isinstance(outcome, Undecided):
        return "Nothing is claimed, so nothing was drawn again."
    info = model.get_model()
    asked = {
        "fingerprint of the execution": (outcome.origin.fingerprint, info.execution.fingerprint),
        "commitment to the secret": (outcome.origin.commitment, info.commitment),
    }
    _compare(asked)
    _check_looks(outcome.setting)
    answers = _asked_again(outcome, model, image, fit)
    again = answers[-1]
    _compare(
        {
            "digest of the pixels": (outcome.origin.space.digest, again.origin.space.digest),
            "stream of the noise": (outcome.setting.stream, again.setting.stream),
        }
    )
    if outcome not in answers:
        raise VerificationFailed(["drawn again with the same noise, the votes or what they come to are others"])
    if isinstance(outcome, Rejected):
        return "Asked again, the detectors say the same, number by number."
    return "Drawn again with the same noise, every vote and every number is the same."


def _check_looks(setting: Setting) -> None:
    """A target looks at fixed draws, which another version of certserve may have had elsewhere."""
    if setting.plan != "target":
        return
    plan = Target(setting.schedule.radii[0], setting.n0, setting.n, setting.alpha)
    theirs, ours = setting.schedule.every, plan.schedule.every
    if theirs != ours:
        raise VerificationFailed(
            [f"its looks are {theirs} draws apart, this version's {ours}: draw it again with the version it came from"]
        )


def _asked_again(outcome: Settled, model: LocalModel, image: AnyImage, fit: ImageFit) -> list[AnyOutcome]:
    """All that the question gives: each better certificate on the way, and the outcome."""
    setting = outcome.setting
    common: dict[str, Any] = {
        "fit": fit,
        "sigma": setting.sigma,
        "n": setting.n,
        "alpha": setting.alpha,
        "arithmetic": Arithmetic(setting.arithmetic),
        "nonce": bytes.fromhex(setting.nonce),
        "guard": isinstance(outcome, Rejected),
    }
    if setting.plan == "fixed-predict":
        return [model.predict(image, **common)]
    common["n0"] = setting.n0
    if setting.plan == "anytime-predict":
        return [model.predict(image, plan=AnytimePlan(), **common)]
    return list(model.certify_stream(image, plan=_certify_plan(setting), bound=setting.bound, **common))


def _certify_plan(setting: Setting) -> CertifyPlan:
    if setting.plan == "target":
        return TargetPlan(setting.schedule.radii[0], setting.schedule.radii[1:])
    if setting.plan == "looks":
        return LooksPlan(setting.looks, setting.schedule.precision or None)
    return FixedPlan()


def _compare(pairs: dict[str, tuple[str, str]]) -> None:
    wrong = [f"the {name} is {theirs}, here {ours}" for name, (theirs, ours) in pairs.items() if theirs != ours]
    if wrong:
        raise VerificationFailed(wrong)
