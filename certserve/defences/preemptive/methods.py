"""How an image may be moved before an adversary gets it: the budget, and the three ways to search it. No runtime.

References: Moon, An and Song 2022, "Preemptive Image Robustification for Protecting Users against Man-in-the-Middle
Adversarial Attacks", for the problem and for `Bilevel`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, TypeAlias

from certserve.attacks.norms import Norm

__all__ = ["Bilevel", "Budget", "CertMargin", "Fast", "How", "Method", "Qualities", "how_of"]


class Method(StrEnum):
    """The ways to search, each with the settings that its class has by default."""

    CERT_MARGIN = "cert-margin"
    """See `CertMargin`."""

    BILEVEL = "bilevel"
    """See `Bilevel`."""

    FAST = "fast"
    """See `Fast`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How far an image may be moved.

    Attributes:
        norm: that bounds both.
        delta: how far the image may be moved, in input units, positive.
        epsilon: how far an adversary may move it afterwards, in input units, positive.

    Raises:
        ValueError: one of them is out of its range.
    """

    norm: Norm
    delta: float
    epsilon: float

    def __post_init__(self) -> None:
        for name, value in (("delta", self.delta), ("epsilon", self.epsilon)):
            if not (value > 0.0 and math.isfinite(value)):
                raise ValueError(f"expected a positive {name}, not {value}")

    def check(self, pixels: int) -> None:
        """Accept it for images of so many values in [0, 1].

        Raises:
            ValueError: delta is larger than any two such images are apart.
        """
        furthest = math.sqrt(pixels) if self.norm is Norm.L2 else 1.0
        if self.delta > furthest:
            raise ValueError(
                f"expected a delta of at most {furthest:g}, how far two such images are apart in {self.norm}, "
                f"not {self.delta:g}"
            )


@dataclass(frozen=True, slots=True)
class Qualities:
    """JPEG qualities, as libjpeg counts them: from `lowest` to `highest`, within 1 to 95.

    Raises:
        ValueError: they are not.
    """

    lowest: int
    highest: int

    def __post_init__(self) -> None:
        if not 1 <= self.lowest <= self.highest <= 95:
            raise ValueError(f"expected JPEG qualities from 1 to 95, not {self.lowest} to {self.highest}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CertMargin:
    """Ascend the smoothed classifier's margin Phi^-1(G(x)_y) - Phi^-1(G(x)_y2), on one level; needs noise.

    Phi^-1 of each class's probability under the noise is 1/sigma-Lipschitz, so the margin bounds from below what an
    adversary leaves of it, and no attack need be simulated. G is the mean softmax of the draws.

    Attributes:
        steps: the first as long as `step` * delta, the rest shortening as a cosine.
        draws: of noise a step.
        refinements: further steps, whose gradient is taken at the 8-bit image.
        enough: a radius in input units: an image stops where the margin's estimate shows it.
        jpeg: half of the draws are of the image after a JPEG file of a quality out of these; None: none.

    Raises:
        ValueError: one of them is out of its range.
    """

    method: ClassVar[Method] = Method.CERT_MARGIN

    steps: int = 28
    draws: int = 32
    refinements: int = 2
    step: float = 0.3
    enough: float = math.inf
    jpeg: Qualities | None = None

    def __post_init__(self) -> None:
        _check_counts(steps=self.steps, draws=self.draws)
        if self.refinements < 0:
            raise ValueError(f"expected 0 refinements or more, not {self.refinements}")
        if not (self.step > 0.0 and math.isfinite(self.step)):
            raise ValueError(f"expected a positive step, not {self.step}")
        if not self.enough > 0.0:
            raise ValueError(f"expected a positive radius to be enough, not {self.enough}")

    @property
    def most_passes(self) -> int:
        """Rows that go through the network forward and back for an image, at most."""
        return (self.steps + self.refinements) * self.draws


@dataclass(frozen=True, slots=True, kw_only=True)
class Bilevel:
    """Descend the loss that an attack on the moved image attains: the published algorithm.

    Attributes:
        steps: of the image. inner_steps: of the attack in each, every one epsilon / 4 long.
        draws: of noise in each step of both; without noise there is one.
        rate: of gradient descent for L2, of RMSprop for Linf; None: the published .001 for L2, .005 for L2 under
            noise and .1 for Linf.
        enough: a loss in nats: an image stops where the attack leaves it no higher.

    Raises:
        ValueError: one of them is out of its range.
    """

    method: ClassVar[Method] = Method.BILEVEL

    steps: int = 100
    inner_steps: int = 20
    draws: int = 5
    rate: float | None = None
    enough: float = 0.0

    def __post_init__(self) -> None:
        _check_counts(steps=self.steps, inner_steps=self.inner_steps, draws=self.draws)
        if self.rate is not None and not (self.rate > 0.0 and math.isfinite(self.rate)):
            raise ValueError(f"expected a positive rate, not {self.rate}")
        if not self.enough >= 0.0:
            raise ValueError(f"expected a loss of 0 or more to be enough, not {self.enough}")

    @property
    def most_passes(self) -> int:
        """Rows that go through the network forward and back for an image, at most."""
        return self.steps * (self.inner_steps + 1) * self.draws + self.inner_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Fast:
    """Step towards the label, then away from where the attacks on that point lead; at most 40 passes by default.

    Both are means over noisy copies of one step as long as the ball is wide.

    Attributes:
        draws: noisy copies for each of the two.
        attack_steps: of the attack that judges the result of a classifier without noise.

    Raises:
        ValueError: one of them is out of its range.

    References: "Fast Preemption", arXiv 2407.15524, for the two steps.
    """

    method: ClassVar[Method] = Method.FAST

    draws: int = 15
    attack_steps: int = 10

    def __post_init__(self) -> None:
        _check_counts(draws=self.draws, attack_steps=self.attack_steps)

    @property
    def most_passes(self) -> int:
        """Rows that go through the network forward and back for an image, at most."""
        return 2 * self.draws + self.attack_steps


How: TypeAlias = CertMargin | Bilevel | Fast


def how_of(method: Method) -> How:
    """The method's default settings."""
    defaults: Mapping[Method, How] = {
        Method.CERT_MARGIN: CertMargin(),
        Method.BILEVEL: Bilevel(),
        Method.FAST: Fast(),
    }
    return defaults[method]


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"expected {name} of at least 1, not {count}")
