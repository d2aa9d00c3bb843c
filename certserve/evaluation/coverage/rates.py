"""How often a plan claims something false, how often it claims anything, and after how many draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Coverage", "Rate", "Report", "first_count", "not_below", "sequential_alpha"]

Report = Callable[[float, float | None], None]
"""Told how much of the work is done, and of how much."""

_DROPPED = 1e-10  # what `stopping_law` may drop of each alternative
_ROUNDING = 1e-9  # more than the sums and the convolutions err by
_SMALLEST_ALPHA = 1e-6


@dataclass(frozen=True, slots=True)
class Rate:
    """One true probability, and what the plan does there; `Coverage` says in words what the numbers are.

    Attributes:
        p: the true probability of the class, in (0, 1).
        false_claim: the probability of a false claim, rounded up.
        claim: the probability of a claim; None where it is not computed.
        mean_draws: the expected number of draws, those of the selection included; None where it is not computed.
        worst_p, worst_false_claim: for a plan that looks once, the p from this one on, below the next bound, at which
            the rate is largest, and that rate.
    """

    p: float
    false_claim: float
    claim: float | None
    mean_draws: float | None
    worst_p: float | None = None
    worst_false_claim: float | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a plan does at several true probabilities.

    Attributes:
        false_claim, claim, mean_draws: what each number of a `Rate` is, and whether it is exact or a bound.
    """

    plan: str
    n0: int
    n: int
    alpha: float
    rates: tuple[Rate, ...]
    false_claim: str
    claim: str
    mean_draws: str


def first_count(reached: Callable[[int], bool], n: int) -> int:
    """The smallest count in 0..n at which `reached` holds; it holds for all larger ones. n + 1 where there is none."""
    low, high = -1, n + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def not_below(value: float, alternatives: int = 0, dropped: float = 0.0) -> float:
    """`value`, raised by more than its computation can have lost.

    Args:
        alternatives: how many of them `stopping_law` followed. dropped: what was left out beforehand.
    """
    return min(1.0, math.nextafter(value * (1.0 + _ROUNDING) + dropped + alternatives * _DROPPED, math.inf))


def sequential_alpha(alpha: float) -> None:
    """Raises ValueError: `alpha` is too small for laws that are computed to about 1e-8."""
    if alpha < _SMALLEST_ALPHA:
        raise ValueError(
            f"where a plan looks more than once, its law is computed for alpha >= {_SMALLEST_ALPHA:g}, not {alpha!r}"
        )
