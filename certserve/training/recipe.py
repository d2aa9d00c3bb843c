"""Everything that decides what a training run gives, apart from the data and the machine's arithmetic."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Protocol

from certserve.attacks.norms import Norm

__all__ = ["Adversary", "AutoencoderRecipe", "Recipe", "RecipeError", "Seeded", "cosine", "seed_of"]

_PRECISIONS = ("bfloat16", "float32")


class RecipeError(ValueError):
    """A run that cannot be had; one sentence that says what was expected."""


@dataclass(frozen=True, slots=True)
class Adversary:
    """Who moves the images before a step of training.

    Attributes:
        norm: that bounds both. epsilon: how far the adversary moves an image, in input units, positive.
        delta: how far a defender moves it before, one step towards its label; 0: nobody does.
        steps: of the adversary, each epsilon / 4 long, from a random start.

    Raises:
        RecipeError: a value is out of its range.
    """

    norm: Norm
    epsilon: float
    delta: float = 0.0
    steps: int = 10

    def __post_init__(self) -> None:
        if not (0 < self.epsilon < math.inf and 0 <= self.delta < math.inf and self.steps >= 1):
            raise RecipeError(
                "an adversary takes at least one step within a positive epsilon, and a defender's delta is at least 0, "
                f"not {self.steps}, {self.epsilon!r} and {self.delta!r}"
            )


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a classifier is trained for Gaussian smoothing.

    Attributes:
        sigma: standard deviation of the noise, in units of pixels in [0, 1]; 0 only with an adversary.
        epochs: passes over the training images. batch: images a step.
        adversary: moves each copy before its noise is added; None: nobody.
        copies: noisy copies of each image a step. consistency, entropy: lambda and eta of the consistency loss,
            which `certserve.training.loss` states; both 0, with one copy, is the noise augmentation of Cohen et al.
            They rise from 0 over the first `ramp` share of the steps, so that the network learns the classes first.
        learning_rate, momentum, weight_decay: of SGD with Nesterov's momentum; the rate rises over the first
            `warm_up` share of the steps, then falls to 0 along half a cosine.
        ema_decay: of the moving average of the weights, which is the result.
        shift: images are moved by up to this many pixels. flip: and mirrored left to right, half of them.
        held_out: share of the images, of each class alike, that no step sees.
        widths: channels of each stage of the residual network. blocks: in each stage.
        precision: of the products in training, "bfloat16" or "float32". threads: on a CPU; as the seed, they decide
            the last bits of sums.

    Raises:
        RecipeError: a value is out of its range.
    """

    sigma: float
    epochs: int = 40
    seed: int = 0
    batch: int = 128
    copies: int = 2
    consistency: float = 2.0
    entropy: float = 0.5
    ramp: float = 0.5
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warm_up: float = 0.05
    ema_decay: float = 0.998
    shift: int = 4
    flip: bool = True
    held_out: float = 0.1
    widths: tuple[int, ...] = (64, 128)
    blocks: int = 2
    precision: str = "float32"
    threads: int = 1
    adversary: Adversary | None = None

    def __post_init__(self) -> None:
        noise = () if self.adversary else ("sigma",)
        positive = (*noise, "epochs", "batch", "copies", "learning_rate", "blocks", "threads")
        others = ("sigma", "consistency", "entropy", "ramp", "momentum", "weight_decay", "warm_up", "shift", "seed")
        for name in (*positive, *others):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (value == 0 and name in positive):
                least = "positive" if name in positive else "at least 0"
                raise RecipeError(f"{name} must be a number, {least}, not {value!r}")
        if not (max(self.momentum, self.warm_up) < 1 and 0 <= self.ema_decay < 1 and 0 < self.held_out < 1):
            raise RecipeError("momentum, warm_up, ema_decay and held_out must lie below 1, and held_out above 0")
        if self.copies < 2 and (self.consistency or self.entropy):
            raise RecipeError("consistency and entropy compare noisy copies of an image: take 2 copies at least")
        if not self.widths or min(self.widths) < 1:
            raise RecipeError(f"widths must be one or more positive numbers, not {self.widths!r}")
        if self.precision not in _PRECISIONS:
            raise RecipeError(f"precision must be one of {', '.join(_PRECISIONS)}, not {self.precision!r}")

    def steps(self, images: int) -> int:
        """How many steps all epochs take over so many training images; a last, smaller batch is left out."""
        return self.epochs * self.steps_per_epoch(images)

    def steps_per_epoch(self, images: int) -> int:
        """How many steps one epoch takes; at least one, with fewer images than a batch too."""
        return max(1, images // self.batch)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0 .. steps - 1: linear warm-up, then half a cosine (Loshchilov, Hutter 2017)."""
        return cosine(self.learning_rate, self.warm_up, step, steps)

    def regularisation(self, step: int, steps: int) -> tuple[float, float]:
        """The weights of consistency and entropy at step 0 .. steps - 1."""
        share = min(1.0, (step + 1) / max(1.0, self.ramp * steps))
        return share * self.consistency, share * self.entropy

    def seed_of(self, *what: str | int) -> int:
        """A 32-bit seed of its own for each purpose."""
        return seed_of(self.seed, *what)


class Seeded(Protocol):
    """What gives each purpose a seed of its own."""

    def seed_of(self, *what: str | int) -> int: ...


@dataclass(frozen=True, slots=True)
class AutoencoderRecipe:
    """How an autoencoder is trained to take noise away.

    Attributes:
        noise: standard deviation of the Gaussian noise that is added to the images, which are then clipped to [0, 1].
        epochs: passes over the training images. batch: images a step.
        learning_rate: of Adam; it rises over the first `warm_up` share of the steps, then falls to 0 along half a
            cosine.
        threads: on a CPU; as the seed, they decide the last bits of sums.

    Raises:
        RecipeError: a value is out of its range.
    """

    noise: float
    epochs: int = 10
    seed: int = 0
    batch: int = 32
    learning_rate: float = 0.03
    warm_up: float = 0.05
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("noise", "epochs", "batch", "learning_rate", "threads"):
            value = getattr(self, name)
            if not math.isfinite(value) or value <= 0:
                raise RecipeError(f"{name} must be a number, positive, not {value!r}")
        if self.seed < 0 or not 0 <= self.warm_up < 1:
            raise RecipeError("the seed must be at least 0, and warm_up at least 0 and below 1")

    def steps_per_epoch(self, images: int) -> int:
        """How many steps one epoch takes; a last, smaller batch is left out."""
        return max(1, images // self.batch)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0 .. steps - 1."""
        return cosine(self.learning_rate, self.warm_up, step, steps)

    def seed_of(self, *what: str | int) -> int:
        """A 32-bit seed of its own for each purpose."""
        return seed_of(self.seed, *what)


def cosine(largest: float, warm_up: float, step: int, steps: int) -> float:
    """A learning rate: linear warm-up over a share of the steps, then half a cosine (Loshchilov, Hutter 2017)."""
    rising = round(warm_up * steps)
    if step < rising:
        return largest * (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return 0.5 * largest * (1 + math.cos(math.pi * done))


def seed_of(seed: int, *what: str | int) -> int:
    """A 32-bit seed for a purpose: PyTorch's CPU generator takes no more than 32 bits."""
    text = "/".join(map(str, (seed, *what)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
