"""When a plan stops, and how: exactly, by dynamic programming over the number of successes.

Between two looks the successes grow by a binomial number; at a look, those at or above an upper boundary stop with
a claim, those at or below a lower one give up. Nothing is simulated. Under another probability every path of S
successes and F failures weighs (p / q)^S ((1 - p) / (1 - q))^F as much, so one run under q serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import xlog1py, xlogy
from scipy.stats import binom

from certserve.smoothing.plans.target import TargetTest

__all__ = ["Boundaries", "GivingUp", "StoppingLaw", "TargetBoundaries", "smallest_counts", "stopping_law"]

Counts = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

_NEGLIGIBLE = 1e-60
_UNLIKELY = 1e-10


class Boundaries(Protocol):
    """Where a procedure stops, by the number of successes at a look."""

    def upper(self, looks: Counts) -> Counts:
        """At each look, the smallest number of successes that makes the claim; more than there are draws: none."""

    def lower(self, looks: Counts) -> Counts:
        """At each look, the largest number of successes that gives up; -1: none."""


class StoppingLaw(NamedTuple):
    """What becomes of a procedure, for each of the probabilities asked about.

    Attributes:
        claimed, given_up: the probabilities of either, by the last look; the rest ran to the end.
        mean_draws: the expected number of draws taken.
    """

    claimed: Reals
    given_up: Reals
    mean_draws: Reals


class GivingUp(NamedTuple):
    """Those who give up at one look.

    Attributes:
        procedure, draws: which alternative, and at which look.
        successes: the numbers of successes, of shape (counts,).
        probabilities: of giving up there with so many, of shape (shares, counts); weights included.
    """

    procedure: int
    draws: int
    successes: Counts
    probabilities: Reals


class TargetBoundaries(NamedTuple):
    """The boundaries of one radius of `Target`; `gives_up` False: it draws on to the last look."""

    test: TargetTest
    gives_up: bool = True

    def upper(self, looks: Counts) -> Counts:
        """See `Boundaries`."""
        process, level = self.test.process, self.test.level
        least = np.floor(process.null * looks).astype(np.int64)
        return smallest_counts(lambda s, t: process.log_value(s, t - s) >= level, looks, least)

    def lower(self, looks: Counts) -> Counts:
        """See `Boundaries`."""
        if not self.gives_up:
            return np.full_like(looks, -1)
        process, level = self.test.futility, self.test.futility_level
        if process is None:
            return looks.copy()  # no votes would do: all give up
        least = np.floor(process.null * looks).astype(np.int64)
        return looks - smallest_counts(lambda f, t: process.log_value(f, t - f) >= level, looks, least)


def smallest_counts(reached: Callable[[Counts, Counts], npt.NDArray[np.bool_]], looks: Counts, least: Counts) -> Counts:
    """At each look, the smallest count above `least` at which `reached(count, look)`; look + 1 where there is none.

    Args:
        reached: elementwise; once true it stays so for larger counts.
        least: counts at which it is not, at least -1.
    """
    low, high = least.copy(), np.minimum(least + np.sqrt(looks).astype(np.int64) + 4, looks + 1)
    while True:
        short = (high <= looks) & ~reached(np.minimum(high, looks), looks)
        if not short.any():
            break
        low, high = np.where(short, high, low), np.where(short, np.minimum(2 * high - least, looks + 1), high)
    while (open_ := high - low > 1).any():
        middle = (low + high) // 2
        hit = reached(middle, looks)
        low, high = np.where(open_ & ~hit, middle, low), np.where(open_ & hit, middle, high)
    return high


def stopping_law(
    procedures: Sequence[Boundaries],
    looks: Sequence[int],
    weights: Reals,
    shares: Reals,
    reference: float,
    on_giving_up: Callable[[GivingUp], None] | None = None,
) -> StoppingLaw:
    """The law of stopping, for each true probability in `shares`, over a mixture of procedures.

    Args:
        looks: numbers of draws, increasing. procedures: alternatives, e.g. one for each outcome of a selection.
        weights: of shape (shares, procedures): how probable each alternative is; rows sum to 1 at most.
        shares: the true probabilities, in [0, 1].
        reference: the probability under which paths are counted, in (0, 1); near the boundaries. Alternatives and
            survivors with a probability below 1e-10 are dropped.
        on_giving_up: told of each look at which an alternative gives up.
    """
    walk = _Walk(procedures, np.where(weights > _UNLIKELY, weights, 0.0), shares, reference, on_giving_up)
    all_looks = np.asarray(looks, dtype=np.int64)
    start, size = 0, 8
    while start < len(all_looks) and walk.columns.size:
        block = all_looks[start : start + size]
        walk.run(block)
        start, size = start + size, 2 * size
    given_up = weights.sum(axis=1) - walk.claimed - walk.alive.sum(axis=1)
    return StoppingLaw(walk.claimed, np.maximum(given_up, 0.0), walk.mean_draws)


class _Walk:
    """The successes of those still drawing: `state[s - first, j]` under the reference, for alternative `columns[j]`."""

    def __init__(
        self,
        procedures: Sequence[Boundaries],
        weights: Reals,
        shares: Reals,
        reference: float,
        on_giving_up: Callable[[GivingUp], None] | None,
    ) -> None:
        self._procedures = procedures
        self._on_giving_up = on_giving_up
        self._weights = weights
        self._shares = shares
        self._reference = reference
        self._pmfs: dict[int, Reals] = {}
        self.alive = weights.copy()
        self.claimed = np.zeros(len(shares))
        self.mean_draws = np.zeros(len(shares))
        self.columns = np.flatnonzero(weights.any(axis=0))
        self._state = np.ones((1, self.columns.size))
        self._first = 0
        self._draws = 0

    def run(self, looks: Counts) -> None:
        """Draw on through the looks."""
        among = self.columns
        procedures = [self._procedures[j] for j in among.tolist()]
        upper = np.stack([procedure.upper(looks) for procedure in procedures])
        lower = np.stack([procedure.lower(looks) for procedure in procedures])
        for i, look in enumerate(looks):
            kept = np.searchsorted(among, self.columns)
            self.mean_draws += (look - self._draws) * self.alive.sum(axis=1)
            self._draw(int(look))
            self._stop(upper[kept, i], lower[kept, i])
            if not self.columns.size:
                return

    def _draw(self, look: int) -> None:
        step = look - self._draws
        if step not in self._pmfs:
            self._pmfs[step] = binom.pmf(np.arange(step + 1), step, self._reference)
        pmf = self._pmfs[step]
        likely = np.flatnonzero(pmf > _NEGLIGIBLE)
        pmf = pmf[likely[0] : likely[-1] + 1]
        self._state = np.stack([np.convolve(column, pmf) for column in self._state.T], axis=1)
        self._first += int(likely[0])
        self._draws = look

    def _stop(self, upper: Counts, lower: Counts) -> None:
        successes = self._first + np.arange(len(self._state))
        above, going = successes[:, None] >= upper, successes[:, None] > lower
        rows = np.flatnonzero(self.alive.any(axis=1))
        p, q = self._shares[rows, None], self._reference
        # A share of 0 or 1 gives -inf where it rules a count out, and 0 of it elsewhere.
        log_ratio = xlogy(successes, p / q) + xlog1py(self._draws - successes, -p)
        with np.errstate(under="ignore"):
            ratio = np.exp(log_ratio - xlog1py(self._draws - successes, -q))
        weights = self._weights[np.ix_(rows, self.columns)]
        self.claimed[rows] += (ratio @ np.where(above, self._state, 0.0) * weights).sum(axis=1)
        if self._on_giving_up:
            self._report(np.where(going | above, 0.0, self._state), ratio, rows)
        self._state = np.where(going & ~above, self._state, 0.0)
        alive = ratio @ self._state * weights
        self.alive = np.zeros_like(self.alive)
        self.alive[np.ix_(rows, self.columns)] = np.where(alive > _UNLIKELY, alive, 0.0)
        self._trim(np.flatnonzero(self.alive[:, self.columns].any(axis=0)))

    def _report(self, leaving: Reals, ratio: Reals, rows: npt.NDArray[np.intp]) -> None:
        assert self._on_giving_up is not None
        for j, column in zip(self.columns.tolist(), leaving.T, strict=True):
            inside = np.flatnonzero(column)
            if inside.size:
                probabilities = np.zeros((len(self._shares), inside.size))
                probabilities[rows] = ratio[:, inside] * column[inside] * self._weights[rows, j, None]
                self._on_giving_up(GivingUp(j, self._draws, self._first + inside, probabilities))

    def _trim(self, kept: npt.NDArray[np.intp]) -> None:
        self.columns, self._state = self.columns[kept], self._state[:, kept]
        inside = np.flatnonzero((self._state > _NEGLIGIBLE).any(axis=1))
        if inside.size:
            self._state = self._state[inside[0] : inside[-1] + 1]
            self._first += int(inside[0])
