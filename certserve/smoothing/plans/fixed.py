"""Plans that look once: CERTIFY and PREDICT with a number of draws fixed beforehand, as published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic

from certserve.smoothing import decision
from certserve.smoothing.outcomes import (
    Abstention,
    Bound,
    Case,
    Certificate,
    Prediction,
    Schedule,
    Undecided,
    Votes,
)
from certserve.smoothing.plans.plan import Outcome, check_alpha, check_draws, stated
from certserve.smoothing.schedules import split_alpha

__all__ = ["Fixed", "FixedPredict"]


@dataclass(frozen=True, slots=True)
class Fixed:
    """CERTIFY with a fixed number of draws, as published; with the two-class bound where asked.

    Args:
        n0: selection draws, 1..10^7. n: estimation draws, 1..10^7.
        alpha: failure probability, in [1e-100, 1); with TWO_CLASS an eighth of it must be.

    Raises:
        ValueError: an argument outside its range.
    """

    name: ClassVar[str] = "fixed"
    n0: int
    n: int
    alpha: float
    bound: Bound = Bound.BINARY

    def __post_init__(self) -> None:
        check_draws("n0", self.n0)
        check_draws("n", self.n)
        check_alpha(self.alpha)
        for share in self.schedule.runner_up_alphas:
            check_alpha(share)

    @property
    def looks(self) -> tuple[int, ...]:
        return (self.n,)

    @property
    def schedule(self) -> Schedule:
        if self.bound is Bound.BINARY:
            return Schedule()
        label, runner_up = split_alpha(self.alpha)
        return Schedule(alphas=(label,), runner_up_alphas=(runner_up,))

    def begin(self, case: Case) -> _OneLook[Certificate | Abstention]:
        """See `Plan`."""
        case = stated(self, case)
        return _OneLook(case, lambda selection, votes: decision.certify(selection, votes, case))


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
    schedule: ClassVar[Schedule] = Schedule()
    n: int
    alpha: float

    def __post_init__(self) -> None:
        check_draws("n", self.n)
        check_alpha(self.alpha)

    @property
    def looks(self) -> tuple[int, ...]:
        return (self.n,)

    def begin(self, case: Case) -> _OneLook[Prediction | Abstention]:
        """See `Plan`."""
        case = stated(self, case)
        return _OneLook(case, lambda _, votes: decision.predict(votes, case))


class _OneLook(Generic[Outcome]):
    """Decides at the only look; before it there is nothing to tell."""

    best: ClassVar[None] = None

    def __init__(self, case: Case, conclude: Callable[[Votes, Votes], Outcome]) -> None:
        self._case = case
        self._conclude = conclude

    def look(self, selection: Votes, votes: Votes) -> Outcome:
        return self._conclude(selection, votes)

    def end(self, reason: str) -> Undecided:
        return Undecided(reason, self._case.setting, self._case.origin)
