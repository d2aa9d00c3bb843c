"""Carlini and Wagner's attack finds the nearest adversarial image where that is known, in the box, image by image."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor  # noqa: E402 (after the check that torch is there)

from certserve.attacks.carlini_wagner import CarliniWagner, Found, carlini_wagner  # noqa: E402
from certserve.attacks.goals import Goal  # noqa: E402
from certserve.attacks.losses import logit_margin  # noqa: E402
from certserve.attacks.objectives import Evasion, Terms  # noqa: E402

CLASSES, PIXELS, SHAPE = 3, 18, (2, 3, 3)
WEIGHTS = torch.sin(1.7 * torch.arange(CLASSES * PIXELS, dtype=torch.float64)).reshape(CLASSES, PIXELS)
HOW = CarliniWagner(searches=6, steps=150, first=1.0, rate=3e-3)


def linear(images: Tensor) -> Tensor:
    """Logits of three classes; no class has the middle of the box more than others."""
    centred = (images.flatten(1) - 0.5).unsqueeze(1)
    logits: Tensor = (centred * WEIGHTS.to(images)).sum(2)
    return logits


def two(images: Tensor) -> Tensor:
    """The first two of them."""
    return linear(images)[:, :2]


def middling(count: int = 6) -> Tensor:
    """Images within .3 and .7."""
    generator = torch.Generator().manual_seed(5)
    found: Tensor = 0.3 + 0.4 * torch.rand(count, *SHAPE, dtype=torch.float64, generator=generator)
    return found


def nearest(images: Tensor, labels: Tensor, kappa: float) -> list[float]:
    """How far the nearest image is whose logits leave the label by kappa, without a box."""
    logits, found = linear(images), []
    for row, label in zip(logits, labels.tolist(), strict=True):
        others = [other for other in range(CLASSES) if other != label]
        ways = [float(row[label] - row[other] + kappa) / float((WEIGHTS[label] - WEIGHTS[other]).norm())
                for other in others]  # fmt: skip
        found.append(min(ways))
    return found


@pytest.mark.parametrize("kappa", [0.0, 0.5])
@pytest.mark.parametrize("first", [1e-2, 1.0, 20.0])
def test_the_nearest_image_that_a_linear_classifier_answers_otherwise(kappa: float, first: float) -> None:
    images = middling()
    labels = linear(images).argmax(1)
    how = dataclasses.replace(HOW, first=first, searches=9)
    found = carlini_wagner(Evasion(pipelines=(linear,), kappa=kappa), images, labels, how=how)
    best = torch.tensor(nearest(images, labels, kappa), dtype=torch.float64)
    assert (found.distances >= best * (1 - 1e-9)).all()
    assert found.distances.tolist() == pytest.approx(best.tolist(), rel=0.01, abs=2e-3)
    margins = logit_margin(linear(found.images), labels, Goal.LEAVE)
    assert (margins <= -kappa).all()
    assert (margins < 0.0).all()
    assert found.distances.tolist() == pytest.approx((found.images - images).flatten(1).norm(dim=1).tolist())


def test_reaching_one_of_two_classes_is_leaving_the_other() -> None:
    images = middling()
    labels = two(images).argmax(1)
    left = carlini_wagner(Evasion(pipelines=(two,), kappa=0.2), images, labels, how=HOW)
    reached = carlini_wagner(Evasion(pipelines=(two,), kappa=0.2, goal=Goal.REACH), images, 1 - labels, how=HOW)
    assert left.distances.isfinite().all()
    assert torch.equal(left.images, reached.images)


def test_a_target_is_reached_though_another_class_is_nearer() -> None:
    images = middling()
    labels = linear(images).argmin(1)
    found = carlini_wagner(Evasion(pipelines=(linear,), kappa=0.3, goal=Goal.REACH), images, labels, how=HOW)
    logits = linear(found.images)
    assert (logits.argmax(1) == labels).all()
    assert (logits.topk(2).values.diff(dim=1).abs() >= 0.3).all()


def within_the_box(image: Tensor, direction: Tensor, needed: float) -> float:
    """The length of the shortest change in the box that gains `needed` along the direction, by bisection."""
    low, high = 0.0, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        change = (image + middle * direction).clamp(0.0, 1.0) - image
        low, high = (low, middle) if float((change * direction).sum()) >= needed else (middle, high)
    return float(((image + high * direction).clamp(0.0, 1.0) - image).norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_box_is_kept_and_the_nearest_image_in_it_found(dtype: Any) -> None:
    images = torch.tensor([0.0, 1.0, 0.45, 0.02, 0.97, 0.5], dtype=dtype).repeat(3).reshape(1, *SHAPE)
    images = torch.cat([images, 1 - images, images.flip(1)])
    labels = two(images).argmax(1)
    how = CarliniWagner(searches=6, steps=250, first=0.1, rate=0.1)
    found = carlini_wagner(Evasion(pipelines=(two,), kappa=3.0), images, labels, how=how)
    assert found.images.dtype == dtype
    assert 0.0 <= float(found.images.min()) < float(found.images.max()) <= 1.0
    best = []
    for image, label in zip(images.double().flatten(1), labels.tolist(), strict=True):
        margin = float(logit_margin(two(image[None]), torch.tensor([label]), Goal.LEAVE))
        best.append(within_the_box(image, WEIGHTS[1 - label] - WEIGHTS[label], margin + 3.0))
    assert found.distances.tolist() == pytest.approx(best, rel=0.02)
    assert all(
        one > 1.05 * free for one, free in zip(best, nearest_of_two(images.double(), labels, 3.0), strict=True)
    )  # the walls matter


def nearest_of_two(images: Tensor, labels: Tensor, kappa: float) -> list[float]:
    """Without a box, as `nearest`."""
    margins = logit_margin(two(images), labels, Goal.LEAVE) + kappa
    return (margins / (WEIGHTS[0] - WEIGHTS[1]).norm()).tolist()  # type: ignore[no-any-return]


def test_the_nearest_of_all_that_attained_is_kept() -> None:
    images = middling()
    labels = linear(images).argmax(1)
    seen = [(math.inf, images[0])] * len(images)
    evasion = Evasion(pipelines=(linear,))
    calls = []

    def watched(rows: Tensor, names: Tensor) -> Terms:
        terms = evasion(rows, labels[names])
        calls.append(len(rows))
        for row, name, attained in zip(rows.detach(), names.tolist(), terms.attained.tolist(), strict=True):
            distance = float((row - images[name]).norm())
            if attained and distance < seen[name][0]:
                seen[name] = (distance, row)
        return terms

    found = carlini_wagner(watched, images, torch.arange(len(images)), how=HOW)
    assert found.distances.tolist() == pytest.approx([distance for distance, _ in seen], rel=1e-12)
    assert torch.equal(found.images, torch.stack([image for _, image in seen]))
    assert len(calls) <= HOW.searches * HOW.steps


def test_the_search_over_c_gets_nearer_than_a_c_too_large() -> None:
    images = middling()
    labels = linear(images).argmax(1)
    once, often = (
        carlini_wagner(Evasion(pipelines=(linear,)), images, labels,
                       how=CarliniWagner(searches=searches, steps=30, first=1e3))
        for searches in (1, 12)
    )  # fmt: skip
    assert (often.distances < once.distances).any()
    assert (often.distances <= once.distances).all()


def test_c_is_each_images_own() -> None:
    """It grows tenfold until one attains, then halves the interval; here one attains thrice, the other never."""
    attained, weights = [False, False, True, True, False, True], []

    def objective(rows: Tensor, labels: Tensor) -> Terms:
        searched: Any = 1.0 * rows.flatten()
        searched.register_hook(lambda gradient: weights.append(gradient.tolist()))  # c times 1
        return Terms(searched, torch.zeros(2), torch.tensor([attained[len(weights)], False]))

    images = torch.full((2, 1), 0.5, dtype=torch.float64)
    carlini_wagner(objective, images, torch.tensor([0, 1]), how=CarliniWagner(searches=6, steps=1, first=0.1))
    assert [pair[0] for pair in weights] == pytest.approx([0.1, 1.0, 10.0, 5.5, 3.25, 4.375])
    assert [pair[1] for pair in weights] == pytest.approx([0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0])


def attack(images: Tensor, labels: Tensor) -> Found:
    """Briefly."""
    how = dataclasses.replace(HOW, searches=4, steps=40, rate=0.02)
    return carlini_wagner(Evasion(pipelines=(linear,), kappa=0.2), images, labels, how=how)


def test_batch_mates_do_not_matter() -> None:
    images = torch.cat([middling(), (3 * middling(3) - 1).clamp(0.0, 1.0)])
    labels = linear(images).argmax(1)
    labels[1] = (labels[1] + 1) % CLASSES  # answered wrongly already
    together = attack(images, labels)
    order = torch.tensor([4, 0, 8, 2, 1, 7, 3, 6, 5])
    shuffled = attack(images[order], labels[order])
    assert together.distances.isfinite().all()
    torch.testing.assert_close(shuffled.images, together.images[order], rtol=0, atol=1e-9)
    for i in range(len(images)):
        alone = attack(images[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(alone.images[0], together.images[i], rtol=0, atol=1e-9)
        torch.testing.assert_close(alone.distances[0], together.distances[i], rtol=0, atol=1e-9)


def test_equal_arguments_give_equal_images_whatever_the_seed() -> None:
    images = middling().float()
    labels = linear(images).argmax(1)
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append(attack(images, labels))
    assert torch.equal(runs[0].images, runs[1].images)
    assert torch.equal(runs[0].distances, runs[1].distances)


def test_an_image_stops_where_it_gets_no_further() -> None:
    batches: list[list[int]] = []

    def objective(rows: Tensor, names: Tensor) -> Terms:
        batches.append(names.tolist())
        pixels = rows.flatten(1)
        falling = torch.where(names == 1, 10 * (1 - pixels[:, 0]), 0 * pixels[:, 0] + 1)
        return Terms(falling, 0 * falling, torch.zeros(len(rows), dtype=torch.bool))

    found = carlini_wagner(objective, torch.full((3, 4), 0.1), torch.arange(3),
                           how=CarliniWagner(searches=1, steps=100, first=1.0))  # fmt: skip
    assert batches == [[0, 1, 2]] * 20 + [[1]] * 80
    assert found.distances.tolist() == [math.inf] * 3
    assert torch.equal(found.images, torch.full((3, 4), 0.1))


def test_no_gradient_is_left_behind() -> None:
    torch.manual_seed(1)
    layer = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(PIXELS, 3))
    images = middling().float().requires_grad_()
    with torch.no_grad():  # a caller that wants none itself
        found = carlini_wagner(Evasion(pipelines=(layer,)), images, layer(images).argmax(1), how=HOW)
    assert found.distances.isfinite().all()
    assert not found.images.requires_grad
    assert [images.grad, *(parameter.grad for parameter in layer.parameters())] == [None] * 3


@pytest.mark.parametrize(
    "change",
    [{"searches": 0}, {"steps": 0}, {"first": 0.0}, {"first": math.inf}, {"rate": -1.0}, {"rate": math.nan}],
)
def test_settings_out_of_range_are_refused(change: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        dataclasses.replace(HOW, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"images": middling(2) + 1},
        {"images": middling(2).half()},
        {"images": torch.zeros(2, *SHAPE).long()},
        {"labels": torch.zeros(3).long()},
        {"objective": lambda images, labels: Terms(images.sum(), images.sum(), images.sum() > 0)},
    ],
)
def test_images_labels_and_terms_that_do_not_fit_are_refused(change: Any) -> None:
    arguments = {
        "objective": Evasion(pipelines=(linear,)), "images": middling(2), "labels": torch.zeros(2).long(), **change
    }  # fmt: skip
    with pytest.raises(ValueError, match="expected"):
        carlini_wagner(**arguments, how=HOW)
