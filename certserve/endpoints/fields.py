"""The exact types of a request's fields: equal questions are one question, whatever Python types asked them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from certserve.attacks.norms import Norm
from certserve.defences.preemptive.methods import Bilevel, CertMargin, Fast, How, Method
from certserve.endpoints.plans import AnytimePlan, FixedPlan, LooksPlan, TargetPlan
from certserve.errors import Violation
from certserve.images import ImageFit
from certserve.noise.arithmetic import Arithmetic
from certserve.smoothing.outcomes import Bound

__all__ = ["CERTIFY", "DETECT", "EXPECTED", "PREDICT", "REFORM", "ROBUSTIFY", "normalise"]

Kinds: TypeAlias = Mapping[str, Callable[[Any], Any]]
"""What makes the exact type of each field, or raises TypeError, ValueError or OverflowError."""


def normalise(request: Any, kinds: Kinds) -> None:
    """Give every field its exact type, so that equal questions are one question, whatever Python type asked it.

    What cannot be converted is left out and named in the request's `malformed`.
    """
    wrong = list(request.malformed)
    for name, convert in kinds.items():
        value = getattr(request, name)
        try:
            converted = None if value is None and name not in _REQUIRED else convert(value)
        except (TypeError, ValueError, OverflowError):
            wrong.append(Violation(name, f"{value!r:.100} is not {EXPECTED[name]}"))
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
EXPECTED = {
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
_KINDS: Kinds = {
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
PREDICT: Kinds = {**_KINDS, "plan": _one_of(FixedPlan, AnytimePlan)}
CERTIFY: Kinds = {**_KINDS, "plan": _one_of(FixedPlan, TargetPlan, LooksPlan), "bound": Bound}
ROBUSTIFY: Kinds = {
    **{name: kind for name, kind in _KINDS.items() if name not in ("time_budget", "arithmetic", "guard")},
    "bound": Bound,
    "delta": _real,
    "epsilon": _real,
    "norm": Norm,
    "method": _method,
}
DETECT: Kinds = {"model": _text}
REFORM: Kinds = {**DETECT, "png": _truth}
