"""What an answer is: Certificate, Prediction, Abstention, Undecided or Rejected, with all that is needed to check it.

Every outcome carries its `Setting` (how the question was asked), its `Origin` (of what model and pixels) and the
votes it rests on. They are values: frozen, comparable, free of any runtime. `signature` is the envelope: who answered,
over all that is compared (`certserve.endpoints.signatures`); empty for nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from certserve.smoothing.verdicts import DetectorVerdict, Verdict

__all__ = [
    "Abstention",
    "Bound",
    "Case",
    "Certificate",
    "CertifyOutcome",
    "Origin",
    "PredictOutcome",
    "Prediction",
    "Rejected",
    "Schedule",
    "Setting",
    "Space",
    "Undecided",
    "Votes",
    "round_down",
    "round_up",
]


class Bound(StrEnum):
    """How the runner-up is bounded; chosen before any draw."""

    BINARY = "binary"
    """The runner-up has at most 1 - p_lower (Cohen et al. 2019)."""

    TWO_CLASS = "two-class"
    """The runner-up is bounded from its own votes, with a share of alpha: p_upper."""


@dataclass(frozen=True, slots=True)
class Votes:
    """How many draws voted for each class.

    `counts[c]` is the number of draws whose argmax was class c; `non_finite` counts the draws whose logits were
    not all finite. Those are votes for no class: part of the total, never of a class.
    """

    counts: tuple[int, ...]
    non_finite: int = 0

    @classmethod
    def of(cls, tally: npt.NDArray[np.int64]) -> Votes:
        """From an array of shape (num_classes + 1,) whose last entry counts the non-finite draws."""
        return cls(tuple(int(c) for c in tally[:-1]), int(tally[-1]))

    @property
    def total(self) -> int:
        return sum(self.counts) + self.non_finite

    @property
    def top(self) -> int:
        """The class with the most votes; the lowest index among equals."""
        return max(range(len(self.counts)), key=self.counts.__getitem__)

    def runner_up(self, label: int) -> int:
        """The most votes that a class other than `label` has; those for no class stand as a class of their own."""
        return max([self.non_finite, *self.counts[:label], *self.counts[label + 1 :]])

    def since(self, earlier: Votes) -> Votes:
        """The votes that came after `earlier`."""
        counts = tuple(late - early for late, early in zip(self.counts, earlier.counts, strict=True))
        return Votes(counts, self.non_finite - earlier.non_finite)

    def with_more(self, more: Votes) -> Votes:
        """These votes and `more` together."""
        counts = tuple(one + other for one, other in zip(self.counts, more.counts, strict=True))
        return Votes(counts, self.non_finite + more.non_finite)


@dataclass(frozen=True, slots=True)
class Space:
    """The pixels that a radius is about.

    Attributes:
        description: in words: decoded as sent, or resized and how.
        shape: (channels, height, width).
        units: what one unit of the radius is.
        digest: SHA-256 over shape, arithmetic and pixels, in hexadecimal.
    """

    description: str
    shape: tuple[int, ...]
    units: str
    digest: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a plan with several looks, radii or bounds fixes before any draw; empty for Fixed with the binary bound.

    Attributes:
        every: a look at each multiple of so many estimation draws, and at n; 0: at `Setting.looks` only.
        alphas: what each look may spend on the bound of the label's probability; they and `runner_up_alphas`
            together are at most alpha. Empty: all of alpha, whatever the number of looks.
        runner_up_alphas: what each look may spend on the runner-up's bound; empty with the binary bound.
        radii: the radii asked about, increasing, in input units; the first is the target.
        precision: a radius that may be given up for fewer draws, in input units; 0: nothing.
    """

    every: int = 0
    alphas: tuple[float, ...] = ()
    runner_up_alphas: tuple[float, ...] = ()
    radii: tuple[float, ...] = ()
    precision: float = 0.0


