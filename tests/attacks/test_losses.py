"""The expected loss is the logarithm of a mean, its gradient that of the formula; the margin is one of logits."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor  # noqa: E402 (after the check that torch is there)

from certserve.attacks.goals import Goal  # noqa: E402
from certserve.attacks.losses import logit_margin, smoothed_cross_entropy  # noqa: E402

DRAWS, BATCH, PIXELS, CLASSES = 5, 3, 6, 4


def values(*shape: int, seed: int) -> Tensor:
    """Normal ones, float64."""
    found: Tensor = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return found


def classifier(rows: Tensor) -> Tensor:
    """A small network that is no linear one."""
    logits: Tensor = torch.tanh(rows @ values(PIXELS, 8, seed=1)) @ values(8, CLASSES, seed=2)
    return logits


POINTS, NOISE = values(BATCH, PIXELS, seed=3), values(DRAWS, BATCH, PIXELS, seed=4)
LABELS = torch.tensor([0, 3, 1])


def by_hand(points: Tensor) -> list[float]:
    """The loss of each image, one noisy copy after the other."""
    found = []
    for i, label in enumerate(LABELS.tolist()):
        shares = []
        for draw in range(DRAWS):
            logits = classifier((points[i] + NOISE[draw, i])[None])[0].numpy()
            shares.append(math.exp(logits[label]) / float(np.exp(logits).sum()))
        found.append(-math.log(sum(shares) / DRAWS))
    return found


def test_the_loss_is_that_of_the_mean_probability() -> None:
    loss = smoothed_cross_entropy(classifier, POINTS, LABELS, NOISE)
    np.testing.assert_allclose(loss.numpy(), by_hand(POINTS), rtol=1e-12)


def test_the_gradient_is_that_of_finite_differences() -> None:
    points = POINTS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(smoothed_cross_entropy(classifier, points, LABELS, NOISE).sum(), points)
    width = 1e-5
    for pixel in range(PIXELS):
        bump = torch.zeros(PIXELS, dtype=torch.float64)
        bump[pixel] = width
        rise = np.array(by_hand(POINTS + bump)) - np.array(by_hand(POINTS - bump))
        np.testing.assert_allclose(gradient[:, pixel].numpy(), rise / (2 * width), rtol=1e-7, atol=1e-9)


def test_probabilities_too_small_for_a_float_have_a_gradient() -> None:
    points = torch.zeros(1, 1).requires_grad_()
    loss = smoothed_cross_entropy(
        lambda rows: torch.cat([-500 + rows, 500 - rows], 1), points, torch.tensor([0]), torch.zeros(2, 1, 1)
    )
    (gradient,) = torch.autograd.grad(loss.sum(), points)
    assert (loss.detach().item(), gradient.item()) == (1000.0, pytest.approx(-2.0, rel=1e-3))


@pytest.mark.parametrize(
    ("goal", "labels", "margins"),
    [(Goal.LEAVE, [0, 2, 1], [3.0, -6.0, 0.0]), (Goal.REACH, [0, 2, 1], [-3.0, 6.0, 0.0])],
)
def test_the_margin_is_to_the_largest_other(goal: Goal, labels: list[int], margins: list[float]) -> None:
    logits = torch.tensor([[4.0, -2.0, 1.0], [5.0, 0.0, -1.0], [7.0, 7.0, 2.0]])
    assert logit_margin(logits, torch.tensor(labels), goal).tolist() == margins


def test_the_margin_moves_two_logits() -> None:
    logits = torch.tensor([[4.0, -2.0, 1.0]]).requires_grad_()
    (gradient,) = torch.autograd.grad(logit_margin(logits, torch.tensor([0]), Goal.LEAVE).sum(), logits)
    assert gradient.tolist() == [[1.0, 0.0, -1.0]]
