"""What `certserve evaluate preempt` measures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from certserve.attacks.norms import Norm
from certserve.attacks.smoothed import Precision
from certserve.defences.preemptive.methods import Budget, Qualities

__all__ = ["Question"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked about every image.

    Attributes:
        delta, epsilon: the budget, L2, in input units.
        sigma, n0, n, alpha: of every certificate; None: the model's default.
        steps, draws: of the randomized PGD. precision: of its passes, and of the adversary's.
        qualities: of JPEG, 1 to 100.
        shares: of epsilon, that the adversary who knows the method attacks its guess with.
        radii: at which certified accuracy is told, in input units.
        aware: qualities that a search with JPEG in mind is made for too; None: no such search.
        compare_every: the slower searches are made for images whose idx is divisible by it; 0: for none.
        ensemble: whether the APGD ensemble attacks too.

    Raises:
        ValueError: one of them is out of its range.
    """

    delta: float = 0.5
    epsilon: float = 0.5
    sigma: float | None = None
    n0: int | None = None
    n: int | None = None
    alpha: float | None = None
    steps: int = 20
    draws: int = 50
    precision: Precision = Precision.FLOAT32
    qualities: tuple[int, ...] = (95, 85)
    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    radii: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    aware: Qualities | None = None
    compare_every: int = 0
    ensemble: bool = False

    def __post_init__(self) -> None:
        self.budget  # noqa: B018 (raises where it is none)
        if self.steps < 1 or self.draws < 1:
            raise ValueError(f"expected at least one step and one draw, not {self.steps} and {self.draws}")
        if not all(1 <= quality <= 100 for quality in self.qualities) or len(set(self.qualities)) < len(self.qualities):
            raise ValueError(f"expected qualities from 1 to 100 that differ, not {list(self.qualities)}")
        if not self.shares or not all(0.0 < share <= 1.0 for share in self.shares):
            raise ValueError(f"expected shares of epsilon above 0 and at most 1, not {list(self.shares)}")
        if not all(0.0 <= radius < math.inf for radius in self.radii):
            raise ValueError(f"expected radii of 0 or more, not {list(self.radii)}")
        if self.compare_every < 0:
            raise ValueError(f"expected every how many images are compared, not {self.compare_every}")

    @property
    def budget(self) -> Budget:
        """How far an image may be moved, and by whom."""
        return Budget(norm=Norm.L2, delta=self.delta, epsilon=self.epsilon)

    @property
    def aware_search(self) -> str | None:
        """What the search with JPEG in mind is called, in stages and kinds of images; None: there is none."""
        return None if self.aware is None else f"aware-{self.aware.lowest}-{self.aware.highest}"