@dataclass(frozen=True, slots=True)
class Setting:
    """How the question was asked: every parameter that the answer depends on.

    Attributes:
        sigma: noise level in input units.
        n0: selection draws (0 where the procedure has none). n: estimation draws.
        alpha: failure probability of the whole answer.
        plan: the name of the plan ("fixed"). looks: the estimation indices at which it may decide (empty where
            `schedule.every` says it).
        bound: how the runner-up is bounded.
        arithmetic: "grid" or "float" (see `certserve.noise`). stream: what generates the noise.
        arithmetic_error: d * eps, deducted from p_lower and added to p_upper: the total variation between the noise
            drawn and the noise that the guarantee speaks of, over all pixels.
        nonce: what the caller added to make it another question, in hexadecimal; empty for nothing.
        schedule: what else the plan fixed.
    """

    sigma: float
    n0: int
    n: int
    alpha: float
    plan: str
    looks: tuple[int, ...]
    bound: Bound
    arithmetic: str
    stream: str
    arithmetic_error: float
    nonce: str = ""
    schedule: Schedule = Schedule()


@dataclass(frozen=True, slots=True)
class Origin:
    """Of what: the model, the execution of it that answered, the pixels, and the noise secret's commitment."""

    model: str
    version: str
    execution: str
    fingerprint: str
    commitment: str
    space: Space


@dataclass(frozen=True, slots=True)
class Case:
    """The question a plan decides: how it was asked, of what, and what the classes are called."""

    setting: Setting
    origin: Origin
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """A label and the radius within which the smoothed classifier's answer cannot be changed.

    The guarantee, stated here once: the procedure issues a false certificate with probability at most
    `setting.alpha`, over the server's noise, for any input chosen independently of that noise. A certificate is
    false when some input within `radius` (norm `norm`, of the pixels that `origin.space` names) has another
    label under the smoothed classifier g, the majority vote over infinitely many draws. It says nothing about the
    true label, nothing about the base classifier's own answer, and nothing about another execution of the model;
    a later finite Predict nearby may abstain, or err with its own alpha.
    Of all the certificates that one job streams, the same alpha covers the event that any is false.

    Attributes:
        radius: in input units, rounded down.
        p_lower: the label's probability under the noise is at least this, d * eps deducted; rounded down. For a
            target: the probability that the radius needs, rounded up.
        estimation: the votes at each look that it relies on. "fixed" and "looks": one, with TWO_CLASS under "looks"
            two, that of p_lower and that of p_upper. "target": for each of `schedule.radii` up to this radius, the
            look at which that one crossed.
        p_upper: with TWO_CLASS, every other class's probability is at most this, d * eps added; rounded up. Else 1.
        log_e_values: for a target, ln of the e-value at each look of `estimation`.
    """

    label: int
    label_name: str
    radius: float
    norm: str
    p_lower: float
    selection: Votes
    estimation: tuple[Votes, ...]
    setting: Setting
    origin: Origin
    p_upper: float = 1.0
    log_e_values: tuple[float, ...] = ()
    signature: bytes = field(default=b"", compare=False)

    @property
    def statement(self) -> str:
        """One sentence of what is guaranteed; the radius is rounded down."""
        return (
            f"Every image within {self.norm} distance {round_down(self.radius)} of these pixels (scaled to [0, 1]) "
            f"gets the label {self.label_name!r} from the smoothed classifier at sigma {self.setting.sigma!r}; "
            f"the procedure issues a false certificate with probability at most {self.setting.alpha!r}."
        )


@dataclass(frozen=True, slots=True)
class Prediction:
    """The smoothed classifier's label: wrong about it with probability at most `setting.alpha`.

    Attributes:
        p_value: rounded up. "anytime-predict": the reciprocal of the smallest e-value.
        votes: the estimation votes at the look that decided.
        selection: the selection votes; empty where the procedure has none.
        reselections: "anytime-predict": the estimation votes at each look at which another candidate was chosen.
    """

    label: int
    label_name: str
    p_value: float
    votes: Votes
    setting: Setting
    origin: Origin
    selection: Votes = Votes(())
    reselections: tuple[Votes, ...] = ()
    signature: bytes = field(default=b"", compare=False)

    @property
    def statement(self) -> str:
        """One sentence of what is guaranteed."""
        return (
            f"{self.label_name!r} is the smoothed classifier's answer at sigma {self.setting.sigma!r}; the "
            f"procedure returns another label with probability at most {self.setting.alpha!r}."
        )


