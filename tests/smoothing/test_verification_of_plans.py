"""`verify` accepts what every plan issues, at every look, and refuses it once a digit has been changed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from certserve.errors import VerificationFailed
from certserve.smoothing.distribution import Gaussian
from certserve.smoothing.document import canonical_json, from_document, to_document
from certserve.smoothing.eprocess import SLACK, EProcess, informed_priors
from certserve.smoothing.outcomes import Bound, Case, Certificate, Prediction, Schedule, Votes
from certserve.smoothing.plans import AnytimePredict, Fixed, Looks, Plan, Target, target
from certserve.smoothing.plans.plan import stated
from certserve.smoothing.schedules import doubling_looks, even_radii
from certserve.smoothing.verification import verify

Question = Callable[..., Case]
Change = Callable[[Any], Any]

PLANS: list[Plan] = [
    Fixed(100, 1_000, 0.001, Bound.TWO_CLASS),
    Target(0.25, 100, 10_000, 0.001),
    Target(0.05, 100, 10_000, 1e-6, even_radii(0.15, 0.1, 5)),
    Looks(100, doubling_looks(3_000), 0.001),
    Looks(100, doubling_looks(3_000), 0.05, Bound.TWO_CLASS, precision=0.02),
    AnytimePredict(100, 1_000, 0.001),
]


def course(plan: Plan, case: Case, share: float) -> list[Any]:
    """All certificates that are streamed, and the outcome, where every look brings about the same shares."""
    decider, issued = plan.begin(case), []
    spot = np.arange(1, plan.n + 1) * 0.6180339887498949 % 1.0  # evenly spread, however many there are
    edges = np.array([share, (1.0 + share) / 2.0, (3.0 + share) / 4.0])
    labels = np.array([1, 0, 2, 3])[np.searchsorted(edges, spot, side="right")]
    counts = [np.cumsum(labels == c)[np.asarray(plan.looks[:]) - 1].tolist() for c in range(4)]
    for *votes, none in zip(*counts, strict=True):
        outcome = decider.look(Votes((3, 96, 1)), Votes(tuple(votes), none))
        if decider.best is not None:
            issued.append(decider.best)
        if outcome is not None:
            return [*issued, outcome]
    raise AssertionError("no outcome at the last look")


@pytest.mark.parametrize("share", [0.3, 0.45, 0.6, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.name}-{plan.bound}-{len(plan.schedule.radii)}")
def test_it_accepts_what_is_issued(plan: Plan, share: float, question: Question) -> None:
    """An outcome, streamed or final, that its own numbers are said not to carry fails; its document must carry it."""
    for error in (0.0, 3e-14):
        for outcome in dict.fromkeys(course(plan, question(error=error), share)):
            read = from_document(json.loads(json.dumps(to_document(outcome), allow_nan=False)))
            assert read == outcome
            assert verify(read)


def test_it_accepts_a_target_with_looks_elsewhere(question: Question, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of a version that looked every 128 draws, refused, fails; so does one between its looks."""
    monkeypatch.setattr(target, "_EVERY", 128)
    outcome = course(Target(0.25, 100, 10_000, 0.001), question(), 0.99)[-1]
    monkeypatch.undo()
    assert (outcome.setting.schedule.every, outcome.estimation[0].total) == (128, 128)
    assert verify(outcome)
    moved = replace(outcome, setting=replace(outcome.setting, schedule=replace(outcome.setting.schedule, every=100)))
    with pytest.raises(VerificationFailed):
        verify(moved)


@pytest.mark.parametrize(("n", "share"), [(1_000_000, 0.8435), (10_000_000, 0.8421)])
def test_it_accepts_a_long_target(n: int, share: float, question: Question) -> None:
    """A target that crosses after very many draws, refused, fails."""
    outcome = course(Target(0.25, 100, n, 0.001), question(error=3e-14), share)[-1]
    assert isinstance(outcome, Certificate)
    assert outcome.estimation[0].total > 100_000
    assert verify(outcome)


