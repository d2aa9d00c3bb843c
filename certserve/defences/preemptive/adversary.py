"""The adversary who knows the method: robustified images -> guesses of the images as they came.

Moon, An and Song 2022 have it run the method backwards from the robustified image and attack what that gives.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from certserve.attacks.lattice import on_lattice
from certserve.attacks.losses import Classifier
from certserve.defences.preemptive.margin import cert_margin
from certserve.defences.preemptive.methods import Budget, CertMargin
from certserve.noise.grid import LEVELS

__all__ = ["reconstructed"]

Images = npt.NDArray[np.uint8]


def reconstructed(
    classifier: Classifier,
    images: Images,
    labels: npt.NDArray[np.int64],
    *,
    budget: Budget,
    sigma: float,
    how: CertMargin,
    generator: torch.Generator,
) -> Images:
    """Return where descending the smoothed margin leads, within delta of the robustified images, in 8 bits.

    The steps are those of `how`; none is left out early.

    Args:
        classifier, budget, sigma, how: as the method had them. images: uint8, (batch, *input), robustified.
        labels: (batch,), what the smoothed classifier answers.

    Raises:
        ValueError: there is no noise.
    """
    pixels = torch.from_numpy(images.astype(np.float32) / np.float32(LEVELS))
    answers = torch.as_tensor(labels, dtype=torch.int64)
    tireless = CertMargin(steps=how.steps, draws=how.draws, refinements=how.refinements, step=how.step)
    found = cert_margin(
        classifier, pixels, answers, budget=budget, sigma=sigma, how=tireless, generator=generator, backwards=True
    )
    return on_lattice(images, found.images.numpy(), np.full(len(images), budget.delta), budget.norm)
