"""What `certserve train magnet` is to make: which autoencoders, which detectors, at which rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from certserve.bundle import Detector
from certserve.training.recipe import AutoencoderRecipe, RecipeError, seed_of

__all__ = ["PLANS", "Held", "MagnetPlan", "fill_plan"]


@dataclass(frozen=True, slots=True)
class MagnetPlan:
    """A MagNet to be trained and calibrated.

    Attributes:
        name: of the published set-up, one of `PLANS`. designs: of the autoencoders, the first of which reforms.
        width: of their inner layers. recipe: how they are trained.
        errors: (kind, design) of the detectors by reconstruction error. temperatures: of the detectors by divergence,
            between an image and what the first autoencoder makes of it.
        rate, jsd_rate: the nominal false-positive rate of each detector of the two sorts.
        reformer: whether there is one.

    Raises:
        RecipeError: a rate or a temperature is out of its range.
    """

    name: str
    designs: tuple[str, ...]
    width: int
    recipe: AutoencoderRecipe
    errors: tuple[tuple[str, str], ...]
    temperatures: tuple[float, ...] = (10.0, 40.0)
    rate: float = 0.001
    jsd_rate: float = 0.001
    reformer: bool = True

    def __post_init__(self) -> None:
        for name in ("rate", "jsd_rate"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise RecipeError(f"{name} must lie strictly between 0 and 1, not {getattr(self, name)!r}")
        if not all(math.isfinite(t) and t > 0 for t in self.temperatures):
            raise RecipeError(f"temperatures must be positive numbers, not {self.temperatures!r}")
        if len(set(self.temperatures)) < len(self.temperatures):
            raise RecipeError(f"temperatures must differ from each other, which {self.temperatures!r} do not")

    @property
    def detectors(self) -> tuple[Detector, ...]:
        """As the bundle will name them."""
        errors = [Detector(kind, design, f"magnet-{kind}-{design}.npy", self.rate) for kind, design in self.errors]
        first = self.designs[0]
        divergences = [
            Detector("jsd", first, f"magnet-jsd{t:g}-{first}.npy", self.jsd_rate, t) for t in self.temperatures
        ]
        return (*errors, *divergences)


PLANS: dict[str, MagnetPlan] = {
    "mnist": MagnetPlan("mnist", ("I", "II"), 3, AutoencoderRecipe(0.1), (("l2", "I"), ("l1", "II"))),
    "cifar": MagnetPlan("cifar", ("II",), 3, AutoencoderRecipe(0.025), (("l1", "II"),), rate=0.005, jsd_rate=0.01),
    "cifar-bn": MagnetPlan(
        "cifar-bn",
        ("III",),
        32,
        AutoencoderRecipe(0.025, epochs=5, batch=64, learning_rate=0.003),
        (("l1", "III"),),
        rate=0.005,
        jsd_rate=0.01,
    ),
}
"""MagNet's for MNIST and for CIFAR-10, and the one that its author advised for CIFAR-10 later."""


@dataclass(frozen=True, slots=True)
class Held:
    """Which images are held out: a share of each class, chosen by a seed, as the classifier's training does it."""

    held_out: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise RecipeError(f"held_out must lie strictly between 0 and 1, not {self.held_out!r}")

    def seed_of(self, *what: str | int) -> int:
        """A 32-bit seed for a purpose."""
        return seed_of(self.seed, *what)


def fill_plan(name: str | None, channels: int) -> MagnetPlan:
    """The plan of that name; without one, "mnist" for grey images and "cifar-bn" for others.

    Raises:
        RecipeError: there is no such plan.
    """
    chosen = name or ("mnist" if channels == 1 else "cifar-bn")
    if chosen not in PLANS:
        raise RecipeError(f"the plan must be one of {', '.join(PLANS)}, not {chosen!r}")
    return PLANS[chosen]