def with_setting(outcome: Any, **changes: Any) -> Any:
    return replace(outcome, setting=replace(outcome.setting, **changes))


def with_schedule(outcome: Any, **changes: Any) -> Any:
    return with_setting(outcome, schedule=replace(outcome.setting.schedule, **changes))


def with_estimation(outcome: Any, *votes: Votes) -> Any:
    return replace(outcome, estimation=votes)


def scaled(values: tuple[float, ...], factor: float) -> tuple[float, ...]:
    return (values[0] * factor, *values[1:])


SHARED: dict[str, Change] = {
    "radius up by 1e-12": lambda c: replace(c, radius=c.radius * (1.0 + 1e-12)),
    "radius down by 1e-6": lambda c: replace(c, radius=c.radius * (1.0 - 1e-6)),
    "radius not a number": lambda c: replace(c, radius=math.nan),
    "p_lower up by 1e-10": lambda c: replace(c, p_lower=c.p_lower + 1e-10),
    "p_lower down by 1e-6": lambda c: replace(c, p_lower=c.p_lower - 1e-6),
    "p_lower not a number": lambda c: replace(c, p_lower=math.nan),
    "another label": lambda c: replace(c, label=0),
    "a selection too large": lambda c: replace(c, selection=Votes((3, 97, 1))),
    "sigma changed": lambda c: with_setting(c, sigma=c.setting.sigma * (1.0 + 1e-9)),
    "alpha lowered": lambda c: with_setting(c, alpha=c.setting.alpha * 1e-6),
    "n changed": lambda c: with_setting(c, n=c.estimation[-1].total - 1),
    "another plan": lambda c: with_setting(c, plan="fixed" if c.setting.plan != "fixed" else "looks"),
    "no votes": lambda c: replace(c, estimation=()),
    "other classes": lambda c: with_estimation(
        c, *[Votes(v.counts[:2], v.non_finite + v.counts[2]) for v in c.estimation]
    ),
    "the other bound": lambda c: with_setting(c, bound=next(b for b in Bound if b is not c.setting.bound)),
    "e-values added or lost": lambda c: replace(c, log_e_values=(*c.log_e_values, 7.0)),
    "no schedule": lambda c: with_setting(c, schedule=Schedule()),
    "looks": lambda c: with_setting(c, looks=(*c.setting.looks, c.setting.n + 1)),
}
TARGET: dict[str, Change] = {
    "a larger radius": lambda c: replace(c, radius=0.3, p_lower=Gaussian(0.25).probability(0.3)),
    "the grid": lambda c: with_schedule(c, radii=(c.radius * (1.0 + 1e-9),)),
    "a crossing left out": lambda c: with_estimation(c, *c.estimation[1:]),
    "an e-value up": lambda c: replace(c, log_e_values=(c.log_e_values[0] + 1e-5, *c.log_e_values[1:])),
    "an e-value down": lambda c: replace(c, log_e_values=(c.log_e_values[0] - 1e-5, *c.log_e_values[1:])),
    "an e-value not a number": lambda c: replace(c, log_e_values=(math.nan, *c.log_e_values[1:])),
    "a vote moved": lambda c: with_estimation(c, _moved(c.estimation[0]), *c.estimation[1:]),
    "a look that was not planned": lambda c: with_schedule(c, every=127),
    "no looks": lambda c: with_schedule(c, every=0),
    "d * eps raised": lambda c: with_setting(c, arithmetic_error=1e-4),
    "a share of alpha": lambda c: with_schedule(c, alphas=(c.setting.alpha,)),
    "more selection votes for the label": lambda c: replace(c, selection=Votes((0, 100, 0))),
    "radii that fall": lambda c: with_schedule(c, radii=(*c.setting.schedule.radii, 0.01)),
    "radii without end": lambda c: with_schedule(c, radii=(*c.setting.schedule.radii, math.inf)),
    "a p_upper": lambda c: replace(c, p_upper=0.1),
}
GROW: dict[str, Change] = {
    "votes that were taken back": lambda c: with_estimation(c, _anonymous(c.estimation[0], c.label), *c.estimation[1:]),
    "crossings in another order": lambda c: replace(
        c, estimation=c.estimation[::-1], log_e_values=c.log_e_values[::-1]
    ),
}
BOUNDS: dict[str, Change] = {
    "a share raised": lambda c: with_schedule(c, alphas=scaled(c.setting.schedule.alphas, 1.0 + 1e-3)),
    "a share of the relied look lowered": lambda c: with_schedule(
        c, alphas=tuple(share * (1.0 - 1e-3) for share in c.setting.schedule.alphas)
    ),
    "a share lost": lambda c: with_schedule(c, alphas=c.setting.schedule.alphas[:-1]),
    "a share zero": lambda c: with_schedule(c, alphas=scaled(c.setting.schedule.alphas, 0.0)),
    "a share not a number": lambda c: with_schedule(c, alphas=scaled(c.setting.schedule.alphas, math.nan)),
    "a vote moved": lambda c: with_estimation(c, _moved(c.estimation[0]), *c.estimation[1:]),
    "radii": lambda c: with_schedule(c, radii=(0.1,)),
    "looks at every draw": lambda c: with_schedule(c, every=1),
    "another look": lambda c: with_setting(c, looks=tuple(look + 1 for look in c.setting.looks)),
}
TWO_CLASS: dict[str, Change] = {
    "p_upper down by 1e-10": lambda c: replace(c, p_upper=c.p_upper - 1e-10),
    "p_upper down by 1e-10, and the radius with it": lambda c: _with_p_upper(c, c.p_upper - 1e-10),
    "p_upper down, and the radius with it": lambda c: _with_p_upper(c, c.p_upper - 1e-8),
    "p_upper up, and the radius with it": lambda c: _with_p_upper(c, c.p_upper + 1e-6),
    "p_upper missing": lambda c: replace(c, p_upper=1.0),
    "p_upper not a number": lambda c: replace(c, p_upper=math.nan),
    "p_upper zero": lambda c: replace(c, p_upper=0.0),
    "p_upper beyond 12 sigma": lambda c: replace(c, p_upper=1e-40),
    "the runner-up's votes moved": lambda c: with_estimation(c, *c.estimation[:-1], _renamed(c.estimation[-1])),
    "the runner-up's share": lambda c: with_schedule(
        c, runner_up_alphas=tuple(share / 2 for share in c.setting.schedule.runner_up_alphas)
    ),
    "the runner-up's share lost": lambda c: with_schedule(c, runner_up_alphas=()),
}


