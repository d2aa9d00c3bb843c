"""Images and labels -> the loss of an attack: the smoothed cross-entropy to climb, the margin of the logits to cross.

The smoothed classifier's own probabilities are shares of votes and have no gradient; the mean softmax over the noise
stands in for them (Salman et al. 2019, "Provably Robust Deep Learning via Adversarially Trained Smoothed
Classifiers", section 2.2, equation 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from certserve.attacks.goals import Goal

__all__ = ["Classifier", "logit_margin", "smoothed_cross_entropy"]

Classifier: TypeAlias = Callable[[Tensor], Tensor]
"""From images (rows, *input) to logits (rows, classes), row by row."""


def smoothed_cross_entropy(classifier: Classifier, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
    """Return -ln of the mean over the noise of the label's softmax probability, for each image: (batch,), in nats.

    Args:
        images: (batch, *input). labels: int64, (batch,).
        noise: (draws, batch, *input), in input units; zeros of one draw give the classifier's own cross-entropy.
    """
    draws = len(noise)
    logits = classifier((images + noise).flatten(0, 1)).view(draws, len(images), -1)
    log_mean = torch.logsumexp(functional.log_softmax(logits, 2), 0) - math.log(draws)
    return functional.nll_loss(log_mean, labels, reduction="none")


def logit_margin(logits: Tensor, labels: Tensor, goal: Goal) -> Tensor:
    """Return how far the logits are from the goal, (batch,): below 0 where it is attained, and by how much.

    To leave the label, its logit above the largest other; to reach it, the largest other above its own.

    Args:
        logits: (batch, classes), of two classes at least. labels: int64, (batch,).
    """
    label = labels.unsqueeze(1)
    own = logits.gather(1, label).squeeze(1)
    others = logits.scatter(1, label, -math.inf).amax(1)
    return own - others if goal is Goal.LEAVE else others - own
