"""The losses are those of the papers, of many copies their expectation."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from certserve.attacks.aims import (  # noqa: E402 (after the check that torch is there)
    Smoothed,
    cross_entropy,
    evading,
    logit_ratio,
    margin,
    targeted_ratio,
)
from certserve.attacks.objectives import Detector, Evasion  # noqa: E402

LOGITS = torch.tensor([[[3.0, 1.0, 2.0, -1.0]], [[0.0, 4.0, 1.0, 2.0]]], dtype=torch.float64)  # two copies
LABEL = torch.tensor([0])


def fixed(images: Any) -> Any:
    """Logits (0, 10 * first pixel - 5) a row."""
    first = images.flatten(1)[:, 0]
    return torch.stack([torch.zeros_like(first), 10 * first - 5], 1)


def aim(sigma: float, draws: int, loss: Any = cross_entropy) -> Smoothed:
    """On `fixed`."""
    generator = torch.Generator().manual_seed(0)
    return Smoothed(classifier=fixed, loss=loss, sigma=sigma, draws=draws, generator=generator)


def test_the_logit_ratio_is_the_mean_of_the_copies() -> None:
    # z_y = 3, other 2, z1 - z3 = 3 - 1; z_y = 0, other 4, z1 - z3 = 4 - 1
    assert float(logit_ratio(LOGITS, LABEL)) == pytest.approx(((2 - 3) / 2 + (4 - 0) / 3) / 2)
    assert float(logit_ratio(7 * LOGITS + 1, LABEL)) == pytest.approx(float(logit_ratio(LOGITS, LABEL)))


def test_the_targeted_ratio_is_the_mean_of_the_copies() -> None:
    # target 1: (1 - 3) / (3 - (1 - 1) / 2); (4 - 0) / (4 - (1 + 0) / 2)
    expected = ((1 - 3) / (3 - 0.0) + (4 - 0) / (4 - 0.5)) / 2
    assert float(targeted_ratio(torch.tensor([1]))(LOGITS, LABEL)) == pytest.approx(expected)


def test_cross_entropy_and_margin_are_of_the_mean_probability() -> None:
    mean = LOGITS.softmax(2).mean(0)[0]
    assert float(cross_entropy(LOGITS, LABEL)) == pytest.approx(-math.log(mean[0]))
    assert float(margin(LOGITS, LABEL)) == pytest.approx(math.log(max(mean[1:]) / mean[0]))


@pytest.mark.parametrize(("loss", "classes"), [(logit_ratio, 2), (targeted_ratio(torch.tensor([1])), 3)])
def test_a_ratio_needs_its_classes(loss: Any, classes: int) -> None:
    with pytest.raises(ValueError, match=f"at least {classes + 1} classes"):
        loss(LOGITS[..., :classes], LABEL)


def test_attained_is_what_most_copies_answer() -> None:
    images = torch.tensor([0.45, 0.55]).view(2, 1, 1, 1)
    assert aim(0.0, 1)(images, torch.zeros(2).long()).attained.tolist() == [False, True]
    assert aim(0.25, 4001)(images, torch.zeros(2).long()).attained.tolist() == [False, True]
    assert not torch.equal(aim(0.25, 9)(images, torch.zeros(2).long()).loss, aim(0.0, 1)(images, LABEL.repeat(2)).loss)


def test_an_objective_is_an_aim() -> None:
    images = torch.tensor([0.3, 0.7]).view(2, 1, 1, 1)
    detector = Detector(lambda rows: rows.flatten(1).sum(1), 0.6)
    scored = evading(Evasion(pipelines=(fixed,), detectors=(detector,), weight=3.0))(images, torch.zeros(2).long())
    assert scored.loss.tolist() == pytest.approx([-2.0, -0.3], abs=1e-5)
    assert scored.attained.tolist() == [False, False]


@pytest.mark.parametrize(("sigma", "draws"), [(-1.0, 1), (math.nan, 1), (0.0, 2), (0.5, 0)])
def test_settings_out_of_range(sigma: float, draws: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        aim(sigma, draws)
