"""What a plan is, and what decides by it.

A plan is fixed before any draw. The scheduler runs it without knowing mathematics: it takes `n0` selection draws
and estimation draws up to the last of `looks`; at each look, in order, the job's decider is shown the votes of
exactly that many draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from certserve.smoothing.bounds import LARGEST_N, SMALLEST_ALPHA
from certserve.smoothing.outcomes import Bound, Case, Certificate, Prediction, Schedule, Undecided, Votes

__all__ = ["MOST_STEPS", "Decider", "Outcome", "Plan", "check_alpha", "check_draws", "check_steps", "stated"]

Outcome = TypeVar("Outcome", covariant=True)

MOST_STEPS = 100
"""The most looks or radii that a plan may name: each costs whoever decides some time."""


class Decider(Protocol, Generic[Outcome]):
    """One job's state between its looks."""

    @property
    def best(self) -> Certificate | None:
        """The best certificate of the looks so far: valid, together with all earlier ones, at the plan's alpha."""

    def look(self, selection: Votes, votes: Votes) -> Outcome | None:
        """The outcome at the newest look, or None to go on; never None at the last.

        Args:
            selection: the selection votes: n0 draws, the same at every look.
            votes: the estimation votes of exactly as many draws as the next of the plan's looks says.

        Raises:
            ValueError: the totals are others than the plan's.
        """

    def end(self, reason: str) -> Certificate | Prediction | Undecided:
        """The answer where no further look can be waited for: the best so far, or Undecided with this reason."""


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

    @property
    def schedule(self) -> Schedule:
        """What else it fixes before any draw; with n0, n, alpha, bound and looks, all its parameters."""

    def begin(self, case: Case) -> Decider[Any]:
        """A decider for one job. What the plan fixes is stated in its outcomes' setting, whatever `case` says of it."""


def stated(plan: Plan, case: Case) -> Case:
    """The case with the plan's own parameters in its setting."""
    schedule = plan.schedule
    looks = () if schedule.every else tuple(plan.looks)
    setting = replace(
        case.setting,
        n0=plan.n0,
        n=plan.n,
        alpha=plan.alpha,
        plan=plan.name,
        looks=looks,
        bound=plan.bound,
        schedule=schedule,
    )
    return replace(case, setting=setting)


def check_draws(name: str, draws: int, largest: int = LARGEST_N) -> None:
    """Raises ValueError: a number of draws outside 1..`largest`."""
    if not 1 <= draws <= largest:
        raise ValueError(f"{name} must lie in 1..{largest}, not {draws!r}")


def check_steps(name: str, values: Sequence[float]) -> None:
    """Raises ValueError: more looks or radii than a plan may name, or not increasing."""
    if len(values) > MOST_STEPS:
        raise ValueError(f"there may be at most {MOST_STEPS} {name}, not {len(values)}")
    for a, b in pairwise(values):
        if not a < b:
            raise ValueError(f"the {name} must increase, but {b!r} follows {a!r}")


def check_alpha(alpha: float) -> None:
    """Raises ValueError: a level at which the bounds are not vouched for."""
    if not SMALLEST_ALPHA <= alpha < 1.0:
        raise ValueError(f"alpha must lie in [{SMALLEST_ALPHA:g}, 1), not {alpha!r}")
