"""Lines of the table -> what a reader is told: figures, and sentences about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from certserve.bundle import Bundle
from certserve.evaluation.magnet.judge import Clean
from certserve.evaluation.magnet.lines import Line

__all__ = ["Adaptive", "Report", "Triple", "document"]

_WINS = 0.5  # of the images: from here on the adaptive attack has won
_NO_GUARANTEE = (
    "MagNet is no guarantee: a figure here is about the attacks that were tried, and says nothing of another one. "
    "A certificate does."
)


@dataclass(frozen=True, slots=True)
class Adaptive:
    """The attack that knows of MagNet beside the one that does not.

    Attributes:
        success: the share of the images that it gets past detectors and reformer with a wrong answer; as float32.
        success_8bit: the same, once rounded to 8 bits. oblivious: the same of the oblivious attack `beside`.
        both: images that both attacks attained. l2, oblivious_l2: their means over those; None where there are none.
    """

    success: float
    success_8bit: float
    oblivious: float
    beside: str
    both: int
    l2: float | None
    oblivious_l2: float | None

    @property
    def ratio(self) -> float | None:
        """How many times the distortion; None where there is none to compare."""
        return self.l2 / self.oblivious_l2 if self.l2 is not None and self.oblivious_l2 else None

    @property
    def wins(self) -> bool:
        """Whether half of the images or more get past."""
        return self.success >= _WINS


@dataclass(frozen=True, slots=True)
class Triple:
    """An image, what an attack made of it and what the reformer makes of that.

    Attributes:
        original: uint8. attacked, reformed: float32, in [0, 1]. label: the true one. answer, reformed_answer: of the
            attacked image and of the reformed one. distance: L2.
    """

    attack: str
    original: npt.NDArray[np.uint8]
    attacked: npt.NDArray[np.float32]
    reformed: npt.NDArray[np.float32]
    label: int
    answer: int
    reformed_answer: int
    flagged: bool
    distance: float


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured so far.

    Attributes:
        question, identity: what was asked, and of which execution of the classifier. images: how many are attacked.
    """

    bundle: Bundle
    question: Mapping[str, Any]
    identity: Mapping[str, str]
    clean: Clean
    images: int
    lines: tuple[Line, ...]
    triples: tuple[Triple, ...]
    adaptive: Adaptive | None

    def with_attack(self, lines: Sequence[Line], triples: Sequence[Triple], adaptive: Adaptive | None) -> Report:
        """The report with another attack."""
        return replace(
            self, lines=(*self.lines, *lines), triples=(*self.triples, *triples), adaptive=adaptive or self.adaptive
        )

    @property
    def warning(self) -> str | None:
        """One sentence where the adaptive attack wins."""
        adaptive = self.adaptive
        if adaptive is None or not adaptive.wins:
            return None
        far = "" if adaptive.ratio is None else f", changing them {adaptive.ratio:.2f} times as far"
        return (
            f"WARNING: the attack that knows of this MagNet wins: {adaptive.success:.1%} of the images get past "
            f"detectors and reformer with a wrong answer{far} as the attack that defeats the classifier alone. "
            "Do not rely on this MagNet against an attacker who may know of it."
        )

    @property
    def statements(self) -> tuple[str, ...]:
        """What is to be said beside the table, the warning first."""
        said = [self.warning] if self.warning else []
        adaptive = self.adaptive
        if adaptive is None:
            said.append("No attack that knows of this MagNet has been tried yet; against one it may hold nothing.")
        elif not adaptive.wins:
            said.append(
                f"The attack that knows of this MagNet got past it on {adaptive.success:.1%} of the images. Suspect "
                "the attack first: try more searches and steps."
            )
        return (*said, _NO_GUARANTEE)


def document(report: Report) -> dict[str, Any]:
    """The report as JSON has it."""
    clean, adaptive = report.clean, report.adaptive
    alarms = [{**asdict(alarm), "inside": alarm.low <= alarm.flagged <= alarm.high} for alarm in clean.alarms]
    return {
        "model": report.bundle.name,
        "version": report.bundle.version,
        "digests": dict(report.bundle.digests),
        "classifier": dict(report.identity),
        "question": dict(report.question),
        "clean": {
            "images": clean.images,
            "right": clean.alone,
            "right_reformed": clean.reformed,
            "right_reformed_and_not_flagged": clean.passed,
            "flagged": clean.flagged,
            "nominal_rate_at_most": clean.rate,
            "detectors": alarms,
        },
        "attacked": report.images,
        "attacks": [
            {**asdict(line), "undefended_success": line.undefended_success, "shares": line.shares,
             "both_interval": line.interval, "both_of_attained": line.both_of_attained}
            for line in report.lines
        ],
        "adaptive": adaptive and {**asdict(adaptive), "ratio": adaptive.ratio, "wins": adaptive.wins},
        "statements": report.statements,
    }  # fmt: skip
