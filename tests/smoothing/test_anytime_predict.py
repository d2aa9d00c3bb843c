"""AnytimePredict: how often it names a wrong class, by dynamic programming and by enumeration; what it rests on."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import multinomial as multinomial_law

from certserve.smoothing.eprocess import EProcess, crossing_level, informed_priors
from certserve.smoothing.outcomes import Abstention, Case, Prediction, Undecided, Votes
from certserve.smoothing.plans import AnytimePredict
from certserve.smoothing.verification import verify

Question = Callable[..., Case]
Reals = npt.NDArray[np.float64]


def step_masses(p: float, q: float, draws: int) -> Reals:
    """P(a votes for A and b for B among the draws), where they have p and q; the rest go elsewhere."""
    a, b = np.meshgrid(np.arange(draws + 1), np.arange(draws + 1), indexing="ij")
    counts = np.stack([a, b, draws - a - b], axis=-1)
    masses = np.zeros_like(a, dtype=np.float64)
    inside = a + b <= draws
    masses[inside] = multinomial_law.pmf(counts[inside], draws, [p, q, 1.0 - p - q])
    return masses


def ever_beats(p: float, q: float, process: EProcess, level: float, draws: int) -> float:
    """P(the candidate with p is shown to beat the class with q at some look), a look every 16 draws."""
    step = step_masses(p, q, 16)
    mass, shown = np.ones((1, 1)), 0.0
    for look in range(16, draws + 1, 16):
        grown = np.zeros((look + 1, look + 1))
        for (a, b), weight in np.ndenumerate(step):
            if weight > 1e-12:
                grown[a : a + len(mass), b : b + len(mass)] += weight * mass
        votes, others = np.meshgrid(np.arange(look + 1), np.arange(look + 1), indexing="ij")
        crossed = process.log_value(votes, others) >= level
        shown += float(grown[crossed].sum())
        mass = np.where(crossed, 0.0, grown)
    return shown


@pytest.mark.parametrize("share", [0.5, 0.1, 0.001])
@pytest.mark.parametrize(("mine", "other"), [(9, 7), (16, 0), (1, 1)])
def test_an_equal_rival_is_beaten_with_probability_at_most_alpha(share: float, mine: int, other: int) -> None:
    """More than alpha, among 2 or 1000 equal classes, that the test against the top class errs fails.

    Naming a class needs its test against the true top class to err, whatever the others do: the number of
    classes does not enter.
    """
    process = EProcess(0.5, informed_priors(mine, other))
    rate = ever_beats(share, share, process, crossing_level(0.05), 96)
    assert rate <= 0.05
    assert rate > 0.004 or share < 0.05  # rare classes have few votes by then


def test_the_whole_procedure_with_two_equal_classes(question: Question) -> None:
    """More than alpha of all votes of 3 + 48 draws naming either of two equal classes, re-selection included, fails."""
    half = [Fraction(math.comb(16, k), 2**16) for k in range(17)]
    plan = AnytimePredict(3, 48, 0.2)
    wrong, reselected = Fraction(0), 0
    for s, *course in product(range(4), range(17), range(17), range(17)):
        weight = Fraction(math.comb(3, s), 8) * half[course[0]] * half[course[1]] * half[course[2]]
        if weight < Fraction(1, 10**6):  # counted as errors, all of them
            wrong += weight
            continue
        outcome = play(plan, question(2), Votes((s, 3 - s)), [Votes((k, 16 - k)) for k in course])
        wrong += weight * isinstance(outcome, Prediction)
        reselected += isinstance(outcome, Prediction) and bool(outcome.reselections)
    assert Fraction(1, 100) < wrong <= Fraction(2, 10)
    assert reselected > 0


@pytest.mark.parametrize("parts", [(1, 1, 1), (2, 2, 1)])
def test_the_whole_procedure_with_three_classes(
    parts: tuple[int, ...], question: Question, enumeration: ModuleType
) -> None:
    """More than alpha of all votes naming a class that is not the top one fails, over looks after 6 and 12 draws."""
    p = tuple(Fraction(part, sum(parts)) for part in parts)
    plan = AnytimePredict(2, 12, 0.5)
    top = [c for c in range(3) if all(p[c] > q for other, q in enumerate(p) if other != c)]
    steps = [(votes, enumeration.multinomial(votes, p)) for votes in enumeration.compositions(6, 3)]
    wrong = Fraction(0)
    for selection in enumeration.compositions(2, 3):
        for (first, a), (second, b) in product(steps, steps):
            outcome = play(plan, question(3), Votes(selection), [Votes(first), Votes(second)])
            if isinstance(outcome, Prediction) and outcome.label not in top:
                wrong += enumeration.multinomial(selection, p) * a * b
    assert wrong <= Fraction(1, 2)
    assert wrong > 0


def play(plan: AnytimePredict, case: Case, selection: Votes, steps: list[Votes]) -> Prediction | Abstention | None:
    """The outcome where each look adds so many votes."""
    decider = plan.begin(case)
    votes = Votes((0,) * len(selection.counts))
    for step in steps:
        votes = votes.with_more(step)
        outcome = decider.look(selection, votes)
        if outcome is not None:
            return outcome
    return None


class TestDecider:
    """What it decides on."""

    def test_an_easy_image_takes_a_few_dozen_draws(self, question: Question) -> None:
        """A unanimous image that takes more than 32 draws with the selection, of 1,000 classes too, fails."""
        for classes in (10, 1000):
            nobody = (0,) * (classes - 1)
            case = question(10)
            decider = AnytimePredict(16, 10_000, 0.001).begin(case)
            outcome = decider.look(Votes((16, *nobody)), Votes((16, *nobody)))
            assert isinstance(outcome, Prediction)
            assert outcome.p_value <= 0.001
            assert outcome.setting.schedule.every == 16

    def test_a_class_without_votes_is_checked_too(self, question: Question) -> None:
        """A label although a class that nobody voted for, or the draws without finite logits, could lead, fails."""
        plan = AnytimePredict(16, 10_000, 0.001)
        assert plan.begin(question()).look(Votes((16, 0, 0)), Votes((8, 0, 0))) is None
        assert plan.begin(question()).look(Votes((16, 0, 0)), Votes((20, 0, 0), 12)) is None
        assert isinstance(plan.begin(question()).look(Votes((16, 0, 0)), Votes((32, 0, 0))), Prediction)

    def test_the_hardest_rival_decides_whatever_its_prior(self, question: Question) -> None:
        """A decision other than that of the test against every single class, each with its own prior, fails."""
        plan, alpha = AnytimePredict(40, 10_000, 0.05), 0.05
        selection = Votes((20, 12, 5, 3, 0), 0)
        for votes in (
            Votes((30, 9, 9, 0, 0)),
            Votes((30, 4, 12, 2, 0)),
            Votes((40, 8, 0, 0, 0)),
            Votes((26, 6, 0, 0, 0)),
        ):
            outcome = plan.begin(question(5)).look(selection, votes)
            level = crossing_level(alpha / 2)
            values = [
                float(EProcess(0.5, informed_priors(20, known)).log_value(votes.counts[0], count))
                for known, count in zip((12, 5, 3, 0, 0), (*votes.counts[1:], votes.non_finite), strict=True)
            ]
            assert isinstance(outcome, Prediction) == (min(values) >= level)
            if isinstance(outcome, Prediction):
                assert outcome.p_value == pytest.approx(2.0 * math.exp(-min(values)), rel=1e-5)

    def test_a_candidate_that_does_not_lead_is_replaced(self, question: Question) -> None:
        """A new candidate that is tested on draws that chose it, or at the level of the first, fails."""
        decider = AnytimePredict(4, 10_000, 0.001).begin(question())
        selection = Votes((3, 1, 0))
        assert decider.look(selection, Votes((2, 14, 0))) is None
        assert decider.look(selection, Votes((4, 28, 0))) is None  # all 32 together would be enough
        both = EProcess(0.5, informed_priors(1, 3)).log_value(28, 4)
        assert both >= crossing_level(0.001)
        outcome = decider.look(selection, Votes((4, 44, 0)))
        assert isinstance(outcome, Prediction)
        assert (outcome.label, outcome.reselections) == (1, (Votes((2, 14, 0)),))
        fresh = EProcess(0.5, informed_priors(15, 5)).log_value(30, 2)
        assert outcome.p_value == pytest.approx(6.0 * math.exp(-float(fresh)), rel=1e-5)
        assert verify(outcome)

    def test_a_candidate_is_replaced_at_doubling_draws_only(self, question: Question) -> None:
        """A change of candidate at 48 draws, which would let alpha be spent at every look, fails."""
        decider = AnytimePredict(4, 10_000, 0.001).begin(question())
        selection = Votes((4, 0, 0))
        for votes in ((8, 8, 0), (16, 16, 0), (20, 28, 0)):
            assert decider.look(selection, Votes(votes)) is None
        assert decider._candidate is not None
        assert decider._candidate.label == 0
        assert decider.look(selection, Votes((24, 40, 0))) is None
        assert decider._candidate.label == 1

    def test_it_abstains_at_n_and_is_undecided_before(self, question: Question) -> None:
        """No answer at the last look, or a label without a test, fails."""
        decider = AnytimePredict(4, 32, 0.001).begin(question())
        assert decider.look(Votes((4, 0, 0)), Votes((8, 8, 0))) is None
        end = decider.end("the time budget ended")
        assert isinstance(end, Undecided)
        assert (end.setting.plan, end.setting.n0, end.setting.looks) == ("anytime-predict", 4, ())
        outcome = decider.look(Votes((4, 0, 0)), Votes((16, 16, 0)))
        assert isinstance(outcome, Abstention)
        assert outcome.p_value == 1.0
        assert outcome.estimation == (Votes((16, 16, 0)),)
        assert verify(outcome)

    @pytest.mark.parametrize(
        ("selection", "votes"), [((3, 0, 0), (16, 0, 0)), ((4, 0, 0), (33, 0, 0)), ((4, 0, 0), (0, 0, 0))]
    )
    def test_the_totals_are_those_planned(
        self, selection: tuple[int, ...], votes: tuple[int, ...], question: Question
    ) -> None:
        """A decision on fewer selection draws or more estimation draws than were planned fails."""
        with pytest.raises(ValueError, match="planned"):
            AnytimePredict(4, 32, 0.001).begin(question()).look(Votes(selection), Votes(votes))
