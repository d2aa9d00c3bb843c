"""APGD and Square keep to ball and box exactly, and find the best attack where that is known."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from certserve.attacks.aims import Scored, Smoothed, cross_entropy, logit_ratio, margin  # noqa: E402 (after the check)
from certserve.attacks.apgd import APGD, Reached, apgd, better_of, checkpoints  # noqa: E402
from certserve.attacks.norms import Norm  # noqa: E402
from certserve.attacks.square import Square, square  # noqa: E402

SHAPE = (3, 8, 8)
WEIGHTS = torch.sin(1.7 * torch.arange(192, dtype=torch.float64)).reshape(SHAPE)


def linear(rows: Any) -> Any:
    """Three classes: 0, a weighted sum about its middle, and one that is never first."""
    score = (rows * WEIGHTS.to(rows)).flatten(1).sum(1) - float(WEIGHTS.sum()) / 2
    return torch.stack([torch.zeros_like(score), score, torch.full_like(score, -50.0)], 1)


def seeded(seed: int = 0) -> Any:
    """A generator in the state that a seed gives."""
    return torch.Generator().manual_seed(seed)


def aim(loss: Any = cross_entropy, sigma: float = 0.0, draws: int = 1) -> Smoothed:
    """On `linear`."""
    return Smoothed(classifier=linear, loss=loss, sigma=sigma, draws=draws, generator=seeded(1))


def middling(count: int = 6) -> tuple[Any, Any]:
    """Images far from the box's walls, and what `linear` answers."""
    images = 0.4 + 0.2 * torch.rand(count, *SHAPE, dtype=torch.float64, generator=seeded(5))
    return images, linear(images).argmax(1)


def attack(name: str, norm: Norm, images: Any, labels: Any, epsilon: Any, **named: Any) -> Reached:
    """By one of the two."""
    if name == "apgd":
        return apgd(aim(**named), images, labels, epsilon=epsilon, how=APGD(norm=norm, steps=25), generator=seeded())
    how = Square(norm=norm, queries=60)
    return square(aim(**named), images, labels, epsilon=epsilon, how=how, generator=seeded())


@pytest.mark.parametrize("name", ["apgd", "square"])
@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.05, 0.6, 1e5])
def test_ball_and_box_are_kept_exactly(name: str, norm: Norm, epsilon: float) -> None:
    images = torch.rand(3, *SHAPE, generator=seeded(2))
    images[0] = 0.0
    every = torch.full((3,), epsilon, dtype=torch.float64)
    found = attack(name, norm, images, torch.tensor([0, 1, 0]), every, sigma=0.25, draws=3, loss=margin).images
    for one, other in zip(found.flatten(1).tolist(), images.flatten(1).tolist(), strict=True):
        changes = [abs(Fraction(a) - Fraction(b)) for a, b in zip(one, other, strict=True)]
        far = sum(change**2 for change in changes) if norm is Norm.L2 else max(changes) ** 2
        assert far <= Fraction(epsilon) ** 2
        assert all(0.0 <= pixel <= 1.0 for pixel in one)


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("loss", [cross_entropy, logit_ratio, margin])
def test_apgd_finds_the_best_attack_on_a_linear_classifier(norm: Norm, loss: Any) -> None:
    images, labels = middling()
    epsilon = 0.2 if norm is Norm.L2 else 0.02
    found = attack("apgd", norm, images, labels, torch.full((6,), epsilon, dtype=torch.float64), loss=loss)
    away = torch.where(labels == 0, 1.0, -1.0).view(-1, 1, 1, 1)
    best = WEIGHTS.sign() if norm is Norm.LINF else WEIGHTS / WEIGHTS.square().sum().sqrt()
    gained = ((found.images - images) * away * best).flatten(1).sum(1)
    torch.testing.assert_close(gained, torch.full_like(gained, epsilon * float((best * best).sum())), rtol=0.02, atol=0)


@pytest.mark.parametrize("norm", Norm)
def test_the_step_shrinks_where_it_overshoots(norm: Norm) -> None:
    images, labels = middling()
    epsilon = torch.full((6,), 1.0 if norm is Norm.L2 else 0.1, dtype=torch.float64)
    best = images + 0.02 * torch.sin(torch.arange(192)).reshape(SHAPE)

    def towards(rows: Any, _: Any) -> Scored:
        return Scored(-(rows - best).flatten(1).square().sum(1), torch.zeros(len(rows), dtype=torch.bool))

    found = apgd(towards, images, labels, epsilon=epsilon, how=APGD(norm=norm, steps=100), generator=seeded())
    near = (found.images - best).flatten(1).square().sum(1).sqrt()
    assert not found.images.requires_grad
    assert (near < (0.005 if norm is Norm.L2 else 0.2) * epsilon).all()