def _moved(votes: Votes) -> Votes:
    other, label, third = votes.counts
    return Votes((other - 1, label + 1, third), votes.non_finite)


def _anonymous(votes: Votes, label: int) -> Votes:
    """All other votes as votes for no class."""
    kept = tuple(count if c == label else 0 for c, count in enumerate(votes.counts))
    return Votes(kept, votes.total - sum(kept))


def _renamed(votes: Votes) -> Votes:
    """Some of the runner-up's votes as votes for no class."""
    return Votes((votes.counts[0] - 9, *votes.counts[1:]), votes.non_finite + 9)


def _with_p_upper(certificate: Certificate, p_upper: float) -> Certificate:
    radius = Gaussian(certificate.setting.sigma).two_class_radius(certificate.p_lower, p_upper)
    return replace(certificate, p_upper=p_upper, radius=radius)


TAMPERED = [
    *(("target", name, change) for name, change in {**SHARED, **TARGET}.items()),
    *(("grow", name, change) for name, change in {**SHARED, **TARGET, **GROW}.items() if name != "the grid"),
    *(("looks", name, change) for name, change in {**SHARED, **BOUNDS}.items()),
    *(("two-class", name, change) for name, change in {**SHARED, **BOUNDS, **TWO_CLASS}.items()),
    *(("two-class looks", name, change) for name, change in {**SHARED, **BOUNDS, **TWO_CLASS}.items()),
]
ISSUERS: dict[str, tuple[Plan, float]] = {
    "target": (Target(0.25, 100, 10_000, 0.001), 0.9),
    "grow": (Target(0.1, 100, 10_000, 0.001, (0.2, 0.25)), 0.93),
    "looks": (Looks(100, (200, 400, 1_000), 0.001), 0.9),
    "two-class": (Fixed(100, 1_000, 0.001, Bound.TWO_CLASS), 0.45),
    "two-class looks": (Looks(100, (200, 400, 1_000), 0.001, Bound.TWO_CLASS), 0.45),
}


