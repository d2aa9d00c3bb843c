"""BILEVEL's gradient is that of automatic differentiation through the attack, and its steps are the published ones."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional  # noqa: E402 (after the check that torch is there)

from certserve.attacks.norms import Norm  # noqa: E402
from certserve.attacks.steps import uniform  # noqa: E402
from certserve.defences.preemptive.bilevel import attacked, bilevel  # noqa: E402
from certserve.defences.preemptive.methods import Bilevel, Budget  # noqa: E402

SHORT = Bilevel(steps=6, inner_steps=4, draws=1)
LONG = Bilevel(inner_steps=12, draws=1)  # pixels that the box cut off get as far as the ball lets them


def budget(norm: Norm, delta: float = 0.1, epsilon: float = 0.2) -> Budget:
    """Of a norm."""
    return Budget(norm=norm, delta=delta, epsilon=epsilon)


def through_the_attack(network: Any, images: Any, labels: Any, norm: Norm, epsilon: float, generator: Any) -> Any:
    """The same attack with a graph through all of its steps, but for its own gradients."""
    x = images.clone().requires_grad_()
    limit = torch.full((len(images),), epsilon, dtype=torch.float64)
    at = (x + uniform(images.shape, norm, limit, generator)).clamp(0, 1)
    for _ in range(LONG.inner_steps):
        fixed = at.detach().requires_grad_()
        (g,) = torch.autograd.grad(functional.cross_entropy(network(fixed), labels, reduction="sum"), fixed)
        unit = g.sign() if norm is Norm.LINF else g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        change = at + 0.25 * epsilon * unit - x
        if norm is Norm.LINF:
            change = change.clamp(-epsilon, epsilon)
        else:
            change = change * (epsilon / change.flatten(1).norm(dim=1)).clamp_max(1).view(-1, 1, 1, 1)
        at = (x + change).clamp(0, 1)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(network(at), labels, reduction="sum"), x)
    return gradient


@pytest.mark.parametrize(("norm", "low", "high"), [(Norm.LINF, 0.0, 1.0), (Norm.LINF, 0.3, 0.7), (Norm.L2, 0.3, 0.7)])
def test_the_gradient_is_that_through_the_attack(known: Any, norm: Norm, low: float, high: float) -> None:
    images = low + (high - low) * torch.rand(5, *known.shape, dtype=torch.float64, generator=known.generator(2))
    labels = torch.tensor([0, 1, 2, 0, 1])
    found = attacked(
        known.curved, images, labels, budget=budget(norm), sigma=0.0, how=LONG, generator=known.generator(3)
    )
    expected = through_the_attack(known.curved, images, labels, norm, 0.2, known.generator(3))
    torch.testing.assert_close(found.gradient, expected)
    masked = int((expected == 0).sum())
    assert (masked > 10) == (low == 0.0)  # pixels that the box cuts off


def test_the_attack_raises_the_loss(known: Any) -> None:
    images = torch.rand(4, *known.shape, dtype=torch.float64, generator=known.generator(2))
    labels = known.curved(images).argmax(1)
    for norm in Norm:
        found = attacked(
            known.curved, images, labels, budget=budget(norm), sigma=0.0, how=SHORT, generator=known.generator()
        )
        assert (found.loss > functional.cross_entropy(known.curved(images), labels, reduction="none")).all()


@pytest.mark.parametrize("norm", Norm)
def test_on_a_linear_classifier_it_ends_at_the_best_corner(known: Any, norm: Norm) -> None:
    images = torch.full((2, *known.shape), 0.5, dtype=torch.float64)
    how = dataclasses.replace(SHORT, steps=60, rate=None if norm is Norm.LINF else 0.02)
    found = bilevel(
        known.half_space(), images, torch.tensor([1, 0]), budget=budget(norm), sigma=0.0, how=how,
        generator=known.generator(),
    )  # fmt: skip
    score = known.half_space()(found.images - images + 0.5)[:, 1]
    best = float(known.weights.abs().sum() if norm is Norm.LINF else known.weights.square().sum().sqrt())
    assert score.tolist() == pytest.approx([0.1 * best, -0.1 * best], rel=0.05)
    assert float((found.images - images).abs().max()) <= 0.1 + 1e-12


@pytest.mark.parametrize(("sigma", "draws"), [(0.0, 1), (0.25, 3)])
def test_the_published_numbers_of_passes(known: Any, sigma: float, draws: int) -> None:
    network = known.half_space()
    images = torch.full((1, *known.shape), 0.5)
    found = bilevel(
        network, images, torch.tensor([1]), budget=budget(Norm.L2), sigma=sigma, how=Bilevel(draws=3),
        generator=known.generator(),
    )  # fmt: skip
    assert found.passes.tolist() == [100 * 21 * draws]
    assert network.passes == 100 * 21 * draws


def test_an_image_stops_where_the_attack_leaves_little(known: Any) -> None:
    images = torch.stack([torch.full(known.shape, 0.5), 0.5 + 0.4 * known.weights.sign().float()])
    how = dataclasses.replace(SHORT, enough=math.log(2) / 2)
    network = known.half_space()
    found = bilevel(
        network, images, torch.tensor([1, 1]), budget=budget(Norm.L2), sigma=0.0, how=how, generator=known.generator()
    )
    assert found.stopped.tolist() == [False, True]
    assert found.passes.tolist() == [6 * 5, 5]
    assert network.passes == 7 * 5
