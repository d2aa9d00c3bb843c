"""Plans: how many draws, at which of them to look, and what to conclude there.

A plan is fixed before any draw. The scheduler runs it without knowing mathematics: it takes `n0` selection draws
and estimation draws up to the last of `looks`, and after each look, on the votes of exactly that many draws,
asks `decide`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from certserve.smoothing import decision
from certserve.smoothing.bounds import LARGEST_N, SMALLEST_ALPHA
from certserve.smoothing.outcomes import Abstention, Bound, Case, Certificate, Evidence, Prediction, Undecided

__all__ = ["Fixed", "FixedPredict", "Plan"]


class Plan(Protocol):
    """When to look at the votes, and what to conclude."""

    name: ClassVar[str]

    @property
    def n0(self) -> int:
        """Selection draws; 0 where the procedure has none."""

    @property
    def n(self) -> int:
        """The largest number of estimation draws."""

    @property
    def alpha(self) -> float:
        """Failure probability of the whole answer."""

    @property
    def bound(self) -> Bound:
        """How the runner-up is bounded."""

    @property
    def looks(self) -> Sequence[int]:
        """Numbers of estimation draws, increasing, the last of them `n`."""

    def decide(self, evidence: Evidence, case: Case) -> Certificate | Prediction | Abstention | Undecided | None:
        """The outcome at the latest look, or None to go on. Never None at the last look."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """CERTIFY with a fixed number of draws, as published.

    Args:
        n0: selection draws, 1..10^7. n: estimation draws, 1..10^7.
        alpha: failure probability, in [1e-100, 1).

    Raises:
        ValueError: an argument outside its range.
    """

    name: ClassVar[str] = "fixed"
    n0: int
    n: int
    alpha: float
    bound: Bound = Bound.BINARY

    def __post_init__(self) -> None:
        _check_draws("n0", self.n0)
        _check_draws("n", self.n)
        _check_alpha(self.alpha)

    @property
    def looks(self) -> tuple[int, ...]:
        return (self.n,)

    def decide(self, evidence: Evidence, case: Case) -> Certificate | Abstention:
        return decision.certify(evidence.selection, evidence.looks[-1], case)


@dataclass(frozen=True, slots=True)
class FixedPredict:
    """PREDICT with a fixed number of draws, as published: one set of draws, no selection.

    Args:
        n: draws, 1..10^7.
        alpha: failure probability, in [1e-100, 1).

    Raises:
        ValueError: an argument outside its range.
    """

    name: ClassVar[str] = "fixed-predict"
    n0: ClassVar[int] = 0
    bound: ClassVar[Bound] = Bound.BINARY
    n: int
    alpha: float

    def __post_init__(self) -> None:
        _check_draws("n", self.n)
        _check_alpha(self.alpha)

    @property
    def looks(self) -> tuple[int, ...]:
        return (self.n,)

    def decide(self, evidence: Evidence, case: Case) -> Prediction | Abstention:
        return decision.predict(evidence.looks[-1], case)


def _check_draws(name: str, draws: int) -> None:
    if not 1 <= draws <= LARGEST_N:
        raise ValueError(f"{name} must lie in 1..{LARGEST_N}, not {draws!r}")


def _check_alpha(alpha: float) -> None:
    if not SMALLEST_ALPHA <= alpha < 1.0:
        raise ValueError(f"alpha must lie in [{SMALLEST_ALPHA:g}, 1), not {alpha!r}")