@dataclass(frozen=True, slots=True)
class Abstention:
    """The procedure declines: the votes do not single out a class at this alpha. An outcome, not an error.

    Attributes:
        candidate: the class with the most votes (for Certify: in selection).
        selection: the selection votes (no draws for fixed Predict).
        estimation: the votes at the looks that the bounds rely on, as for a Certificate; else at the latest look.
        p_lower: for Certify, the lower bound that gives no positive radius; None for a target, and for Predict.
        p_value: for Predict, the p-value that was above alpha; else None.
        p_upper: with TWO_CLASS, the upper bound on the runner-up's probability; else 1.
        radius: for a target, the radius that was not shown, in input units; else 0.
    """

    candidate: int
    candidate_name: str
    selection: Votes
    estimation: tuple[Votes, ...]
    setting: Setting
    origin: Origin
    p_lower: float | None = None
    p_value: float | None = None
    p_upper: float = 1.0
    radius: float = 0.0
    signature: bytes = field(default=b"", compare=False)

    @property
    def statement(self) -> str:
        """One sentence of why nothing is guaranteed."""
        if self.radius > 0.0:
            why = f"{self.estimation[-1].total} draws did not show a radius of {round_up(self.radius)}"
        elif self.setting.bound is Bound.TWO_CLASS:
            why = (
                f"its probability (at least {round_down(self.p_lower or 0.0)}) was not shown to be above that of "
                f"every other (at most {round_up(self.p_upper)})"
            )
        elif self.p_lower is not None:
            why = f"its probability was shown to be at least {round_down(self.p_lower)}, which is not above 1/2"
        else:
            why = f"its lead could be chance (p-value {round_up(self.p_value or 0.0)})"
        return f"No class is guaranteed: the candidate was {self.candidate_name!r}, but {why}."


@dataclass(frozen=True, slots=True)
class Undecided:
    """The budget ended before the plan could decide; nothing is claimed."""

    reason: str
    setting: Setting
    origin: Origin
    signature: bytes = field(default=b"", compare=False)

    @property
    def statement(self) -> str:
        """One sentence of why nothing is guaranteed."""
        return f"Nothing is guaranteed: {self.reason}."


@dataclass(frozen=True, slots=True)
class Rejected:
    """The model's detectors flag the image, and the request said to ask them first: nothing was drawn.

    Nothing is claimed: neither that the image was tampered with nor that one that is not rejected was not.

    Attributes:
        detectors: what each says; one of them at least flags the image.
        setting: how the question was asked; none of its draws was taken.
    """

    detectors: tuple[DetectorVerdict, ...]
    setting: Setting
    origin: Origin
    signature: bytes = field(default=b"", compare=False)

    @property
    def verdict(self) -> Verdict:
        """What all detectors say together."""
        return Verdict(self.detectors)

    @property
    def statement(self) -> str:
        """One sentence of why nothing is guaranteed."""
        said = self.verdict.statement
        return f"Nothing is guaranteed, as nothing was drawn: {said[:1].lower()}{said[1:]}"


PredictOutcome: TypeAlias = Prediction | Abstention | Undecided | Rejected
CertifyOutcome: TypeAlias = Certificate | Abstention | Undecided | Rejected


def round_down(value: float, digits: int = 4) -> str:
    """`value` as a decimal of `digits` significant digits that never exceeds it."""
    return _rounded(value, digits, ROUND_FLOOR)


def round_up(value: float, digits: int = 4) -> str:
    """`value` as a decimal of `digits` significant digits that is never below it."""
    return _rounded(value, digits, ROUND_CEILING)


def _rounded(value: float, digits: int, direction: str) -> str:
    if value == 0.0:
        return "0"
    exact = Decimal(value)
    rounded = exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), rounding=direction)
    return f"{rounded.normalize():f}"
