"""What is asked of a bundle's MagNet, and who answers it: where the model is."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from certserve.backends import LoadedExecution
from certserve.bundle import Bundle
from certserve.defences.magnet import LoadedMagnet, load_magnet, reform, run_rows
from certserve.errors import BackendFailed, BundleError
from certserve.smoothing.verdicts import Verdict

__all__ = ["DetectQuestion", "MagnetAnswers", "ReformQuestion", "ReformedImages"]

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class DetectQuestion:
    """How unusual are these? Pixels in [0, 1], (rows, *shape); the answer: a `Verdict` each."""

    pixels: Pixels


@dataclass(frozen=True, slots=True, eq=False)
class ReformQuestion:
    """What do these become? Pixels in [0, 1], (rows, *shape); the answer: `ReformedImages`."""

    pixels: Pixels


@dataclass(frozen=True, slots=True, eq=False)
class ReformedImages:
    """Images after the reformer, and the classifier's labels of them before and after."""

    pixels: Pixels
    before: npt.NDArray[np.intp]
    after: npt.NDArray[np.intp]


Question: TypeAlias = DetectQuestion | ReformQuestion


class MagnetAnswers:
    """Answers questions, from several threads at once.

    Args:
        classifier: the base classifier as it serves, without the reformer. trust: as in `load_magnet`.
    """

    def __init__(self, bundle: Bundle, classifier: LoadedExecution, *, trust: bool) -> None:
        self._bundle, self._classifier, self._trust = bundle, classifier, trust
        self._loading = threading.Lock()
        self._magnet: LoadedMagnet | None = None

    def load(self) -> LoadedMagnet:
        """The bundle's MagNet, loaded when it is first needed; errors as `load_magnet`."""
        with self._loading:
            if self._magnet is None:
                self._magnet = load_magnet(self._bundle, trust=self._trust, serving=self._classifier)
            return self._magnet

    def __call__(self, question: Question) -> list[Verdict] | ReformedImages:
        """The answer.

        Raises:
            BackendFailed: a runtime failed, or gave no numbers. BundleError, ModelRefused: as `load_magnet`.
        """
        if isinstance(question, DetectQuestion):
            return self._detect(question.pixels)
        return self._reform(question.pixels)

    def _detect(self, pixels: Pixels) -> list[Verdict]:
        verdicts = self.load().detect(pixels)
        if not all(math.isfinite(detector.score) for verdict in verdicts for detector in verdict.detectors):
            raise BackendFailed("A detector's score is not finite.")
        return verdicts

    def _reform(self, pixels: Pixels) -> ReformedImages:
        reformer = self.load().reformer
        if reformer is None:
            raise BundleError(f"{self._bundle.name} has no reformer.")
        images = reform(reformer, pixels)
        return ReformedImages(images, self._labels(pixels), self._labels(images))

    def _labels(self, pixels: Pixels) -> npt.NDArray[np.intp]:
        logits = run_rows(self._classifier.backend.logits, pixels, self._classifier.shapes)
        if not np.isfinite(logits).all():
            raise BackendFailed("The classifier's logits are not finite.")
        labels: npt.NDArray[np.intp] = logits.argmax(axis=1)
        return labels
