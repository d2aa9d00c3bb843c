"""The smoothed margin is the formula's, and its ascent goes where it should on a classifier whose best way is known."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from scipy.stats import norm as gaussian  # noqa: E402 (after the check that torch is there)

from certserve.attacks.norms import Norm  # noqa: E402
from certserve.defences.preemptive.margin import cert_margin, smoothed_margin  # noqa: E402
from certserve.defences.preemptive.methods import Budget, CertMargin  # noqa: E402

HOW = CertMargin(steps=8, draws=16)


def middling(known: Any, count: int = 6) -> Any:
    """Images within .3 and .7, in float64: a change of .2 stays in the box."""
    return 0.3 + 0.4 * torch.rand(count, *known.shape, dtype=torch.float64, generator=known.generator(5))


def budget(norm: Norm = Norm.L2) -> Budget:
    """What stays in the box of `middling`."""
    return Budget(norm=norm, delta=0.2 if norm is Norm.L2 else 0.05, epsilon=0.1)


def test_the_margin_is_the_formula(known: Any) -> None:
    images, labels = middling(known), torch.tensor([0, 1, 2, 0, 1, 2])
    noise = 0.25 * torch.randn(40, *images.shape, dtype=torch.float64, generator=known.generator())
    soft = known.curved((images + noise).flatten(0, 1)).softmax(1).view(40, 6, 3).mean(0).numpy()
    own = [row[label] for row, label in zip(soft, labels, strict=True)]
    second = [max(p for other, p in enumerate(row) if other != label) for row, label in zip(soft, labels, strict=True)]
    expected = gaussian.ppf(own) - gaussian.ppf(second)
    assert smoothed_margin(known.curved, images, labels, noise).tolist() == pytest.approx(expected, rel=1e-9)


def test_the_gradient_is_the_margins(known: Any) -> None:
    images, labels = middling(known, 3), torch.tensor([0, 1, 2])
    noise = 0.25 * torch.randn(5, *images.shape, dtype=torch.float64, generator=known.generator())
    assert torch.autograd.gradcheck(
        lambda at: smoothed_margin(known.curved, at, labels, noise), images.clone().requires_grad_()
    )


@pytest.mark.parametrize("lead", [-900.0, -40.0, 40.0, 900.0])
def test_far_from_every_boundary_the_margin_and_its_gradient_are_finite(lead: float) -> None:
    at = torch.full((1, 1), 1.0, requires_grad=True)
    margin = smoothed_margin(lambda x: torch.cat([lead * x, 0 * x], 1), at, torch.tensor([0]), torch.zeros(1, 1, 1))
    (gradient,) = torch.autograd.grad(margin.sum(), at)
    assert bool(torch.isfinite(margin).all() & torch.isfinite(gradient).all())
    assert float(margin.detach()) * lead > 0
    if abs(lead) < 500:  # beyond, it is flat
        assert float(gradient) * lead > 0


@pytest.mark.parametrize("norm", Norm)
def test_on_a_linear_classifier_it_goes_all_the_way_along_the_weights(known: Any, norm: Norm) -> None:
    images, labels = middling(known), torch.tensor([0, 1] * 3)
    found = cert_margin(
        known.half_space(), images, labels, budget=budget(norm), sigma=0.25, how=HOW, generator=known.generator()
    )
    away = torch.where(labels == 1, 1.0, -1.0).view(-1, 1, 1, 1)
    best = known.weights.sign() if norm is Norm.LINF else known.weights / known.weights.square().sum().sqrt()
    torch.testing.assert_close(found.images - images, budget(norm).delta * away * best, rtol=1e-6, atol=1e-9)
    assert found.passes.tolist() == [8 * 16] * 6
    assert not found.stopped.any()


def test_the_radius_of_a_linear_classifier_grows_by_delta(known: Any) -> None:
    images = middling(known)
    labels = (known.half_space()(images)[:, 1] > 0).long()
    found = cert_margin(
        known.half_space(), images, labels, budget=budget(), sigma=0.25, how=HOW, generator=known.generator()
    )
    grown = known.radii(found.images) - known.radii(images)
    assert grown.tolist() == pytest.approx([0.2] * 6, rel=1e-6)


def test_the_box_takes_no_part_of_the_way(known: Any) -> None:
    images = torch.rand(4, *known.shape, dtype=torch.float64, generator=known.generator(1)).round()
    found = cert_margin(
        known.half_space(), images, torch.ones(4).long(), budget=budget(), sigma=0.25, how=CertMargin(draws=4),
        generator=known.generator(),
    )  # fmt: skip
    assert 0.0 <= float(found.images.min()) < float(found.images.max()) <= 1.0
    assert (found.images - images).flatten(1).norm(dim=1).tolist() == pytest.approx([0.2] * 4, rel=1e-9)


def test_an_image_stops_where_the_margin_is_enough(known: Any) -> None:
    network = known.half_space()
    images = torch.full((2, *known.shape), 0.5, dtype=torch.float64)
    images[1] += 0.3 * known.weights.sign()
    found = cert_margin(
        network, images, torch.tensor([1, 1]), budget=budget(), sigma=0.25, generator=known.generator(),
        how=CertMargin(steps=8, draws=16, enough=0.4),
    )  # fmt: skip
    assert found.stopped.tolist() == [False, True]
    assert torch.equal(found.images[1], images[1])
    assert found.passes.tolist() == [8 * 16, 16]
    assert network.passes == 9 * 16


def test_without_noise_there_is_no_margin(known: Any) -> None:
    with pytest.raises(ValueError, match="smoothed classifier"):
        cert_margin(
            known.half_space(), middling(known, 1), torch.tensor([1]), budget=budget(), sigma=0.0, how=HOW,
            generator=known.generator(),
        )  # fmt: skip
