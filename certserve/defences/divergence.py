"""How far two answers of a classifier lie apart: the Jensen-Shannon divergence of their softened softmax."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["jensen_shannon"]


def jensen_shannon(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], temperature: float
) -> npt.NDArray[np.float64]:
    """The divergence of softmax(first / T) and softmax(second / T), a row at a time; in nats, from 0 to log 2.

    With p and q those, d = log p - log q and u = d / 2, it is sum of (p + q) / 2 * (u tanh u - log cosh u): no term
    is negative, so that nothing cancels, and none overflows or is 0 times infinity. Where a logit is not finite, it is
    not a number.

    Args:
        first, second: logits (rows, classes). temperature: positive.
    """
    with np.errstate(invalid="ignore"):
        log_p, log_q = (_log_softmax(logits, temperature) for logits in (first, second))
        u = np.abs(log_p - log_q) / 2
    terms = (np.exp(log_p) + np.exp(log_q)) / 2 * _excess(u)
    found: npt.NDArray[np.float64] = terms.sum(axis=1)
    return found


def _log_softmax(logits: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float64]:
    softened = logits.astype(np.float64) / temperature
    softened -= softened.max(axis=1, keepdims=True)
    found: npt.NDArray[np.float64] = softened - np.log(np.exp(softened).sum(axis=1, keepdims=True))
    return found


def _excess(u: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """u tanh u - log cosh u for u >= 0, from 0 to log 2."""
    small = np.minimum(u, 1.0)
    near = small * np.tanh(small) - np.log1p(2 * np.sinh(small / 2) ** 2)
    tail = np.exp(-2 * u)
    far = np.log(2) - np.log1p(tail) - 2 * np.minimum(u, 1e3) * tail / (1 + tail)
    found: npt.NDArray[np.float64] = np.where(u <= 1.0, near, far)
    return found
