"""The loss of noisy copies."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = ["consistency_loss"]


def consistency_loss(logits: Tensor, labels: Tensor, weight: float, entropy: float) -> Tensor:
    """Return the loss of Jeong and Shin (2020) of noisy copies: logits (copies, b, classes), labels (b); in nats.

    Mean cross-entropy + weight * mean_i KL(Fbar || F_i) + entropy * H(Fbar), where F_i is the softmax of copy
    i and Fbar their mean. The entropy is not multiplied by `weight`. With both 0 it is the cross-entropy of noise
    augmentation (Cohen, Rosenfeld and Kolter 2019).
    """
    log_each = functional.log_softmax(logits, 2)
    truth = labels.expand(len(logits), -1).reshape(-1)
    cross_entropy = functional.nll_loss(log_each.flatten(0, 1), truth)
    if not weight and not entropy:
        return cross_entropy
    mean = log_each.exp().mean(0)
    log_mean = mean.clamp_min(1e-20).log()
    negative_entropy = (mean * log_mean).sum(1)
    divergence = negative_entropy - (mean * log_each).sum(2).mean(0)
    return cross_entropy + weight * divergence.mean() - entropy * negative_entropy.mean()