@pytest.mark.parametrize("norm", Norm)
def test_success_begins_at_the_radius(norm: Norm) -> None:
    images, labels = middling()
    scores = linear(images)[:, 1].abs()
    radii = scores / (WEIGHTS.square().sum().sqrt() if norm is Norm.L2 else WEIGHTS.abs().sum())
    for factor, attained in ((0.99, False), (1.1, True)):
        found = attack("apgd", norm, images, labels, factor * radii)
        assert found.attained.tolist() == [attained] * 6
        assert ((linear(found.images).argmax(1) != labels) == attained).all()


@pytest.mark.parametrize("norm", Norm)
def test_square_gets_past_without_gradients_and_its_loss_only_rises(norm: Norm) -> None:
    images, labels = middling()
    scores = linear(images)[:, 1].abs()
    radii = scores / (WEIGHTS.square().sum().sqrt() if norm is Norm.L2 else WEIGHTS.abs().sum())
    assert not attack("square", norm, images, labels, 0.99 * radii, loss=margin).attained.any()
    few, many = (
        square(aim(margin), images, labels, epsilon=2 * radii, how=Square(norm=norm, queries=queries),
               generator=seeded())
        for queries in (1, 400)
    )  # fmt: skip
    assert (many.losses >= few.losses).all()
    found = square(aim(margin), images, labels, epsilon=8 * radii, how=Square(norm=norm, queries=400),
                   generator=seeded())  # fmt: skip
    assert found.attained.all()
    assert (linear(found.images).argmax(1) != labels).all()


@pytest.mark.parametrize("name", ["apgd", "square"])
def test_the_expectation_over_noise_is_attacked(name: str) -> None:
    images, labels = middling()
    radii = linear(images)[:, 1].abs() / WEIGHTS.square().sum().sqrt()  # of the smoothed classifier too
    factor = 1.3 if name == "apgd" else 10.0
    found = attack(name, Norm.L2, images, labels, factor * radii, loss=margin, sigma=0.1, draws=1001)
    assert found.attained.sum() >= 5
    assert (linear(found.images).argmax(1) != labels).sum() >= 5


def test_equal_arguments_give_equal_images() -> None:
    images, labels = middling()
    every = torch.full((6,), 0.3, dtype=torch.float64)
    for name in ("apgd", "square"):
        one, other = (attack(name, Norm.L2, images, labels, every, sigma=0.1, draws=2) for _ in range(2))
        assert torch.equal(one.images, other.images)


def test_the_checkpoints_of_the_paper() -> None:
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_what_attained_comes_before_a_higher_loss() -> None:
    zero, one = torch.zeros(3, 1), torch.ones(3, 1)
    first = Reached(zero, torch.tensor([True, False, True]), torch.tensor([1.0, 1.0, 1.0]))
    second = Reached(one, torch.tensor([False, False, True]), torch.tensor([2.0, 2.0, 0.5]))
    found = better_of(first, second)
    assert found.images.squeeze(1).tolist() == [0.0, 1.0, 0.0]
    assert found.attained.tolist() == [True, False, True]
    assert found.losses.tolist() == [1.0, 2.0, 1.0]
    assert better_of(second, first).images.squeeze(1).tolist() == [0.0, 1.0, 0.0]


def test_the_squares_shrink_as_in_the_paper() -> None:
    how = Square(norm=Norm.LINF, queries=10_000)
    assert [how.side(query, 1024) for query in (0, 10, 11, 51, 8001)] == [29, 29, 20, 14, 1]
    assert Square(norm=Norm.L2, queries=10_000).side(9000, 1024) == 3


@pytest.mark.parametrize(
    "make",
    [lambda: APGD(norm=Norm.L2, steps=0), lambda: Square(norm=Norm.L2, queries=0),
     lambda: Square(norm=Norm.L2, share=0.0)],
)  # fmt: skip
def test_settings_out_of_range(make: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()


def test_square_needs_images() -> None:
    with pytest.raises(ValueError, match="5 x 5 or more"):
        attack("square", Norm.L2, torch.rand(1, 3, 4, 9), torch.tensor([0]), torch.tensor([0.5]))
