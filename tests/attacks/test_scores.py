"""Detectors' scores agree with their definitions, and have finite gradients whatever the logits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

torch = pytest.importorskip("torch")
from torch import Tensor  # noqa: E402 (after the check that torch is there)

from certserve.attacks.scores import divergence, reconstruction_error  # noqa: E402

IMAGES = torch.rand(5, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
WEIGHTS = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def halved(images: Tensor) -> Tensor:
    """An autoencoder."""
    return images / 2


def classifier(images: Tensor) -> Tensor:
    """Logits of four classes."""
    logits: Tensor = 20 * images.flatten(1) @ WEIGHTS
    return logits


@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_reconstruction_error_is_a_mean_over_pixels(power: int) -> None:
    found = reconstruction_error(halved, IMAGES, power)
    by_hand = [float(np.mean((image / 2) ** power)) for image in IMAGES.numpy()]
    assert found.tolist() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("power", [1, 2])
def test_the_gradient_of_no_error_is_zero(power: int) -> None:
    images = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reconstruction_error(lambda rows: rows * 1.0, images, power).sum(), images)
    assert not gradient.any()


@pytest.mark.parametrize("temperature", [1.0, 10.0, 40.0])
def test_the_divergence_is_that_of_jensen_and_shannon(temperature: float) -> None:
    found = divergence(classifier, halved, IMAGES, temperature)
    one, other = (
        torch.softmax(classifier(rows) / temperature, 1).numpy() for rows in (IMAGES, halved(IMAGES))
    )  # fmt: skip
    by_hand = [jensenshannon(p, q) ** 2 for p, q in zip(one, other, strict=True)]  # its own is the root
    assert found.tolist() == pytest.approx(by_hand, rel=1e-9)


def test_the_gradient_of_the_divergence_is_that_of_finite_differences() -> None:
    images = IMAGES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: divergence(classifier, halved, rows, 10.0), (images,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e3, 1e6, 1e30])
def test_extreme_logits_have_a_finite_divergence_and_gradient(size: float, dtype: Any) -> None:
    images = torch.tensor([[0.25], [0.75], [0.5]], dtype=dtype).requires_grad_()

    def steep(rows: Tensor) -> Any:
        return torch.cat([(rows - 0.5) * size, (0.5 - rows) * size, 0 * rows], 1)

    score = divergence(steep, lambda rows: 1 - rows, images, 1.0)
    (gradient,) = torch.autograd.grad(score.sum(), images)
    assert score.tolist() == pytest.approx([math.log(2), math.log(2), 0.0], abs=1e-9)
    assert bool(gradient.isfinite().all())


def test_close_answers_keep_their_digits_in_float32() -> None:
    def nearly(rows: Tensor) -> Any:
        return torch.cat([rows, -rows], 1)

    images = torch.tensor([[0.001]])
    score = divergence(nearly, lambda rows: 0 * rows, images, 1.0)
    assert score.item() == pytest.approx(0.001**2 / 8, rel=1e-5)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        reconstruction_error(halved, IMAGES, 0)
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="expected"):
            divergence(classifier, halved, IMAGES, temperature)
