"""Whether an outcome follows from its own numbers, recomputed by interval enclosures.

Shares no arithmetic with the code that issued it (`bounds`, `distribution`, `eprocess`): the binomial tail, the
normal distribution and the e-value are enclosed in `enclosures`. This module checks that the setting is that of a
plan and that the votes are those that it plans; `claims` checks what is concluded from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from certserve.smoothing.bounds import LARGEST_N
from certserve.smoothing.claims import check_certificate, check_prediction
from certserve.smoothing.ledger import Ledger
from certserve.smoothing.outcomes import Abstention, Bound, Certificate, Prediction, Rejected, Setting, Undecided, Votes
from certserve.smoothing.rejection import check_rejection

__all__ = ["verify"]

_PLANS = {
    Certificate: ("fixed", "looks", "target"),
    Prediction: ("fixed-predict", "anytime-predict"),
    Abstention: ("fixed", "looks", "target", "fixed-predict", "anytime-predict"),
    Rejected: ("fixed", "looks", "target", "fixed-predict", "anytime-predict"),
}
_LARGEST_N0_OF_A_PRIOR = 10_000


def verify(outcome: Certificate | Prediction | Abstention | Undecided | Rejected) -> tuple[str, ...]:
    """What was checked, a sentence each. The draws themselves are not repeated.

    Raises:
        VerificationFailed: the outcome claims something that its numbers do not carry; all such claims (where the
            setting or the totals are wrong already, those only: nothing can be computed from them).
    """
    if isinstance(outcome, Undecided):
        return ("Nothing is claimed.",)
    ledger = Ledger()
    _check_numbers(outcome, ledger)
    ledger.conclude()
    _check_plan(outcome.setting, ledger)
    if isinstance(outcome, Rejected):
        check_rejection(outcome, ledger)
        ledger.conclude()
        return tuple(ledger.checked)
    _check_votes(outcome, ledger)
    ledger.conclude()
    if isinstance(outcome, Certificate):
        check_certificate(outcome, ledger)
    elif isinstance(outcome, Prediction):
        check_prediction(outcome, ledger)
    else:
        ledger.claim(True, "The abstention claims nothing about any class.", "")
    ledger.conclude()
    return tuple(ledger.checked)


def _check_numbers(outcome: Certificate | Prediction | Abstention | Rejected, ledger: Ledger) -> None:
    """What every plan's setting has: levels and draws in range, and a plan that gives such outcomes."""
    setting = outcome.setting
    in_range = 0.0 < setting.sigma < math.inf and 0.0 < setting.alpha < 1.0 and 0.0 <= setting.arithmetic_error < 0.5
    ledger.claim(in_range, "sigma, alpha and d * eps are in range.", "sigma, alpha or d * eps is out of range")
    least = 1 if isinstance(outcome, Certificate) else 0
    ledger.claim(
        1 <= setting.n <= LARGEST_N and least <= setting.n0 <= LARGEST_N,
        "The numbers of draws are in range.",
        f"n0 = {setting.n0} or n = {setting.n} is out of range",
    )
    ledger.claim(
        setting.plan in _PLANS[type(outcome)],
        f"The plan {setting.plan!r} gives such outcomes.",
        f"the plan {setting.plan!r} is not one that this version verifies for such an outcome",
    )
    schedule = setting.schedule
    shares = (*schedule.alphas, *schedule.runner_up_alphas)
    divided = in_range and all(0.0 < share < 1.0 for share in shares)
    ledger.claim(
        divided and sum(map(Fraction, shares)) <= Fraction(setting.alpha),
        "What the looks may spend is at most alpha in all.",
        f"the looks may spend {shares}, which is not a division of alpha = {setting.alpha!r}",
    )


def _check_plan(setting: Setting, ledger: Ledger) -> None:
    """The looks, the shares of alpha and the radii are those of such a plan."""
    schedule, n = setting.schedule, setting.n
    two_class = setting.bound is Bound.TWO_CLASS
    fits = not two_class
    if setting.plan in ("fixed", "fixed-predict", "looks"):
        looks = setting.looks
        single = setting.plan != "looks"
        fits = looks[-1:] == (n,) and _increase((0, *looks)) and (len(looks) == 1 or not single)
        fits &= (schedule.every, schedule.radii) == (0, ()) and schedule.precision >= 0.0
        fits &= not (single and schedule.precision != 0.0)
        fits &= len(schedule.alphas) == (0 if single and not two_class else len(looks))
        fits &= len(schedule.runner_up_alphas) == (len(looks) if two_class else 0)
        fits &= not two_class or setting.plan != "fixed-predict"
    else:
        fits &= setting.looks == () and schedule.every >= 1 and schedule.precision == 0.0
        fits &= (schedule.alphas, schedule.runner_up_alphas) == ((), ())
        radii = schedule.radii
        if setting.plan == "target":
            fits &= bool(radii) and _increase((0.0, *radii)) and math.isfinite(radii[-1])
            fits &= 1 <= setting.n0 <= _LARGEST_N0_OF_A_PRIOR
        else:
            fits &= radii == () and setting.n0 >= 1
    ledger.claim(
        fits,
        f"The looks, their shares of alpha and the radii are those of a plan {setting.plan!r}.",
        f"a plan {setting.plan!r} has no such looks, bound, shares or radii: {setting.looks}, {schedule}",
    )


def _check_votes(outcome: Certificate | Prediction | Abstention, ledger: Ledger) -> None:
    """There are as many votes as were planned, and votes that came earlier are among the later ones."""
    setting = outcome.setting
    if isinstance(outcome, Prediction):
        looks, selection = (*outcome.reselections, outcome.votes), outcome.selection
    else:
        looks, selection = outcome.estimation, outcome.selection
    ledger.claim(
        bool(looks) and all(_is_planned(votes.total, setting) for votes in looks),
        f"The estimation votes sum to {', '.join(str(votes.total) for votes in looks)}: planned looks.",
        f"the estimation votes sum to {tuple(votes.total for votes in looks)}, which are not the planned looks",
    )
    ledger.claim(
        selection.total == setting.n0,
        f"The selection votes sum to {setting.n0}.",
        f"the selection votes sum to {selection.total}, but {setting.n0} were planned",
    )
    negative = any(min((*votes.counts, votes.non_finite)) < 0 for votes in (selection, *looks))
    ledger.claim(not negative, "No count is negative.", "a count is negative")
    ledger.claim(
        all(_precedes(a, b) for a, b in pairwise(sorted(looks, key=lambda votes: votes.total))),
        "Votes that came earlier are among the later ones.",
        "votes at an earlier look are missing at a later one",
    )


def _is_planned(draws: int, setting: Setting) -> bool:
    if setting.schedule.every >= 1:
        return 0 < draws <= setting.n and (draws % setting.schedule.every == 0 or draws == setting.n)
    return draws in setting.looks


def _precedes(earlier: Votes, later: Votes) -> bool:
    if len(earlier.counts) != len(later.counts):
        return False
    return earlier.non_finite <= later.non_finite and all(
        a <= b for a, b in zip(earlier.counts, later.counts, strict=True)
    )


def _increase(values: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(values))
