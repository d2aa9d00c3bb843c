"""Target: is the radius at least r? The e-process answers as soon as the draws allow it.

A bound that is evaluated at the moment such a process stops (Clopper-Pearson, the two-class bound) would be false
far more often than alpha, so none is: what is certified is the radius that was asked about, and no other.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from certserve.smoothing.distribution import Gaussian
from certserve.smoothing.eprocess import SLACK, EProcess, Prior, crossing_level, informed_priors
from certserve.smoothing.outcomes import Abstention, Bound, Case, Certificate, Schedule, Undecided, Votes
from certserve.smoothing.plans.plan import check_alpha, check_draws, check_steps, stated
from certserve.smoothing.schedules import EveryLook

__all__ = ["LARGEST_N0", "Target", "TargetDecider", "TargetTest", "target_tests"]

LARGEST_N0 = 10_000
"""A prior from more selection draws could have so little mass above the null that nothing finite is left of it."""

_EVERY = 64
_FUTILITY_LEVEL = crossing_level(0.05)  # giving up costs power, never soundness
_PATIENCE = 3


@dataclass(frozen=True, slots=True)
class Target:
    """Certify the radius `radius` as soon as it is shown; give up as soon as it looks out of reach.

    The label leads the selection votes, and the null is that its probability is at most what the radius needs,
    d * eps included. The votes are looked at every 64 estimation draws, and at n. It gives up once they are evidence,
    at a level of .05, that the label's probability is below the share of votes that would show the radius at a third of
    n draws (at n, where a third never do): an image whose probability is that or more is given up with probability at
    most .05. Of those below, which need most of n draws or more, few would be certified: see `benchmarks/draws.py`.

    Args:
        radius: the target, in input units, > 0.
        n0: selection draws, 1..10^4. n: the most estimation draws, 1..10^7.
        alpha: failure probability of the whole answer, in [1e-100, 1).
        grow: larger radii to go on to once the target is shown, increasing, at most 99. One counts only when
            every smaller one has been shown too, so a false claim needs the smallest false radius to be crossed,
            which has probability at most alpha, for all of them at once.

    Raises:
        ValueError: an argument outside its range; the radii do not increase.
    """

    name: ClassVar[str] = "target"
    bound: ClassVar[Bound] = Bound.BINARY
    radius: float
    n0: int
    n: int
    alpha: float
    grow: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_steps("radii", self.schedule.radii)
        for radius in self.schedule.radii:
            if not 0.0 < radius < math.inf:
                raise ValueError(f"the radii must be positive and finite, not {radius!r}")
        check_draws("n0", self.n0, LARGEST_N0)
        check_draws("n", self.n)
        check_alpha(self.alpha)

    @property
    def looks(self) -> EveryLook:
        return EveryLook(_EVERY, self.n)

    @property
    def schedule(self) -> Schedule:
        return Schedule(every=_EVERY, radii=(self.radius, *self.grow))

    def begin(self, case: Case) -> TargetDecider:
        """See `Plan`.

        Raises:
            ValueError: the target needs a probability of 1 at this sigma.
        """
        return TargetDecider(self, stated(self, case))


class TargetTest:
    """One radius against the votes for the selected class: crossed, hopeless, or neither yet.

    Args:
        p_lower: the probability that the radius needs, rounded up. null: d * eps more, rounded up; in (0, 1).
        priors: for the probability that is tested. n: the last look.
    """

    def __init__(self, p_lower: float, null: float, priors: tuple[Prior, ...], alpha: float, n: int) -> None:
        self.p_lower = p_lower
        self.level = crossing_level(alpha)
        self.futility_level = _FUTILITY_LEVEL
        self._null = null
        self._priors = priors
        self._n = n

    @cached_property
    def process(self) -> EProcess:
        """Evidence that the probability exceeds the null, of successes and failures."""
        return EProcess(self._null, self._priors)

    @cached_property
    def futility(self) -> EProcess | None:
        """Evidence, of failures and successes, that the probability is below what a third of n draws need.

        Of n draws, where a third never show the radius; None: not even n do.
        """
        for draws in (self._n // _PATIENCE, self._n):
            failures = draws - self.needed(draws)
            if failures >= 0:
                # One failure more, of one draw more: above 0 where there may be none, and the more cautious.
                return EProcess((failures + 1) / (draws + 1), [Prior(prior.b, prior.a) for prior in self._priors])
        return None

    def needed(self, draws: int) -> int:
        """The fewest successes in so many draws that show the radius; one more than there are draws: none do."""
        return bisect_left(range(draws + 1), True, key=lambda s: self.crossed(s, draws - s))

    def crossed(self, successes: int, failures: int) -> bool:
        """Whether the radius is shown."""
        return self.process.reaches(self.level, successes, failures)

    def hopeless(self, successes: int, failures: int) -> bool:
        """Whether the radius looks out of reach."""
        return self.futility is None or self.futility.reaches(self.futility_level, failures, successes)


def target_tests(case: Case, selection: Votes) -> tuple[TargetTest, ...]:
    """A test for each of `schedule.radii` that needs a probability below 1, in their order.

    Half of the prior follows the selection votes: they come before the draws that are tested.
    """
    setting = case.setting
    votes = selection.counts[selection.top]
    priors = informed_priors(votes, selection.total - votes)
    tests = []
    for radius in setting.schedule.radii:
        p_lower = Gaussian(setting.sigma).probability(radius)
        null = math.nextafter(p_lower + setting.arithmetic_error, math.inf)
        if null >= 1.0:
            break
        tests.append(TargetTest(p_lower, null, priors, setting.alpha, setting.n))
    return tuple(tests)


class TargetDecider:
    """One job of `Target`."""

    def __init__(self, plan: Target, case: Case) -> None:
        self._looks = plan.looks
        self._case = case
        if not target_tests(case, Votes((case.setting.n0,))):
            raise ValueError(f"no probability below 1 carries a radius of {plan.radius!r} at this sigma")
        self._tests: tuple[TargetTest, ...] = ()
        self._seen = self._label = 0
        self._crossings: list[tuple[Votes, float]] = []
        self.best: Certificate | None = None

    def look(self, selection: Votes, votes: Votes) -> Certificate | Abstention | None:
        """See `Decider`."""
        draws = self._next_look(selection, votes)
        successes = votes.counts[self._label]
        failures = draws - successes
        known = len(self._crossings)
        while len(self._crossings) < len(self._tests):
            test = self._tests[len(self._crossings)]
            if not test.crossed(successes, failures):
                break
            value = float(test.process.log_value(successes, failures))
            self._crossings.append((votes, value - SLACK))
        if len(self._crossings) > known:
            self.best = self._certificate(selection)
        if len(self._crossings) == len(self._tests) or self._seen == len(self._looks):
            return self.best or self._abstention(selection, votes)
        if self._tests[len(self._crossings)].hopeless(successes, failures):
            return self.best or self._abstention(selection, votes)
        return None

    def end(self, reason: str) -> Certificate | Undecided:
        """See `Decider`."""
        return self.best or Undecided(reason, self._case.setting, self._case.origin)

    def _next_look(self, selection: Votes, votes: Votes) -> int:
        """The draws at this look; before the first, the selection votes settle the label and the priors."""
        planned, draws = self._looks[self._seen], votes.total
        if draws != planned:
            raise ValueError(f"{draws} estimation votes, but {planned} draws were planned")
        if not self._tests:
            if selection.total != self._case.setting.n0:
                raise ValueError(f"{selection.total} selection votes, but {self._case.setting.n0} draws were planned")
            self._tests, self._label = target_tests(self._case, selection), selection.top
        self._seen += 1
        return draws

    def _certificate(self, selection: Votes) -> Certificate:
        case, label = self._case, selection.top
        estimation = tuple(votes for votes, _ in self._crossings)
        last = len(estimation) - 1
        return Certificate(
            label=label,
            label_name=case.labels[label],
            radius=case.setting.schedule.radii[last],
            norm=Gaussian.norm,
            p_lower=self._tests[last].p_lower,
            selection=selection,
            estimation=estimation,
            setting=case.setting,
            origin=case.origin,
            log_e_values=tuple(value for _, value in self._crossings),
        )

    def _abstention(self, selection: Votes, votes: Votes) -> Abstention:
        case, label = self._case, selection.top
        radius = case.setting.schedule.radii[0]
        return Abstention(label, case.labels[label], selection, (votes,), case.setting, case.origin, radius=radius)
