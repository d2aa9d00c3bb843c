"""A bundle with a MagNet, and images it answers rightly -> attacked images, arrays in and arrays out.

Oblivious attacks know the classifier alone; the adaptive one also the reformer and every detector with its threshold
(Carlini and Wagner 2017, arXiv 1711.08478). Gradients are those of the bundle's float32 networks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from certserve import bundle as bundles
from certserve.attacks.carlini_wagner import CarliniWagner, carlini_wagner
from certserve.attacks.norms import Norm
from certserve.attacks.objectives import Detector, Evasion, reformed
from certserve.attacks.pgd import PGD, Start, fgsm, pgd
from certserve.attacks.scores import divergence, reconstruction_error
from certserve.backends.torch import differentiable, differentiable_autoencoder
from certserve.bundle import Bundle
from certserve.errors import BundleError

__all__ = ["Attack", "Attacked", "Bounded", "Nearest", "Networks"]

_SEED = 0
_RELATIVE_STEP = 2.5  # steps of PGD go this many times epsilon in all (Madry et al. 2018)

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Bounded:
    """An attack within epsilon: the fast gradient method for one step, else PGD from a random start.

    Attributes:
        norm: L2 or Linf. epsilon: in input units. steps: at least 1.
    """

    norm: Norm
    epsilon: float
    steps: int

    @property
    def name(self) -> str:
        """As a reader is told."""
        method = "FGSM" if self.steps == 1 else f"PGD, {self.steps} steps"
        return f"{method}, {self.norm} {self.epsilon:g}"


@dataclass(frozen=True, slots=True)
class Nearest:
    """Carlini and Wagner's L2 attack.

    Attributes:
        kappa: the confidence, in logits. searches, steps, first: see `CarliniWagner`.
        adaptive: whether it gets past the reformer and the detectors too.
    """

    kappa: float
    searches: int
    steps: int
    first: float = 1e-3
    adaptive: bool = False

    @property
    def name(self) -> str:
        """As a reader is told."""
        return f"{'adaptive ' if self.adaptive else ''}Carlini-Wagner L2, kappa {self.kappa:g}"


Attack: TypeAlias = Bounded | Nearest


@dataclass(frozen=True, slots=True)
class Attacked:
    """What an attack made of images.

    Attributes:
        images: float32, (rows, *input), in [0, 1]. attained: bool, (rows,), whether the attack says that it did what
            it was to do; an image of `Nearest` that it did not is the original. seconds: what it took.
    """

    images: Pixels
    attained: npt.NDArray[np.bool_]
    seconds: float


class Networks:
    """A bundle's classifier, reformer and detectors with gradients.

    Args:
        thresholds: of the bundle's detectors, in its order.

    Raises:
        BundleError: the bundle has no MagNet, or no weights for torch.
    """

    def __init__(self, bundle: Bundle, thresholds: tuple[float, ...]) -> None:
        if bundle.magnet is None:
            raise BundleError(f"{bundle.path} has no MagNet; make one with `certserve train magnet`")
        network = differentiable(bundle).folded().requires_grad_(False)
        self._classifier = _Remembered(lambda rows: network(rows))
        names = [entry.name for entry in bundle.magnet.autoencoders]
        coders = {name: _Remembered(_frozen(differentiable_autoencoder(bundle, name))) for name in names}
        # What serves clips what the reformer makes to [0, 1]; in-tree autoencoders end in a sigmoid.
        reformer = bundle.magnet.reformer
        self._defended = reformed(self._classifier, coders[reformer]) if reformer else self._classifier
        self._detectors = tuple(
            Detector(self._score(detector, coders[detector.autoencoder]), threshold)
            for detector, threshold in zip(bundle.magnet.detectors, thresholds, strict=True)
        )

    def attack(
        self, how: Attack, images: Pixels, labels: npt.NDArray[np.int64], *, batch: int, done: Callable[[int], None]
    ) -> Attacked:
        """The attacked images; equal arguments on one machine with as many threads give equal ones.

        Args:
            images: float32, (rows, *input), in [0, 1]. labels: (rows,); the answers to be changed.
            batch: rows at once. done: told after each batch how many images are.
        """
        found, attained, start = [], [], time.perf_counter()
        generator = torch.Generator().manual_seed(_SEED)
        for at in range(0, len(images), batch):
            rows, answers = torch.from_numpy(images[at : at + batch]), torch.from_numpy(labels[at : at + batch])
            made, gained = (
                self._nearest(how, rows, answers)
                if isinstance(how, Nearest)
                else self._bounded(how, rows, answers, generator)
            )
            found.append(made.numpy().astype(np.float32))
            attained.append(gained.numpy())
            done(at + len(rows))
        return Attacked(np.concatenate(found), np.concatenate(attained), time.perf_counter() - start)

    def _nearest(self, how: Nearest, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        objective = Evasion(pipelines=(self._classifier,), kappa=how.kappa)
        if how.adaptive:
            objective = Evasion(pipelines=(self._defended,), detectors=self._detectors, kappa=how.kappa)
        settings = CarliniWagner(searches=how.searches, steps=how.steps, first=how.first)
        found = carlini_wagner(objective, images, labels, how=settings)
        return found.images, found.distances.isfinite()

    def _bounded(
        self, how: Bounded, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        settings = fgsm(how.norm)
        if how.steps > 1:
            settings = PGD(norm=how.norm, steps=how.steps, step=_RELATIVE_STEP / how.steps, sigma=0.0, draws=1,
                           start=Start.RANDOM)  # fmt: skip
        epsilon = torch.full((len(images),), how.epsilon)
        found = pgd(self._classifier, images, labels, epsilon=epsilon, how=settings, generator=generator)
        return found, self._classifier(found.to(torch.float32)).argmax(1) != labels

    def _score(self, detector: bundles.Detector, autoencoder: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        if detector.temperature is not None:
            return partial(divergence, self._classifier, autoencoder, temperature=detector.temperature)
        return partial(reconstruction_error, autoencoder, power=1 if detector.kind == "l1" else 2)


class _Remembered:
    """A function that is not run again for the tensors it was given last: pipelines and scores share its passes."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._last: deque[tuple[Tensor, Tensor]] = deque(maxlen=2)

    def __call__(self, images: Tensor) -> Tensor:
        for given, made in self._last:
            if given is images:
                return made
        made = self._function(images)
        self._last.append((images, made))
        return made


def _frozen(network: torch.nn.Module) -> torch.nn.Module:
    return network.requires_grad_(False)
