"""What a bundle says of its MagNet (Meng and Chen 2017), as values checked when they are built.

Detectors score how far an image lies from those they were calibrated on; the reformer moves it towards them. No
guarantee follows from either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from certserve.errors import BundleError

__all__ = ["KINDS", "Autoencoder", "Detector", "Magnet"]

KINDS = ("l1", "l2", "jsd")
"""Mean absolute error, mean squared error, Jensen-Shannon divergence."""


@dataclass(frozen=True, slots=True)
class Autoencoder:
    """An image-to-image network of the model's input shape.

    Attributes:
        name: a word. file: ONNX, float32, pixels in [0, 1] (rows, channels, height, width) to images of the same
            shape. weights: the same network as a safetensors file, which has gradients; "" where there is none.
    """

    name: str
    file: str
    weights: str = ""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise BundleError("an autoencoder must have a name that is not blank")


@dataclass(frozen=True, slots=True)
class Detector:
    """One score of an image x beside its reconstruction AE(x), and how that score was calibrated.

    Attributes:
        kind: "l1" or "l2", the mean over all values of |x - AE(x)| or of its square; or "jsd", the Jensen-Shannon
            divergence, in nats, of the classifier's softmax at `temperature` for x and for AE(x).
        autoencoder: by its name. scores: the .npy file of the validation images' scores, float32, increasing.
        rate: the nominal false-positive rate, strictly between 0 and 1.
        temperature: of the softmax, positive, for "jsd" alone; else None.
    """

    kind: str
    autoencoder: str
    scores: str
    rate: float
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BundleError(f"this version has the detectors {', '.join(KINDS)}, not {self.kind!r:.50}")
        if not 0.0 < self.rate < 1.0:
            raise BundleError(f"a false-positive rate must lie strictly between 0 and 1, not {self.rate!r}")
        if (self.temperature is not None) != (self.kind == "jsd"):
            raise BundleError("a detector of the kind jsd must have a temperature, and no other may have one")
        if self.temperature is not None and not (math.isfinite(self.temperature) and self.temperature > 0):
            raise BundleError(f"a temperature must be a positive number, not {self.temperature!r}")

    @property
    def name(self) -> str:
        """In a word: "l2-I", "jsd10-I"."""
        warmth = "" if self.temperature is None else f"{self.temperature:g}"
        return f"{self.kind}{warmth}-{self.autoencoder}"


@dataclass(frozen=True, slots=True)
class Magnet:
    """Detectors, and perhaps a reformer.

    Attributes:
        detectors: one or more. reformer: an autoencoder's name; "" where there is none.
        precision: of the classifier that the divergences were calibrated with, and must be computed with.

    Raises:
        BundleError: a value is out of its range, or names an autoencoder that there is not.
    """

    autoencoders: tuple[Autoencoder, ...]
    detectors: tuple[Detector, ...]
    reformer: str
    precision: str

    def __post_init__(self) -> None:
        for what, names in (("autoencoders", self.autoencoders), ("detectors", self.detectors)):
            _one_or_more(what, [entry.name for entry in names])
        for name in (*(detector.autoencoder for detector in self.detectors), *filter(None, [self.reformer])):
            self.autoencoder(name)
        if not self.precision.strip():
            raise BundleError("magnet.precision must name the precision of the classifier")

    @property
    def rate(self) -> float:
        """The nominal false-positive rate of all detectors together, by the union bound."""
        return min(1.0, math.fsum(detector.rate for detector in self.detectors))

    @property
    def files(self) -> tuple[str, ...]:
        """Every file of the bundle that it names."""
        networks = [file for entry in self.autoencoders for file in (entry.file, entry.weights) if file]
        return (*networks, *(detector.scores for detector in self.detectors))

    def autoencoder(self, name: str) -> Autoencoder:
        """The autoencoder of that name.

        Raises:
            BundleError: there is none.
        """
        for entry in self.autoencoders:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in self.autoencoders)
        raise BundleError(f"there is no autoencoder {name!r:.50}, only {known}")


def _one_or_more(what: str, names: Sequence[str]) -> None:
    if not names or len(set(names)) < len(names):
        raise BundleError(f"{what} must be one or more that differ, not {list(names)}")