@pytest.fixture(scope="module")
def honest(question: Question) -> dict[str, Certificate]:
    """A certificate of each plan that verifies."""
    found = {name: course(plan, question(error=1e-8), share)[-1] for name, (plan, share) in ISSUERS.items()}
    assert all(isinstance(outcome, Certificate) and verify(outcome) for outcome in found.values())
    return found


@pytest.mark.parametrize(("issuer", "name", "change"), TAMPERED, ids=[f"{plan}: {name}" for plan, name, _ in TAMPERED])
def test_a_tampered_certificate_is_refused(
    issuer: str, name: str, change: Change, honest: dict[str, Certificate]
) -> None:
    """A certificate that claims what its other numbers do not carry, accepted, fails."""
    with pytest.raises(VerificationFailed) as failure:
        verify(change(honest[issuer]))
    assert all(failure.value.discrepancies)


@pytest.mark.parametrize(
    ("before", "holds"),
    [(Votes((20, 44)), True), (Votes((10, 38)), False), (Votes((40, 24)), False)],
    ids=["as planned", "not after a doubling", "no new leader"],
)
def test_a_candidate_is_changed_only_as_planned(before: Votes, holds: bool, question: Question) -> None:
    """A test that starts anew wherever the draws so far are best left out errs more often than alpha."""
    selection, more = Votes((30, 20)), 64
    case = stated(AnytimePredict(50, 10_000, 0.001), question())
    known = selection.with_more(before)
    counts = list(before.counts)
    counts[known.top] += more
    mine, other = known.counts[known.top], known.runner_up(known.top)
    least = min(
        float(EProcess(0.5, informed_priors(mine, rival)).log_value(more, 0)) for rival in {other, known.non_finite}
    )
    claimed = Prediction(
        label=known.top,
        label_name="this",
        p_value=6.0 * math.exp(SLACK - least),
        votes=Votes(tuple(counts)),
        setting=case.setting,
        origin=case.origin,
        selection=selection,
        reselections=(before,),
    )
    if holds:
        assert any("only after a doubling" in line for line in verify(claimed))
    else:
        with pytest.raises(VerificationFailed, match="was changed where it was not to be"):
            verify(claimed)


PREDICTIONS: dict[str, Change] = {
    "another label": lambda p: replace(p, label=0),
    "a label that is not there": lambda p: replace(p, label=3),
    "p-value lowered": lambda p: replace(p, p_value=p.p_value * (1.0 - 1e-5)),
    "p-value raised": lambda p: replace(p, p_value=p.p_value * (1.0 + 1e-5)),
    "p-value not a number": lambda p: replace(p, p_value=math.nan),
    "alpha lowered": lambda p: with_setting(p, alpha=p.p_value / 2.0),
    "a vote moved": lambda p: replace(p, votes=Votes((p.votes.counts[0] - 1, p.votes.counts[1] + 1, 0))),
    "a vote lost": lambda p: replace(p, votes=Votes((4, 43, 0))),
    "another selection": lambda p: replace(p, selection=Votes((1, 3, 0))),
    "no selection": lambda p: replace(p, selection=Votes(())),
    "the re-selection left out": lambda p: replace(p, reselections=()),
    "one more re-selection": lambda p: replace(p, reselections=(Votes((2, 14, 0)), Votes((2, 14, 0)))),
    "a re-selection that was not planned": lambda p: replace(p, reselections=(Votes((2, 13, 0)),)),
    "votes that were taken back": lambda p: replace(p, reselections=(Votes((0, 15, 1)),)),
    "another plan": lambda p: with_setting(p, plan="fixed-predict"),
    "other looks": lambda p: with_schedule(p, every=5),
}


