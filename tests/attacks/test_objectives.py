"""The terms of an evasion are those of the formula, and an adaptive attack gets past a MagNet that stops others."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor  # noqa: E402 (after the check that torch is there)

from certserve.attacks.carlini_wagner import CarliniWagner, carlini_wagner  # noqa: E402
from certserve.attacks.goals import Goal  # noqa: E402
from certserve.attacks.objectives import Detector, Evasion, reformed  # noqa: E402
from certserve.attacks.scores import divergence, reconstruction_error  # noqa: E402

# A world in eight pixels. In what is normal the last four are .5; the autoencoder puts them back to that. The
# classifier heeds them all, the last four most.
ON = torch.tensor([2.0, -1.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
OFF = torch.tensor([0.0, 0.0, 0.0, 0.0, 6.0, -4.0, 2.0, -4.0], dtype=torch.float64)
NORM_ON, NORM_OFF = math.sqrt(10.0), math.sqrt(72.0)
HOW = CarliniWagner(searches=7, steps=200, first=0.1, rate=3e-3)


def classifier(images: Tensor) -> Tensor:
    """Logits of two classes."""
    score = ((images - 0.5) * (ON + OFF)).sum(1)
    logits: Tensor = torch.stack([-score / 2, score / 2], 1)
    return logits


def autoencoder(images: Tensor) -> Tensor:
    """The normal image that is nearest."""
    found: Tensor = torch.cat([images[:, :4], torch.full_like(images[:, 4:], 0.5)], 1)
    return found


def error(images: Tensor) -> Tensor:
    """The score by reconstruction."""
    return reconstruction_error(autoencoder, images, 2)


def normal(count: int = 6) -> Tensor:
    """Normal images away from the walls of the box, of both classes."""
    drawn = torch.rand(count, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return autoencoder(0.3 + 0.4 * drawn)


IMAGES = normal()
LABELS = classifier(IMAGES).argmax(1)
MARGINS = (classifier(IMAGES)[:, 0] - classifier(IMAGES)[:, 1]).abs()


def test_the_terms_are_those_of_the_formula() -> None:
    images = torch.zeros(2, 3, dtype=torch.float64)

    def fixed(*rows: tuple[float, ...]) -> Any:
        return lambda images: torch.tensor(rows, dtype=torch.float32)

    evasion = Evasion(
        pipelines=(fixed((1.0, 4.0, 2.0), (0.0, 9.0, 0.0)), fixed((3.0, 2.0, 1.0), (5.0, 7.0, 6.0))),
        detectors=(Detector(fixed(0.5, 0.125), 0.25), Detector(fixed(0.0, 0.75), 0.5)),  # type: ignore[arg-type]
        kappa=1.5,
        weight=10.0,
    )
    leave = evasion(images, torch.tensor([1, 1]))
    # margins 4 - 2, 2 - 3; 9 - 0, 7 - 6
    assert leave.searched.tolist() == [3.5 + 0.5, 10.5 + 2.5]
    assert leave.fixed.tolist() == [10 * 0.25, 10 * 0.25]
    reach = dataclasses.replace(evasion, goal=Goal.REACH)(images, torch.tensor([1, 1]))
    assert reach.searched.tolist() == [0.0 + 2.5, 0.0 + 0.5]


@pytest.mark.parametrize(
    ("logits", "score", "kappa", "attained"),
    [
        ((1.0, 1.5), 0.0, 0.0, True),
        ((1.0, 1.0), 0.0, 0.0, False),  # no other answer
        ((1.5, 1.0), 0.0, 0.0, False),
        ((1.0, 1.5), 0.0, 0.5, True),
        ((1.0, 1.5), 0.0, 0.625, False),
        ((1.0, 1.5), 0.25, 0.0, False),  # at the threshold a detector fires
        ((1.0, 1.5), 0.5, 0.0, False),
    ],
)
def test_attained_is_every_pipeline_fooled_and_every_detector_passed(
    logits: tuple[float, float], score: float, kappa: float, attained: bool
) -> None:
    fooled = torch.tensor([[0.0, 9.0]])
    tried = (torch.tensor([logits]), torch.tensor([score]))
    images, labels = torch.zeros(1, 1), torch.tensor([0])
    for first in (True, False):  # the order does not matter
        pipelines = (lambda rows: fooled, lambda rows: tried[0])
        detectors = (Detector(lambda rows: tried[1], 0.25), Detector(lambda rows: 0 * tried[1], 0.25))
        evasion = Evasion(
            pipelines=pipelines if first else pipelines[::-1],
            detectors=detectors if first else detectors[::-1],
            kappa=kappa,
        )
        assert evasion(images, labels).attained.tolist() == [attained]


def test_what_stops_an_oblivious_attack_does_not_stop_an_adaptive_one() -> None:
    pipeline, threshold = reformed(classifier, autoencoder), 1e-4
    oblivious = carlini_wagner(Evasion(pipelines=(classifier,)), IMAGES, LABELS, how=HOW)
    assert oblivious.distances.tolist() == pytest.approx((MARGINS / math.hypot(NORM_ON, NORM_OFF)).tolist(), rel=0.01)
    assert (pipeline(oblivious.images).argmax(1) == LABELS).all()
    assert (error(oblivious.images) > threshold).any()
    adaptive = carlini_wagner(
        Evasion(pipelines=(pipeline,), detectors=(Detector(error, threshold),)), IMAGES, LABELS, how=HOW
    )
    assert adaptive.distances.tolist() == pytest.approx((MARGINS / NORM_ON).tolist(), rel=0.01)
    assert (pipeline(adaptive.images).argmax(1) != LABELS).all()
    assert (error(adaptive.images) < threshold).all()


def test_the_nearest_image_that_a_detector_lets_pass() -> None:
    threshold = 1e-4
    found = carlini_wagner(
        Evasion(pipelines=(classifier,), detectors=(Detector(error, threshold),)), IMAGES, LABELS,
        how=dataclasses.replace(HOW, steps=500),
    )  # fmt: skip
    off = math.sqrt(8 * threshold)  # as far as the detector lets it go in the last four pixels
    on = (MARGINS - NORM_OFF * off).clamp_min(0.0) / NORM_ON
    free = MARGINS / math.hypot(NORM_ON, NORM_OFF)
    binds = free * NORM_OFF / math.hypot(NORM_ON, NORM_OFF) > off
    assert binds.any()
    best = torch.where(binds, (on.square() + off**2).sqrt(), free)
    assert (found.distances > best * (1 - 1e-9)).all()
    assert found.distances.tolist() == pytest.approx(best.tolist(), rel=0.02)
    assert (error(found.images) < threshold).all()


def test_every_reformer_has_to_be_fooled() -> None:
    def helpful(images: Tensor) -> Any:
        return autoencoder(images) + 0.05 * ON  # for class 1

    chosen = LABELS == 1
    evasion = Evasion(pipelines=tuple(reformed(classifier, reformer) for reformer in (autoencoder, helpful)))
    found = carlini_wagner(evasion, IMAGES[chosen], LABELS[chosen], how=HOW)
    best = (MARGINS[chosen] + 0.05 * NORM_ON**2) / NORM_ON
    assert found.distances.tolist() == pytest.approx(best.tolist(), rel=0.01)
    assert chosen.any()


def test_an_attack_past_a_divergence_and_at_kappa_reaches_its_class() -> None:
    def score(images: Tensor) -> Tensor:
        return divergence(classifier, autoencoder, images, 1.0)

    pipeline = reformed(classifier, autoencoder)
    evasion = Evasion(pipelines=(classifier, pipeline), detectors=(Detector(score, 1e-3),), kappa=0.5, goal=Goal.REACH)
    found = carlini_wagner(evasion, IMAGES, 1 - LABELS, how=HOW)
    assert found.distances.isfinite().all()
    for logits in (classifier(found.images), pipeline(found.images)):
        assert (logits.gather(1, (1 - LABELS)[:, None]) - logits.gather(1, LABELS[:, None]) >= 0.5).all()
    assert (score(found.images) < 1e-3).all()


@pytest.mark.parametrize(
    "change",
    [
        {"pipelines": ()},
        {"kappa": -1.0},
        {"kappa": math.inf},
        {"weight": -1.0},
        {"weight": math.nan},
        {"detectors": (Detector(error, math.nan),)},
    ],
)
def test_settings_out_of_range_are_refused(change: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        dataclasses.replace(Evasion(pipelines=(classifier,)), **change)
