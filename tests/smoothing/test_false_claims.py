"""How often each plan claims too much, exactly: by dynamic programming over the votes for the selected class.

The worst true probability is the one that the claim denies by the least. Nothing is simulated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from certserve.smoothing.bounds import clopper_pearson_lower
from certserve.smoothing.decision import certified_probability
from certserve.smoothing.distribution import Gaussian
from certserve.smoothing.eprocess import informed_priors
from certserve.smoothing.outcomes import Case, Certificate, Votes
from certserve.smoothing.plans import Looks, Target
from certserve.smoothing.plans.target import LARGEST_N0, TargetTest, target_tests
from certserve.smoothing.schedules import EveryLook, doubling_looks, even_radii
from certserve.smoothing.stopping import TargetBoundaries, smallest_counts, stopping_law

Counts = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
Question = Callable[..., Case]

NULLS = (0.69, 0.84, 0.977, 0.9987)
ROUNDING = 1e-9  # what the dynamic programming may lose: survivors below 1e-10 are dropped


def selections(null: float, n0: int) -> list[int]:
    """Votes for the selected class: the ends, the middle, and four standard deviations either side of the null."""
    sd = math.sqrt(n0 * null * (1.0 - null))
    near = {min(n0, max(0, round(null * n0 + z * sd))) for z in range(-4, 5)}
    return sorted(near | {0, n0 // 2, n0})


def claimed(procedure: object, looks: Sequence[int], p: float) -> float:
    """The probability that it claims, where p is true."""
    law = stopping_law([procedure], looks, np.ones((1, 1)), np.array([p]), p)  # type: ignore[list-item]
    return float(law.claimed[0])


class TestTarget:
    """A radius that is not there is certified with probability at most alpha, whatever the selection was."""

    @pytest.mark.parametrize("null", NULLS)
    @pytest.mark.parametrize("n0", [10, 100, 1_000, LARGEST_N0])
    def test_at_the_boundary(self, null: float, n0: int) -> None:
        """More than alpha at p = p0 within 20,000 draws, after any selection, underflow included, fails."""
        looks = EveryLook(64, 20_000)
        rates = []
        for k0 in selections(null, n0):
            test = TargetTest(null, null, informed_priors(k0, n0 - k0), 0.001, looks[-1])
            rates.append(claimed(TargetBoundaries(test, gives_up=False), looks, null))
        assert max(rates) <= 0.001 - ROUNDING
        assert max(rates) >= 0.0002  # and the level is spent

    @pytest.mark.parametrize(("null", "published"), [(0.69, 2.6e-4), (0.84, 3.0e-4), (0.977, 5.3e-4), (0.9987, 5.4e-4)])
    def test_over_the_selection(self, null: float, published: float) -> None:
        """An error, averaged over 100 selection draws, other than that of an independent implementation fails."""
        rate = 0.0
        for k0 in range(101):
            weight = float(binom.pmf(k0, 100, null))
            if weight > 1e-7:
                test = TargetTest(null, null, informed_priors(k0, 100 - k0), 0.001, 20_000)
                rate += weight * claimed(TargetBoundaries(test, gives_up=False), EveryLook(128, 20_000), null)
        assert rate == pytest.approx(published, abs=0.1e-4)

    @pytest.mark.parametrize("null", [0.84, 0.9987])
    @pytest.mark.parametrize("alpha", [0.05, 1e-6])
    def test_below_the_boundary(self, null: float, alpha: float) -> None:
        """An error at some p below p0 that exceeds alpha fails; so does one that grows as p falls."""
        test = TargetTest(null, null, informed_priors(int(100 * null), 100 - int(100 * null)), alpha, 6_400)
        boundaries = TargetBoundaries(test, gives_up=False)
        shares = [null, null - 1e-4, null - 1e-3, null - 0.01, 0.9 * null]
        rates = [claimed(boundaries, EveryLook(64, 6_400), p) for p in shares]
        assert rates[0] <= alpha
        assert all(a >= b - 1e-10 for a, b in pairwise(rates))

    def test_the_decider_stops_where_the_dynamic_programme_does(self, question: Question) -> None:
        """A certificate at other votes than the boundaries say, over all votes at two looks, fails."""
        plan = Target(0.25, 10, 128, 0.05)
        case, selection = question(), Votes((9, 1, 0))
        test = target_tests(plan.begin(case)._case, selection)[0]
        law = stopping_law(
            [TargetBoundaries(test)], plan.looks, np.ones((1, 1)), np.array([test.process.null]), test.process.null
        )
        pmf = binom.pmf(np.arange(65), 64, test.process.null)
        rate = 0.0
        for first in range(30, 65):
            decider = plan.begin(case)
            outcome = decider.look(selection, Votes((first, 64 - first, 0)))
            if isinstance(outcome, Certificate):
                rate += pmf[first]
            for second in range(65) if outcome is None else ():
                again = plan.begin(case)
                again.look(selection, Votes((first, 64 - first, 0)))
                last = again.look(selection, Votes((first + second, 128 - first - second, 0)))
                rate += pmf[first] * pmf[second] * isinstance(last, Certificate)
        assert rate == pytest.approx(float(law.claimed[0]), abs=1e-9)


class TestGivingUp:
    """An image that a third of n draws would show is rarely given up."""

    @pytest.mark.parametrize("null", NULLS)
    @pytest.mark.parametrize("n", [6_400, 20_000])
    def test_at_the_share_that_a_third_of_the_draws_need(self, null: float, n: int) -> None:
        """More than .05 given up at the share of votes that would show the radius, after any selection, fails.

        Where a third of n never show it, the share is that of n.
        """
        looks = EveryLook(64, n)
        rates = []
        for k0 in selections(null, 100):
            test = TargetTest(null, null, informed_priors(k0, 100 - k0), 0.001, n)
            shares = [test.needed(draws) / draws for draws in (n // 3, n) if test.needed(draws) <= draws]
            if shares:
                share = np.array([min(shares[0], 1.0 - 1e-9)])
                law = stopping_law([TargetBoundaries(test)], looks, np.ones((1, 1)), share, float(share[0]))
                rates.append(float(law.given_up[0]))
        assert max(rates) <= 0.05
        assert max(rates) >= 0.005 or null == NULLS[-1]  # and the level is spent; near 1 a failure is too rare

    @pytest.mark.parametrize("null", NULLS)
    @pytest.mark.parametrize("n", [0, 1, 10, 1_000, 20_000, 10_000_000])
    def test_the_votes_that_so_many_draws_need(self, null: float, n: int) -> None:
        """Fewer successes than cross at n, or more than the fewest, fail; n + 1 stands for none."""
        for k0 in selections(null, 100):
            test = TargetTest(null, null, informed_priors(k0, 100 - k0), 0.001, n)
            needed = test.needed(n)
            assert needed == n + 1 or test.crossed(needed, n - needed)
            assert needed == 0 or not test.crossed(needed - 1, n + 1 - needed)

    def test_a_single_draw(self) -> None:
        """An error where one draw is all there is fails: a success is claimed there."""
        test = TargetTest(0.6, 0.6, informed_priors(0, 10), 0.9, 1)
        assert (test.needed(1), test.hopeless(0, 1)) == (1, False)
        law = stopping_law([TargetBoundaries(test)], [1], np.ones((1, 1)), np.array([0.6]), 0.6)
        assert float(law.claimed[0]) == pytest.approx(0.6)

    def test_where_no_votes_would_do(self) -> None:
        """A radius that not even n successes show, drawn for all the same, fails."""
        test = TargetTest(0.9, 0.9, informed_priors(0, 100), 0.001, 66)
        assert test.needed(66) == 67
        assert test.hopeless(64, 0)
        looks = np.array([64, 66])
        assert TargetBoundaries(test).lower(looks).tolist() == [64, 66]


class TestGrow:
    """The radii of a grid share one alpha: each counts only when all smaller ones have been shown."""

    @pytest.fixture
    def grid(self, question: Question) -> tuple[TargetTest, ...]:
        radii = even_radii(0.1, 0.03, 25)
        plan = Target(radii[0], 100, 6_400, 0.001, radii[1:])
        return target_tests(plan.begin(question())._case, Votes((90, 10, 0)))

    def test_the_joint_error_over_25_radii(self, grid: tuple[TargetTest, ...]) -> None:
        """More than alpha for any of the false ones, where p is just below what one of the 25 radii needs, fails."""
        looks = np.arange(64, 6_401, 64)
        bounds = np.stack([TargetBoundaries(test).upper(looks) for test in grid])
        rates = [false_growth(bounds, looks, j, test.process.null) for j, test in enumerate(grid)]
        assert len(rates) == 25
        assert max(rates) <= 0.001
        assert max(rates) > 0.0001

    def test_a_larger_radius_takes_more_votes(self, grid: tuple[TargetTest, ...]) -> None:
        """Boundaries that do not rise with the radius, so that a larger one could be shown alone, fail."""
        looks = np.array([128, 1_280, 6_400])
        bounds = np.stack([TargetBoundaries(test).upper(looks) for test in grid])
        assert (np.diff(bounds, axis=0) >= 0).all()


def false_growth(bounds: Counts, looks: Counts, false: int, p: float) -> float:
    """P(radius number `false` is claimed), where p is its null: the mass that passes it, level by level."""
    alive = [np.zeros(1) for _ in range(false + 1)]
    alive[0][0] = 1.0
    before, passed = 0, 0.0
    for i, look in enumerate(looks):
        pmf = binom.pmf(np.arange(look - before + 1), look - before, p)
        alive = [np.convolve(mass, pmf) for mass in alive]
        before = look
        for level in range(false + 1):
            bound = bounds[level, i]
            crossed = np.where(np.arange(look + 1) >= bound, alive[level], 0.0)
            alive[level] = alive[level] - crossed
            if level < false:
                alive[level + 1] = alive[level + 1] + crossed
            else:
                passed += float(crossed.sum())
    return passed


class LooksBoundaries:
    """A claim above p at some look of a `Looks` plan."""

    def __init__(self, plan: Looks, p: float, error: float = 0.0) -> None:
        self._alphas = dict(zip(plan.looks, plan.schedule.alphas, strict=True))
        self._p, self._error = p, error

    def upper(self, looks: Counts) -> Counts:
        return np.array([self._first(int(n)) for n in looks])

    def lower(self, looks: Counts) -> Counts:
        return np.full_like(looks, -1)

    def _first(self, n: int) -> int:
        low, high = -1, n + 1
        while high - low > 1:
            k = (low + high) // 2
            false = certified_probability(k, n, self._alphas[n], self._error) > self._p
            low, high = (low, k) if false else (k, high)
        return high


class TestLooks:
    """All certificates of a job together are false with probability at most alpha."""

    @pytest.mark.parametrize("p", [0.5, 0.6, *NULLS])
    @pytest.mark.parametrize("n", [1_000, 10_000, 100_000])
    def test_the_joint_error(self, n: int, p: float) -> None:
        """More than alpha that any look claims more than p, intermediate certificates included, fails."""
        plan = Looks(100, doubling_looks(n), 0.001)
        rate = claimed(LooksBoundaries(plan, p), plan.looks, p)
        assert rate <= 0.001
        assert rate > 0.0003 or n * (1.0 - p) < 20  # near 1, few counts are left

    @pytest.mark.parametrize("alpha", [0.2, 0.01])
    def test_the_worst_p(self, alpha: float) -> None:
        """More than alpha just below any value that a bound of any look can take fails."""
        plan = Looks(10, (20, 40, 80), alpha)
        values = {
            certified_probability(k, n, share, 0.0)
            for n, share in zip(plan.looks, plan.schedule.alphas, strict=True)
            for k in range(n // 2, n + 1)
        }
        rates = [claimed(LooksBoundaries(plan, p - 1e-12), plan.looks, p - 1e-12) for p in values if p > 0.5]
        assert 0.7 * alpha < max(rates) <= alpha

    def test_an_equal_alpha_at_every_look_would_be_too_much(self) -> None:
        """A computation above that would not notice looks that each spend all of alpha fails."""
        plan = Looks(100, doubling_looks(10_000), 0.001)
        boundaries = LooksBoundaries(plan, 0.84)
        boundaries._alphas = dict.fromkeys(plan.looks, 0.001)
        assert claimed(boundaries, plan.looks, 0.84) > 0.0015


class TestClopperPearsonAtAStoppedN:
    """Why no bound is reported at the moment a sequential test stops."""

    def test_evaluated_where_the_e_process_stops(self) -> None:
        """It must be false more than four times as often as alpha at some p: else this plan could have offered it."""
        test = TargetTest(0.84, 0.84, informed_priors(86, 14), 0.001, 20_000)
        looks = np.arange(128, 20_001, 128)
        upper, lower = TargetBoundaries(test).upper(looks), TargetBoundaries(test).lower(looks)
        rates = [false_at_stop(upper, lower, looks, p) for p in np.arange(0.841, 0.86, 0.002)]
        assert max(rates) > 0.004

    def test_recomputed_every_20_draws(self) -> None:
        """Peeking at the bound until it certifies must be false more than ten times as often as alpha."""

        class Peeking:
            def upper(self, looks: Counts) -> Counts:
                return np.asarray(binom.isf(0.001, looks, 0.84), dtype=np.int64) + 1

            def lower(self, looks: Counts) -> Counts:
                return np.full_like(looks, -1)

        assert claimed(Peeking(), range(20, 10_001, 20), 0.84) > 0.01


def false_at_stop(upper: Counts, lower: Counts, looks: Counts, p: float) -> float:
    """P(the process claims, and the Clopper-Pearson bound at that n exceeds p)."""
    mass, before, false = np.ones(1), 0, 0.0
    for up, low, n in zip(upper.tolist(), lower.tolist(), looks.tolist(), strict=True):
        mass = np.convolve(mass, binom.pmf(np.arange(n - before + 1), n - before, p))
        before = n
        s = np.arange(n + 1)
        first = int(binom.isf(0.001, n, p)) + 1
        assert clopper_pearson_lower(min(first + 1, n), n, 0.001) > p or first >= n
        false += float(mass[s >= max(up, first)].sum())
        mass = np.where((s > low) & (s < up), mass, 0.0)
        if mass.sum() < 1e-9:
            break
    return false


class TestStoppingLaw:
    """The dynamic programme itself, against every path."""

    def test_against_every_path(self) -> None:
        """A probability or a mean other than those of all paths of 2 + 3 + 1 draws, in exact fractions, fails."""
        looks, upper, lower = np.array([2, 5, 6]), np.array([2, 4, 5]), np.array([-1, 1, 4])

        class Table:
            def upper(self, at: Counts) -> Counts:
                return upper[np.searchsorted(looks, at)]

            def lower(self, at: Counts) -> Counts:
                return lower[np.searchsorted(looks, at)]

        shares = np.array([0.0, 0.25, 0.5, 0.875, 1.0])
        law = stopping_law([Table()], looks.tolist(), np.ones((5, 1)), shares, 0.5)
        for i, share in enumerate(shares):
            claims, gave_up, draws = every_path(looks, upper, lower, Fraction(share))
            assert law.claimed[i] == pytest.approx(float(claims), abs=1e-12)
            assert law.given_up[i] == pytest.approx(float(gave_up), abs=1e-12)
            assert law.mean_draws[i] == pytest.approx(float(draws), abs=1e-9)

    def test_a_mixture_is_the_mean_of_its_parts(self) -> None:
        """Weights that are mixed up between alternatives, or between shares, fail."""
        tests = [TargetTest(0.84, 0.84, informed_priors(k, 10 - k), 0.001, 2_000) for k in (5, 8, 10)]
        boundaries = [TargetBoundaries(test) for test in tests]
        shares, weights = np.array([0.8, 0.9]), np.array([[0.5, 0.3, 0.2], [0.0, 0.25, 0.75]])
        looks = EveryLook(128, 2_000)
        mixed = stopping_law(boundaries, looks, weights, shares, 0.84)
        for i, p in enumerate(shares):
            parts = [stopping_law([b], looks, np.ones((1, 1)), np.array([p]), float(p)) for b in boundaries]
            for name in ("claimed", "given_up", "mean_draws"):
                expected = sum(w * float(getattr(part, name)[0]) for w, part in zip(weights[i], parts, strict=True))
                assert float(getattr(mixed, name)[i]) == pytest.approx(expected, rel=1e-7, abs=1e-9)

    @pytest.mark.parametrize("threshold", [0, 1, 7, 50, 100, 101])
    def test_the_smallest_count(self, threshold: int) -> None:
        """A count beside the first at which the condition holds fails, none at all included."""
        looks = np.array([1, 10, 100])
        found = smallest_counts(lambda s, t: s >= threshold, looks, np.full(3, -1))
        assert found.tolist() == [min(threshold, n + 1) for n in (1, 10, 100)]


def every_path(looks: Counts, upper: Counts, lower: Counts, p: Fraction) -> tuple[Fraction, Fraction, Fraction]:
    """P(claim), P(gives up) and E(draws) over all sequences of draws."""
    claims = gave_up = draws = Fraction(0)
    for path in product((0, 1), repeat=int(looks[-1])):
        weight = p ** sum(path) * (1 - p) ** (len(path) - sum(path))
        end = int(looks[-1])
        for n, up, low in zip(looks.tolist(), upper.tolist(), lower.tolist(), strict=True):
            s = sum(path[:n])
            if s >= up or s <= low:
                claims, gave_up, end = claims + weight * (s >= up), gave_up + weight * (s < up), n
                break
        draws += weight * end
    return claims, gave_up, draws


def test_the_null_of_a_target_is_what_the_radius_needs(question: Question) -> None:
    """A null below Phi(r / sigma) + d eps, which would certify more than was shown, fails."""
    plan = Target(0.5, 100, 1_000, 0.001)
    for error in (0.0, 3e-14, 1e-8, 1e-3):
        test = target_tests(plan.begin(question(error=error))._case, Votes((90, 10, 0)))[0]
        assert test.p_lower == Gaussian(0.25).probability(0.5)
        assert Fraction(test.process.null) >= Fraction(test.p_lower) + Fraction(error)
        assert test.process.null <= test.p_lower + error + 1e-15
