"""A bundle's network under noise: 8-bit images -> 8-bit images within epsilon that it may answer otherwise.

Arrays in and arrays out. Gradients are those of the bundle's weights for torch, in float32 or through autocast in
bfloat16; the noise is the attack's own.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import numpy.typing as npt
import torch

from certserve.attacks.aims import Smoothed, cross_entropy, logit_ratio
from certserve.attacks.apgd import APGD, apgd
from certserve.attacks.lattice import on_lattice
from certserve.attacks.norms import Norm
from certserve.attacks.pgd import PGD, pgd
from certserve.backends.torch import gradients
from certserve.bundle import Bundle
from certserve.noise.grid import LEVELS

__all__ = ["Precision", "SmoothedNetwork"]

Images = npt.NDArray[np.uint8]

_STEPS, _DRAWS = 100, 20  # what the authors of AutoAttack advise for classifiers that draw at random: its "rand"
_ENSEMBLE = {"APGD-CE": cross_entropy, "APGD-DLR": logit_ratio}


class Precision(StrEnum):
    """Of the network's passes, forward and back."""

    FLOAT32 = "float32"
    """As the network was trained."""

    BFLOAT16 = "bfloat16"
    """Convolutions and products in bfloat16; faster where the processor has it."""


class SmoothedNetwork:
    """A bundle's network, to be attacked.

    Args:
        precision: of the attacks.

    Attributes:
        logits: of rows (rows, *input) of float32: float32, (rows, classes), with gradients in the rows alone.

    Raises:
        BundleError: the bundle has no weights for torch.
    """

    def __init__(self, bundle: Bundle, precision: Precision = Precision.FLOAT32) -> None:
        self.logits = gradients(bundle, bfloat16=precision is Precision.BFLOAT16)

    def attacked(self, images: Images, labels: npt.NDArray[np.int64], *, epsilon: float, how: PGD, seed: int) -> Images:
        """The attacked images, each within epsilon of its image as real numbers, pixel k standing for k / 255.

        Equal arguments on one machine with as many threads give equal images.

        Args:
            images: (batch, *input). labels: (batch,); see `Goal`. epsilon: in input units, at least 0.
            seed: of the noise and of a random start, below 2^63.
        """
        pixels = torch.from_numpy(images.astype(np.float32) / np.float32(LEVELS))
        radii = torch.full((len(images),), epsilon, dtype=torch.float64)
        found = pgd(
            self.logits,
            pixels,
            torch.as_tensor(labels, dtype=torch.int64),
            epsilon=radii,
            how=how,
            generator=torch.Generator().manual_seed(seed),
        )
        return on_lattice(images, found.numpy(), radii.numpy(), how.norm)

    def ensemble(
        self, images: Images, labels: npt.NDArray[np.int64], *, epsilon: float, sigma: float, seed: int
    ) -> dict[str, Images]:
        """The images attacked by each of APGD-CE and APGD-DLR, L2, as `attacked`.

        Of both, 100 steps on the expectation over 20 draws.

        Args:
            sigma: noise level in input units.
        """
        pixels = torch.from_numpy(images.astype(np.float32) / np.float32(LEVELS))
        radii = torch.full((len(images),), epsilon, dtype=torch.float64)
        generator, found = torch.Generator().manual_seed(seed), {}
        targets, how = torch.as_tensor(labels, dtype=torch.int64), APGD(norm=Norm.L2, steps=_STEPS)
        for name, loss in _ENSEMBLE.items():
            aim = Smoothed(classifier=self.logits, loss=loss, sigma=sigma, draws=_DRAWS, generator=generator)
            reached = apgd(aim, pixels, targets, epsilon=radii, how=how, generator=generator)
            found[name] = on_lattice(images, reached.images.numpy(), radii.numpy(), how.norm)
        return found
