"""The consistency loss, against its formula in plain numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")

from certserve.training.loss import consistency_loss  # noqa: E402 (after the check that torch is there)

Floats = npt.NDArray[np.float64]

LABELS = np.array([2, 0, 4, 1])
WEIGHTS = [(0.0, 0.0), (2.0, 0.5), (10.0, 0.5), (0.0, 0.7), (3.0, 0.0)]


def logits(copies: int, scale: float = 2.0) -> Floats:
    """Logits of four images and five classes."""
    found: Floats = scale * np.sin(1.7 * np.arange(copies * 20)).reshape(copies, 4, 5)
    return found


def softmax(values: Floats) -> Floats:
    """Over the last axis."""
    powers = np.exp(values - values.max(-1, keepdims=True))
    found: Floats = powers / powers.sum(-1, keepdims=True)
    return found


def formula(values: Floats, weight: float, entropy: float) -> float:
    """Section 3 of Jeong and Shin (2020), with eta outside of the factor lambda."""
    each = softmax(values)
    mean = each.mean(0)
    truth = -np.log(each[:, np.arange(4), LABELS]).mean()
    divergences = [(mean * np.log(mean / copy)).sum(1) for copy in each]
    entropies = -(mean * np.log(mean)).sum(1)
    return float(truth + weight * np.mean(divergences) + entropy * entropies.mean())


def ours(values: Any, weight: float, entropy: float) -> Any:
    """What the code gives, a tensor."""
    return consistency_loss(values, torch.from_numpy(LABELS), weight, entropy)


@pytest.mark.parametrize("copies", [1, 2, 5])
@pytest.mark.parametrize(("weight", "entropy"), WEIGHTS)
def test_it_is_the_formula(copies: int, weight: float, entropy: float) -> None:
    values = logits(copies)
    found = ours(torch.from_numpy(values), weight, entropy).item()
    assert found == pytest.approx(formula(values, weight, entropy), rel=1e-13)


def test_the_entropy_is_not_multiplied_by_the_other_weight() -> None:
    values = torch.from_numpy(logits(3))
    parts = [(ours(values, weight, 0.5) - ours(values, weight, 0.0)).item() for weight in (1.0, 20.0)]
    assert parts[0] == pytest.approx(parts[1], rel=1e-12)
    assert parts[0] > 0.1


def test_copies_that_agree_cost_no_divergence() -> None:
    values = torch.from_numpy(np.repeat(logits(1), 3, axis=0))
    assert ours(values, 100.0, 0.0).item() == pytest.approx(ours(values, 0.0, 0.0).item(), rel=1e-12)
    assert ours(torch.from_numpy(logits(3)), 100.0, 0.0).item() > 10 * ours(values, 0.0, 0.0).item()


@pytest.mark.parametrize("copies", [1, 3])
def test_with_both_weights_0_it_is_the_cross_entropy(copies: int) -> None:
    values = torch.from_numpy(logits(copies))
    plain = torch.nn.functional.cross_entropy(values.reshape(-1, 5), torch.from_numpy(np.tile(LABELS, copies)))
    assert ours(values, 0.0, 0.0).item() == pytest.approx(plain.item(), rel=1e-14)


@pytest.mark.parametrize(("weight", "entropy"), WEIGHTS)
def test_the_gradient_is_that_of_the_formula(weight: float, entropy: float) -> None:
    values, step = logits(2), 1e-6
    tensor = torch.from_numpy(values).requires_grad_()
    ours(tensor, weight, entropy).backward()
    for index in np.ndindex(values.shape):
        moved = np.zeros_like(values)
        moved[index] = step
        rise = formula(values + moved, weight, entropy) - formula(values - moved, weight, entropy)
        assert tensor.grad[index].item() == pytest.approx(rise / (2 * step), rel=1e-6, abs=1e-8)


def test_copies_that_contradict_each_other_with_certainty_have_a_finite_loss_and_gradient() -> None:
    """Fails if a probability that rounds to 0 becomes log 0."""
    values = logits(2, scale=1.0).astype(np.float32)
    values[0, :, 0] += 500
    values[1, :, 1] += 500
    tensor = torch.from_numpy(values).requires_grad_()
    loss = ours(tensor, 10.0, 0.5)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(tensor.grad).all()
