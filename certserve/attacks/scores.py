"""Images -> how unusual MagNet finds them, as functions that an attack can descend.

The detectors of Meng and Chen 2017, arXiv 1705.09064, section 4.2, with gradients; what serves computes the same
scores by a runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from certserve.attacks.losses import Classifier

__all__ = ["divergence", "reconstruction_error"]


def reconstruction_error(autoencoder: Callable[[Tensor], Tensor], images: Tensor, power: int) -> Tensor:
    """Return the mean over each image's pixels of |x - AE(x)|^power: (batch,), the images' type.

    Args:
        images: (batch, *input). power: 1 or more.
    """
    if power < 1:
        raise ValueError(f"expected a power of 1 or more, not {power}")
    return (images - autoencoder(images)).abs().pow(power).flatten(1).mean(1)


def divergence(
    classifier: Classifier, autoencoder: Callable[[Tensor], Tensor], images: Tensor, temperature: float
) -> Tensor:
    """Return the Jensen-Shannon divergence of softmax(Z(x) / T) and softmax(Z(AE(x)) / T): (batch,), float64, in nats.

    From 0 up to rounding to ln 2. For finite logits both the value and its gradient are finite, whatever underflows.

    Args:
        images: (batch, *input). temperature: T, positive.
    """
    if not (temperature > 0.0 and math.isfinite(temperature)):
        raise ValueError(f"expected a positive temperature, not {temperature}")
    one, other = (
        functional.log_softmax(classifier(rows).to(torch.float64) / temperature, 1)
        for rows in (images, autoencoder(images))
    )
    middle = torch.logaddexp(one, other) - math.log(2)
    return ((one.exp() * (one - middle)).sum(1) + (other.exp() * (other - middle)).sum(1)) / 2
