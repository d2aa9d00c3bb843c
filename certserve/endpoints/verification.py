"""Whether an outcome follows from its own numbers, the noise's claim about itself included."""

from __future__ import annotations

import math

from certserve.errors import VerificationFailed
from certserve.noise.arithmetic import Arithmetic, arithmetic_error
from certserve.smoothing import verification
from certserve.smoothing.document import AnyOutcome
from certserve.smoothing.outcomes import Undecided

__all__ = ["verify"]


def verify(outcome: AnyOutcome) -> tuple[str, ...]:
    """What was checked, a sentence each; the draws themselves are not repeated.

    The bound, the radius and the votes are recomputed by interval enclosures (`certserve.smoothing.verification`),
    d * eps from sigma, the arithmetic and the number of pixels.

    Raises:
        VerificationFailed: the outcome claims something that its numbers do not carry; all such claims.
    """
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
