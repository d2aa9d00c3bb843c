"""PGD keeps to its ball and box exactly, reaches the best attack where that is known, and repeats itself."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor  # noqa: E402 (after the check that torch is there)

from certserve.attacks.goals import Goal  # noqa: E402
from certserve.attacks.norms import Norm  # noqa: E402
from certserve.attacks.pgd import PGD, Start, fgsm, pgd  # noqa: E402

SHAPE = (3, 4, 4)
NORMS = (Norm.L2, Norm.LINF)
WEIGHTS = torch.sin(1.7 * torch.arange(48, dtype=torch.float64)).reshape(SHAPE)  # of many sizes and both signs
PLAIN = PGD(norm=Norm.L2, steps=8, step=0.3, sigma=0.0, draws=1)
SMOOTHED = dataclasses.replace(PLAIN, sigma=0.25, draws=20)


@dataclass(frozen=True)
class HalfSpace:
    """Class 1 where WEIGHTS . x > offset; logits (0, WEIGHTS . x - offset)."""

    offset: float = float(WEIGHTS.sum()) / 2  # through the middle of the box

    def __call__(self, rows: Tensor) -> Tensor:
        score = (rows * WEIGHTS.to(rows)).flatten(1).sum(1) - self.offset
        logits: Tensor = torch.stack([torch.zeros_like(score), score], 1)
        return logits


def generator(seed: int = 0) -> Any:
    """In the state that a seed gives."""
    return torch.Generator().manual_seed(seed)


def middling(count: int = 8) -> Tensor:
    """Images within .3 and .7: attacks of .25 stay in the box."""
    found: Tensor = 0.3 + 0.4 * torch.rand(count, *SHAPE, dtype=torch.float64, generator=generator(5))
    return found


def curved(rows: Tensor) -> Tensor:
    """Logits of three classes that are no linear functions."""
    kernel = torch.sin(torch.arange(48 * 6, dtype=torch.float64)).reshape(48, 6).to(rows)
    last = torch.cos(torch.arange(18, dtype=torch.float64)).reshape(6, 3).to(rows)
    logits: Tensor = 5 * torch.tanh(rows.flatten(1) @ kernel) @ last
    return logits


def every(epsilon: float, images: Tensor) -> Tensor:
    """The same epsilon for each image."""
    found: Tensor = torch.full((len(images),), epsilon, dtype=torch.float64)
    return found


def exactly_within(attacked: Tensor, images: Tensor, norm: Norm, epsilon: float) -> bool:
    """Whether every image is in the ball and the box, in rational numbers."""
    for one, other in zip(attacked.flatten(1).tolist(), images.flatten(1).tolist(), strict=True):
        changes = [abs(Fraction(a) - Fraction(b)) for a, b in zip(one, other, strict=True)]
        if norm is Norm.L2 and sum(change**2 for change in changes) > Fraction(epsilon) ** 2:
            return False
        if norm is Norm.LINF and max(changes) > Fraction(epsilon):
            return False
        if not all(0.0 <= pixel <= 1.0 for pixel in one):
            return False
    return True


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("start", Start)
@pytest.mark.parametrize("epsilon", [0.0, 1e-15, 1e-6, 0.03, 0.25, 3.0, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ball_and_box_are_kept_exactly(norm: Norm, start: Start, epsilon: float, dtype: Any) -> None:
    images = torch.rand(4, *SHAPE, generator=generator(1), dtype=dtype)
    images[0], images[1], images[2, 0] = 0.0, 1.0, 1e-30
    how = dataclasses.replace(SMOOTHED, norm=norm, start=start)
    attacked = pgd(
        curved, images, torch.tensor([0, 1, 2, 0]), epsilon=every(epsilon, images), how=how, generator=generator()
    )
    assert attacked.dtype == torch.float64
    assert exactly_within(attacked, images, norm, epsilon)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("how", [PLAIN, SMOOTHED])
def test_the_best_attack_on_a_linear_classifier(norm: Norm, how: PGD) -> None:
    images, epsilon = middling(), 0.25 if norm is Norm.L2 else 0.03
    labels = torch.tensor([0, 1] * 4)
    attacked = pgd(HalfSpace(), images, labels, epsilon=every(epsilon, images),
                   how=dataclasses.replace(how, norm=norm), generator=generator())  # fmt: skip
    away = torch.where(labels == 0, 1.0, -1.0).view(-1, 1, 1, 1)  # from the label, along the weights
    best = WEIGHTS.sign() if norm is Norm.LINF else WEIGHTS / WEIGHTS.square().sum().sqrt()
    torch.testing.assert_close(attacked - images, epsilon * away * best, rtol=1e-6, atol=1e-9)


def test_the_box_cuts_the_best_linf_attack() -> None:
    images = torch.tensor([0.0, 1.0], dtype=torch.float64).repeat(24).reshape(1, *SHAPE)
    how = dataclasses.replace(PLAIN, norm=Norm.LINF)
    attacked = pgd(HalfSpace(), images, torch.tensor([0]), epsilon=every(0.1, images), how=how, generator=generator())
    torch.testing.assert_close(attacked, (images + 0.1 * WEIGHTS.sign()).clamp(0, 1), rtol=1e-6, atol=1e-9)


def test_the_answer_of_a_smoothed_linear_classifier_changes_just_beyond_its_radius() -> None:
    images = middling()
    scores = HalfSpace()(images)[:, 1]
    labels = (scores > 0).long()
    radii = scores.abs() / WEIGHTS.square().sum().sqrt()  # Cohen et al. 2019: exact for linear classifiers, any sigma
    for factor, changed in ((0.999, False), (1.001, True)):
        attacked = pgd(
            HalfSpace(), images, labels, epsilon=factor * radii, how=SMOOTHED, generator=generator()
        )  # in the box, as no radius is above .3
        after = (HalfSpace()(attacked)[:, 1] > 0).long()
        assert ((after != labels) == changed).all()


def test_reaching_is_the_way_back_from_leaving() -> None:
    images = middling()
    labels = torch.tensor([0, 1] * 4)
    options: Any = {"epsilon": every(0.2, images), "generator": generator()}
    left = pgd(HalfSpace(), images, labels, how=PLAIN, **options)
    reached = pgd(HalfSpace(), images, 1 - labels, how=dataclasses.replace(PLAIN, goal=Goal.REACH), **options)
    torch.testing.assert_close(left, reached)


def test_each_image_has_its_own_epsilon() -> None:
    images, epsilon = middling(3), torch.tensor([0.0, 0.1, 0.3], dtype=torch.float64)
    attacked = pgd(HalfSpace(), images, torch.zeros(3).long(), epsilon=epsilon, how=PLAIN, generator=generator())
    found = (attacked - images).flatten(1).square().sum(1).sqrt()
    torch.testing.assert_close(found, epsilon, rtol=1e-6, atol=1e-12)


def test_the_first_step_is_as_long_as_asked() -> None:
    images = middling(2)
    attacked = pgd(HalfSpace(), images, torch.zeros(2).long(), epsilon=every(0.2, images),
                   how=dataclasses.replace(PLAIN, steps=1), generator=generator())  # fmt: skip
    length = (attacked - images).flatten(1).square().sum(1).sqrt()
    assert length.tolist() == pytest.approx([0.3 * 0.2] * 2, rel=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_fast_gradient_method_goes_all_the_way_along_the_first_gradient(norm: Norm) -> None:
    seen: list[Tensor] = []

    def watched(rows: Tensor) -> Tensor:
        seen.append(rows.detach())
        return HalfSpace()(rows)

    images = middling(2)
    attacked = pgd(
        watched, images, torch.tensor([1, 1]), epsilon=every(0.1, images), how=fgsm(norm, Goal.REACH),
        generator=generator(),
    )  # fmt: skip
    best = WEIGHTS.sign() if norm is Norm.LINF else WEIGHTS / WEIGHTS.square().sum().sqrt()
    torch.testing.assert_close(attacked - images, (0.1 * best).expand_as(images), rtol=1e-6, atol=1e-9)
    assert len(seen) == 1
    assert torch.equal(seen[0], images)


@pytest.mark.parametrize("start", Start)
def test_equal_seeds_give_equal_attacks_and_others_others(start: Start) -> None:
    images = middling().float()
    how = dataclasses.replace(SMOOTHED, start=start)
    runs = [
        pgd(curved, images, torch.zeros(8).long(), epsilon=every(0.3, images), how=how, generator=generator(seed))
        for seed in (7, 7, 8)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_every_step_draws_its_noise_afresh() -> None:
    seen: list[Tensor] = []

    def watched(rows: Tensor) -> Tensor:
        seen.append(rows.detach())
        return curved(rows)

    images = middling(2)
    how = dataclasses.replace(SMOOTHED, steps=3, draws=500)
    pgd(watched, images, torch.zeros(2).long(), epsilon=every(1e-9, images), how=how, generator=generator())
    noise = torch.stack([rows.view(500, 2, *SHAPE) - images for rows in seen])
    assert noise.shape == (3, 500, 2, *SHAPE)
    assert abs(float(noise.std()) - 0.25) < 0.002
    assert float((noise[0] * noise[1]).mean().abs()) < 0.001  # 0.0625 were they the same
    assert float((noise[:, 0] - noise[:, 1]).abs().mean()) > 0.2


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_are_taken_in_the_box_even_at_a_random_start(norm: Norm) -> None:
    seen: list[Tensor] = []

    def watched(rows: Tensor) -> Tensor:
        seen.append(rows.detach())
        return curved(rows)

    images = torch.zeros(4, *SHAPE)
    how = dataclasses.replace(PLAIN, norm=norm, start=Start.RANDOM)
    pgd(watched, images, torch.zeros(4).long(), epsilon=every(2.0, images), how=how, generator=generator())
    assert all(0.0 <= float(rows.min()) < float(rows.max()) <= 1.0 for rows in seen)


def test_the_network_gets_images_of_their_own_type_and_no_gradient_is_left_behind() -> None:
    layer = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    images = middling(2).float()
    with torch.no_grad():  # a caller that wants none itself
        attacked = pgd(
            layer, images, torch.zeros(2).long(), epsilon=every(0.1, images), how=SMOOTHED, generator=generator()
        )
    assert not attacked.requires_grad
    assert [parameter.grad for parameter in layer.parameters()] == [None, None]
    assert not torch.equal(attacked.float(), images)


@pytest.mark.parametrize(
    "change",
    [{"steps": 0}, {"draws": 0}, {"step": 0.0}, {"step": math.inf}, {"sigma": -0.1}, {"sigma": math.nan}, {"draws": 2}],
)
def test_settings_out_of_range_are_refused(change: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        dataclasses.replace(PLAIN, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"images": middling(2) + 1},
        {"images": middling(2) * math.nan},
        {"images": torch.zeros(2, *SHAPE).long()},
        {"labels": torch.zeros(3).long()},
        {"epsilon": torch.tensor(0.1)},
        {"epsilon": torch.tensor([0.1, -0.1])},
        {"epsilon": torch.tensor([0.1, math.inf])},
    ],
)
def test_images_labels_and_epsilon_out_of_range_are_refused(change: Any) -> None:
    arguments = {"images": middling(2), "labels": torch.zeros(2).long(), "epsilon": torch.tensor([0.1, 0.1]), **change}
    with pytest.raises(ValueError, match="expected"):
        pgd(HalfSpace(), **arguments, how=PLAIN, generator=generator())