@pytest.mark.parametrize("change", PREDICTIONS.values(), ids=PREDICTIONS.keys())
def test_a_tampered_prediction_is_refused(change: Change, question: Question) -> None:
    """A prediction that its votes do not carry, accepted, fails."""
    decider = AnytimePredict(4, 1_000, 0.001).begin(question())
    for votes in ((2, 14, 0), (4, 28, 0), (4, 44, 0)):
        outcome = decider.look(Votes((3, 1, 0)), Votes(votes))
    assert isinstance(outcome, Prediction)
    assert verify(outcome)
    with pytest.raises(VerificationFailed):
        verify(change(outcome))


def test_the_candidate_led_before_it_was_tested(question: Question) -> None:
    """A consistent prediction of a class that the selection did not lead to, accepted, fails."""
    honest = AnytimePredict(4, 1_000, 0.001).begin(question()).look(Votes((1, 2, 1)), Votes((0, 32, 0)))
    assert isinstance(honest, Prediction)
    assert verify(honest)
    value = min(float(EProcess(0.5, informed_priors(1, known)).log_value(32, 0)) for known in (2, 1, 0))
    forged = replace(honest, selection=Votes((2, 1, 1)), p_value=2.0 * math.exp(1e-6 - value))
    with pytest.raises(VerificationFailed, match="did not lead the votes before") as failure:
        verify(forged)
    assert len(failure.value.discrepancies) == 1


def test_what_the_looks_may_spend_is_added_up_exactly(question: Question) -> None:
    """Shares whose exact sum exceeds alpha by one unit in the last place, accepted, fail."""
    honest = course(Looks(100, (200, 1_000), 0.001), question(), 0.9)[-1]
    last = honest.setting.schedule.alphas[-1]
    first = math.nextafter(0.001 - last, 1.0)
    assert first + last == 0.001  # in floats
    assert Fraction(first) + Fraction(last) > Fraction(0.001)
    with pytest.raises(VerificationFailed, match="not a division of alpha"):
        verify(with_schedule(honest, alphas=(first, last)))


def test_any_changed_digit_changes_the_canonical_json(honest: dict[str, Certificate]) -> None:
    """Two outcomes that differ in one digit, and not in the bytes that are signed, fail; so does a wording."""
    for certificate in honest.values():
        text = canonical_json(certificate).decode()
        assert certificate.statement not in text
        assert json.loads(text).keys() == to_document(certificate).keys() - {"statement"}
        assert canonical_json(from_document(to_document(certificate))) == text.encode()
        for i, digit in enumerate(text):
            if digit.isdigit():
                changed = f"{text[:i]}{(int(digit) + 1) % 10}{text[i + 1 :]}"
                try:
                    other = from_document(json.loads(changed) | {"statement": ""})
                except ValueError:
                    continue
                same = canonical_json(other) == text.encode()
                assert not same or float(_number_at(changed, i)) == float(_number_at(text, i))


def _number_at(text: str, i: int) -> str:
    """The number in which the digit stands."""
    first, last = i, i
    while text[first - 1] in "0123456789.e-+":
        first -= 1
    while text[last + 1] in "0123456789.e-+":
        last += 1
    return text[first : last + 1]
