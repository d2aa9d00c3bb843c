"""Target and Looks: when they stop, what they then say, and what is valid before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from certserve.smoothing.bounds import LARGEST_N, smallest_target_n
from certserve.smoothing.decision import certified_probability, runner_up_probability
from certserve.smoothing.distribution import Gaussian
from certserve.smoothing.enclosures import normal_cdf
from certserve.smoothing.eprocess import SLACK, EProcess, crossing_level, informed_priors
from certserve.smoothing.outcomes import Abstention, Bound, Case, Certificate, Undecided, Votes
from certserve.smoothing.plans import AnytimePredict, Fixed, FixedPredict, Looks, Plan, Target
from certserve.smoothing.plans.target import LARGEST_N0
from certserve.smoothing.schedules import doubling_looks, even_radii

Question = Callable[..., Case]
SELECTION = Votes((95, 3, 2))


def at(draws: int, share: float) -> Votes:
    """Votes of so many draws, a share of them for class 0."""
    votes = round(share * draws)
    return Votes((votes, draws - votes, 0))


def run(plan: Any, case: Case, share: float, until: int = 10**9) -> tuple[Any, Any, int]:
    """The outcome, the decider and the draws where every look brings the same share of votes."""
    decider = plan.begin(case)
    for draws in plan.looks:
        if draws > until:
            return None, decider, draws
        outcome = decider.look(SELECTION, at(draws, share))
        if outcome is not None:
            return outcome, decider, draws
    raise AssertionError("no outcome at the last look")


class TestTarget:
    """Certified at the first look that shows the radius, given up where it looks out of reach."""

    @pytest.mark.parametrize("error", [0.0, 3e-14, 1e-8, 1e-3])
    def test_it_certifies_at_the_first_look_that_crosses(self, error: float, question: Question) -> None:
        """A certificate at another look than the first with ln W >= ln(1 / alpha) + 1e-6 fails."""
        plan, case = Target(0.25, 100, 100_000, 0.001), question(error=error)
        outcome, decider, draws = run(plan, case, 0.9)
        null = math.nextafter(Gaussian(0.25).probability(0.25) + error, math.inf)
        process = EProcess(null, informed_priors(95, 5))
        values = [
            float(process.log_value(at(n, 0.9).counts[0], at(n, 0.9).counts[1])) for n in range(64, draws + 1, 64)
        ]
        assert isinstance(outcome, Certificate)
        assert values[-1] >= crossing_level(0.001) > max(values[:-1])
        assert (outcome.radius, outcome.p_lower) == (0.25, Gaussian(0.25).probability(0.25))
        assert (outcome.estimation, outcome.selection) == ((at(draws, 0.9),), SELECTION)
        assert outcome.log_e_values == (values[-1] - SLACK,)
        assert decider.best == outcome
        assert outcome.setting.schedule == plan.schedule
        assert (outcome.setting.plan, outcome.setting.looks, outcome.setting.n0) == ("target", (), 100)

    def test_it_gives_up_where_the_radius_is_not_there(self, question: Question) -> None:
        """A hopeless image that is drawn to the end, or an abstention that names another radius, fails."""
        outcome, decider, draws = run(Target(0.25, 100, 100_000, 0.001), question(), 0.7)
        assert isinstance(outcome, Abstention)
        assert draws <= 256
        assert (outcome.radius, outcome.p_lower, outcome.p_value) == (0.25, None, None)
        assert decider.best is None
        assert outcome.statement.endswith(f"{draws} draws did not show a radius of 0.25.")

    def test_it_abstains_at_n(self, question: Question) -> None:
        """No outcome at the last look, or one at another n, fails: here n is no multiple of 64."""
        outcome, _, draws = run(Target(0.25, 100, 1_000, 0.001), question(), 0.888)
        assert isinstance(outcome, Abstention)
        assert draws == outcome.estimation[0].total == 1_000

    def test_before_it_has_crossed_it_is_undecided(self, question: Question) -> None:
        """A certificate where nothing has been shown fails."""
        _, decider, _ = run(Target(0.25, 100, 100_000, 0.001), question(), 0.86, until=256)
        end = decider.end("the time budget ended")
        assert isinstance(end, Undecided)
        assert end.reason == "the time budget ended"
        assert end.setting.schedule.radii == (0.25,)

    def test_votes_for_no_class_count_against_it(self, question: Question) -> None:
        """Draws without finite logits that are left out of the failures fail."""
        plan = Target(0.25, 100, 100_000, 0.001)
        assert isinstance(plan.begin(question()).look(SELECTION, Votes((64, 0, 0))), Certificate)
        assert isinstance(plan.begin(question()).look(SELECTION, Votes((32, 0, 0), 32)), Abstention)

    @pytest.mark.parametrize(("selection", "votes"), [(99, 64), (100, 63), (100, 128), (101, 64)])
    def test_the_totals_are_those_planned(self, selection: int, votes: int, question: Question) -> None:
        """A decision on other draws than those of the next look fails."""
        with pytest.raises(ValueError, match="planned"):
            Target(0.25, 100, 1_000, 0.001).begin(question()).look(Votes((selection, 0, 0)), Votes((votes, 0, 0)))

    def test_looks_come_in_order(self, question: Question) -> None:
        """The same look twice, which would be a look that was not planned, fails."""
        decider = Target(0.25, 100, 1_000, 0.001).begin(question())
        decider.look(SELECTION, at(64, 0.86))
        with pytest.raises(ValueError, match="planned"):
            decider.look(SELECTION, at(64, 0.86))

    def test_a_radius_that_needs_certainty(self, question: Question) -> None:
        """A target that no probability below 1 carries, accepted, fails."""
        with pytest.raises(ValueError, match="no probability below 1"):
            Target(2.5, 100, 1_000, 0.001).begin(question())

    def test_a_look_takes_microseconds(self, question: Question) -> None:
        """A look that takes as much as 2 % of a batch of 64 draws (13 ms), undecided up to 10^6 draws, fails."""
        decider = Target(0.25, 100, 1_000_000, 1e-12).begin(question())
        votes = [at(draws, 0.8452) for draws in range(64, 400_000, 64)]
        start = time.process_time()
        assert all(decider.look(SELECTION, look) is None for look in votes)
        assert (time.process_time() - start) / len(votes) < 0.02 * 0.013

    @pytest.mark.parametrize(
        "wrong",
        [
            {"radius": 0.0},
            {"radius": -0.1},
            {"radius": math.nan},
            {"radius": math.inf},
            {"grow": (0.25,)},
            {"grow": (0.4, 0.3)},
            {"grow": (0.3, math.inf)},
            {"n0": 0},
            {"n0": LARGEST_N0 + 1},
            {"n": 0},
            {"n": LARGEST_N + 1},
            {"alpha": 0.0},
            {"alpha": math.nan},
        ],
    )
    def test_arguments_outside_their_range(self, wrong: dict[str, Any]) -> None:
        """A plan that nothing vouches for fails."""
        with pytest.raises(ValueError, match=r"radii|n0|n must|alpha"):
            replace(Target(0.25, 100, 1_000, 0.001), **wrong)


class TestGrow:
    """Larger radii, one after the other, each with a certificate of its own."""

    PLAN = Target(0.1, 100, 100_000, 0.001, even_radii(0.2, 0.1, 24))

    def test_it_streams_growing_radii(self, question: Question) -> None:
        """A best certificate that shrinks, skips a radius, or forgets where a smaller one crossed, fails."""
        decider, radii = self.PLAN.begin(question()), (0.1, *self.PLAN.grow)
        best, seen = None, 0
        for draws in self.PLAN.looks:
            outcome = decider.look(SELECTION, at(draws, 0.97))
            if decider.best is not None and decider.best is not best:
                assert best is None or decider.best.estimation[: len(best.estimation)] == best.estimation
                best, seen = decider.best, seen + 1
                assert best.radius == radii[len(best.estimation) - 1]
                assert best.estimation[-1].total == draws
                assert all(value >= -math.log(0.001) for value in best.log_e_values)
            if outcome is not None:
                break
        assert outcome == best == decider.end("the time budget ended")
        assert seen >= 3
        assert 0.4 <= best.radius < Gaussian(0.25).radius(0.97) + 0.05

    def test_a_larger_radius_waits_for_the_smaller_ones(self, question: Question) -> None:
        """A radius certified from its own e-value alone, while a smaller one has not crossed, fails."""
        decider = Target(0.1, 100, 100_000, 0.001, (0.2,)).begin(question())
        decider.look(SELECTION, at(64, 0.7))
        decider._tests[0].level = math.inf
        assert decider.look(SELECTION, at(128, 1.0)) is None
        assert decider.best is None

    def test_giving_up_later_keeps_what_was_shown(self, question: Question) -> None:
        """An abstention, although a smaller radius was shown, fails; so does drawing on in vain."""
        outcome, _, draws = run(Target(0.1, 100, 10_000_000, 0.001, (0.6,)), question(), 0.9)
        assert isinstance(outcome, Certificate)
        assert outcome.radius == 0.1
        assert draws < 10_000

    def test_radii_that_need_certainty_are_never_reached(self, question: Question) -> None:
        """An endless run, or an error, where the grid goes on beyond what any probability carries, fails."""
        outcome, _, draws = run(Target(0.1, 100, 100_000, 0.001, (0.2, 2.5)), question(), 1.0)
        assert isinstance(outcome, Certificate)
        assert (outcome.radius, draws) == (0.2, 64)


class TestLooks:
    """The best of the bounds so far, each at its own share."""

    def test_every_look_has_its_own_bound(self, question: Question) -> None:
        """A bound at another level, or a best certificate that is not the best so far, fails."""
        plan = Looks(100, doubling_looks(10_000), 0.001)
        decider, best = plan.begin(question(error=3e-14)), 0.0
        shares = [1.0, 0.9, 0.99, 0.5, 0.97, 0.97, 0.96]
        for draws, alpha, share in zip(plan.looks, plan.schedule.alphas, shares, strict=True):
            outcome = decider.look(SELECTION, at(draws, share))
            p_lower = certified_probability(at(draws, share).counts[0], draws, alpha, 3e-14)
            assert decider.best is not None
            if p_lower > best:
                best = p_lower
                assert decider.best.estimation == (at(draws, share),)
            assert decider.best.p_lower == best
            assert (outcome is None) == (draws < 10_000)
        assert outcome == decider.best == decider.end("the time budget ended")
        assert decider.best.setting.schedule.alphas == plan.schedule.alphas

    def test_the_best_of_each_bound(self, question: Question) -> None:
        """A two-class certificate whose bounds are not the best of all looks, each at its own share, fails."""
        plan = Looks(100, (1_000, 2_000), 0.001, Bound.TWO_CLASS)
        decider, early, late = plan.begin(question()), Votes((600, 400, 0)), Votes((1_000, 500, 500))
        assert decider.look(SELECTION, early) is None
        outcome = decider.look(SELECTION, late)
        assert isinstance(outcome, Certificate)
        assert outcome.estimation == (early, late)
        assert outcome.p_lower == certified_probability(600, 1_000, plan.schedule.alphas[0], 0.0)
        assert outcome.p_upper == runner_up_probability(500, 2_000, plan.schedule.runner_up_alphas[1], 0.0)
        again = plan.begin(question())
        assert again.look(SELECTION, Votes((520, 480, 0))) is None
        nothing = again.look(SELECTION, Votes((520, 480, 0), 1_000))
        assert isinstance(nothing, Abstention)
        assert nothing.p_lower == certified_probability(520, 1_000, plan.schedule.alphas[0], 0.0)

    def test_nothing_shown(self, question: Question) -> None:
        """A certificate without a positive radius, or no outcome at the last look, fails."""
        plan = Looks(100, (100, 200), 0.001)
        decider = plan.begin(question())
        assert decider.look(SELECTION, at(100, 0.5)) is None
        assert isinstance(decider.end("the time budget ended"), Undecided)
        outcome = decider.look(SELECTION, at(200, 0.5))
        assert isinstance(outcome, Abstention)
        assert outcome.p_lower is not None

    def test_one_look_is_fixed(self, question: Question) -> None:
        """Another bound than that of Fixed, where there is one look, fails."""
        for bound in Bound:
            one = Looks(100, (1_000,), 0.001, bound).begin(question()).look(SELECTION, at(1_000, 0.9))
            fixed = Fixed(100, 1_000, 0.001, bound).begin(question()).look(SELECTION, at(1_000, 0.9))
            assert isinstance(one, Certificate)
            assert isinstance(fixed, Certificate)
            assert (one.radius, one.p_lower, one.p_upper) == (fixed.radius, fixed.p_lower, fixed.p_upper)

    @pytest.mark.parametrize("share", [0.6, 0.75, 0.9, 0.99, 0.999, 1.0])
    @pytest.mark.parametrize("n", [10_000, 100_000])
    def test_the_price_of_looking_early(self, n: int, share: float, question: Question) -> None:
        """More than half a per cent of the radius lost against Fixed, at n >= 10,000 and p >= .6, fails."""
        outcome, _, _ = run(Looks(100, doubling_looks(n), 0.001), question(), share)
        fixed = Fixed(100, n, 0.001).begin(question()).look(SELECTION, at(n, share))
        assert isinstance(fixed, Certificate)
        assert fixed.radius * 0.995 <= outcome.radius <= fixed.radius

    @pytest.mark.parametrize("bound", list(Bound))
    @pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99, 1.0])
    def test_it_stops_once_it_is_precise(self, share: float, bound: Bound, question: Question) -> None:
        """More than `precision` given up against going on, or a stop that saves nothing, fails."""
        plan = Looks(100, doubling_looks(100_000), 0.001, bound, precision=0.05)
        outcome, _, draws = run(plan, question(), share)
        whole, _, _ = run(replace(plan, precision=0.0), question(), share)
        radius = outcome.radius if isinstance(outcome, Certificate) else 0.0
        most = whole.radius if isinstance(whole, Certificate) else 0.0
        assert most - radius <= 0.05
        assert draws < 100_000 or share == 1.0  # where all agree, every draw still adds

    def test_a_finer_precision_takes_more_draws(self, question: Question) -> None:
        """A precision that has no effect on when it stops fails."""
        taken = [
            run(Looks(100, doubling_looks(100_000), 0.001, precision=eps), question(), 0.9)[2]
            for eps in (0.1, 0.03, 0.01, 1e-6)
        ]
        assert taken == sorted(taken)
        assert taken[0] < taken[1] < taken[3] == 100_000

    @pytest.mark.parametrize(
        "wrong",
        [
            {"looks": ()},
            {"looks": (0, 10)},
            {"looks": (20, 10)},
            {"looks": (10, 10)},
            {"looks": (LARGEST_N + 1,)},
            {"precision": -0.1},
            {"precision": math.nan},
            {"alpha": 1e-100},
            {"alpha": 2.0},
            {"n0": 0},
        ],
    )
    def test_arguments_outside_their_range(self, wrong: dict[str, Any]) -> None:
        """A plan that nothing vouches for fails."""
        with pytest.raises(ValueError, match=r"looks|precision|alpha|n0"):
            replace(Looks(100, (10, 20), 0.001), **wrong)

    @pytest.mark.parametrize(("selection", "votes"), [(99, 100), (100, 99), (100, 200)])
    def test_the_totals_are_those_planned(self, selection: int, votes: int, question: Question) -> None:
        """A decision on other draws than those of the next look fails."""
        with pytest.raises(ValueError, match="planned"):
            Looks(100, (100, 200), 0.001).begin(question()).look(Votes((selection, 0, 0)), Votes((votes, 0, 0)))


PLANS: list[Plan] = [
    Fixed(100, 1_000, 0.001),
    Fixed(100, 1_000, 0.001, Bound.TWO_CLASS),
    FixedPredict(1_000, 0.001),
    Target(0.25, 100, 10_000, 0.001, (0.3,)),
    Looks(100, (100, 1_000), 0.001, Bound.TWO_CLASS, 0.01),
    AnytimePredict(100, 1_000, 0.001),
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.name}-{plan.bound}")
def test_a_plan_states_itself(plan: Plan, question: Question) -> None:
    """A setting that does not say what the plan did, whatever it was told, fails; so do looks that end before n."""
    end = plan.begin(question()).end("the time budget ended")
    assert isinstance(end, Undecided)
    setting = end.setting
    assert (setting.plan, setting.n0, setting.n, setting.alpha) == (plan.name, plan.n0, plan.n, plan.alpha)
    assert (setting.bound, setting.schedule) == (plan.bound, plan.schedule)
    assert setting.looks == (() if plan.schedule.every else tuple(plan.looks))
    assert plan.looks[-1] == plan.n


@pytest.mark.parametrize("sigma", [0.12, 0.25, 1.0])
@pytest.mark.parametrize("radius", [1e-9, 0.1, 0.25, 0.5, 0.75, 0.9])
def test_what_a_radius_needs_is_rounded_up(sigma: float, radius: float) -> None:
    """A probability below Phi(r / sigma), by enclosure, or above it by more than 1e-13, fails."""
    found = Gaussian(sigma).probability(radius)
    exact = normal_cdf(min(12.0, math.nextafter(radius / sigma, math.inf)))
    assert exact.high <= found or found == 1.0
    assert found <= float(exact.high) * (1.0 + 1e-13)


@pytest.mark.parametrize("radius", [-1e-9, math.nan, math.inf])
def test_no_probability_of_what_is_no_radius(radius: float) -> None:
    """A null made from something that is no radius fails."""
    with pytest.raises(ValueError, match="radius"):
        Gaussian(0.25).probability(radius)


@pytest.mark.parametrize("null", [0.5, 0.69, 0.84, 0.977, 0.9987])
@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-12])
def test_the_smallest_n_that_a_target_could_do_with(null: float, alpha: float) -> None:
    """An n at which null^n exceeds alpha, or one more than is needed, fails (an exact tie aside)."""
    n = smallest_target_n(null, alpha)
    assert Fraction(null) ** n <= Fraction(alpha) * (1 + Fraction(1, 10**12))
    assert n == 1 or Fraction(null) ** (n - 1) > Fraction(alpha) * (1 - Fraction(1, 10**12))


@pytest.mark.parametrize(("null", "alpha"), [(0.0, 0.1), (1.0, 0.1), (0.5, 0.0), (1.0 - 1e-9, 1e-12)])
def test_no_smallest_n(null: float, alpha: float) -> None:
    """An n named although none up to 10^7 would do fails."""
    with pytest.raises(ValueError, match=r"must lie|no n up to"):
        smallest_target_n(null, alpha)
