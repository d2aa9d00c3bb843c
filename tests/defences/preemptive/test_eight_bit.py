"""The 8-bit image is within delta exactly, and is the one the judge preferred; FAST keeps to its passes."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from certserve.attacks.norms import Norm  # noqa: E402 (after the check that torch is there)
from certserve.defences.preemptive.eight_bit import robustify  # noqa: E402
from certserve.defences.preemptive.methods import Bilevel, Budget, CertMargin, Fast, How, Method, how_of  # noqa: E402

QUICK: tuple[How, ...] = (CertMargin(steps=4, draws=8), Bilevel(steps=3, inner_steps=2, draws=2, rate=0.05), Fast())


def pictures(known: Any, count: int = 4, seed: int = 3) -> Any:
    """uint8, of all values."""
    return np.random.default_rng(seed).integers(0, 256, (count, *known.shape), dtype=np.uint8)


def answers(known: Any, images: Any) -> Any:
    """What the half-space says of them."""
    return (known.half_space()(torch.tensor(images) / 255)[:, 1] > 0).long().numpy()


def run(known: Any, images: Any, how: How, *, sigma: float = 0.25, seed: int = 0, **budget: Any) -> Any:
    """`robustify` of the half-space's own answers."""
    chosen = Budget(**{"norm": Norm.L2, "delta": 0.2, "epsilon": 0.2, **budget})
    return robustify(
        known.half_space(), images, answers(known, images), budget=chosen, sigma=sigma, how=how,
        generator=known.generator(seed),
    )  # fmt: skip


@pytest.mark.parametrize("how", QUICK, ids=lambda how: type(how).__name__)
@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("delta", [0.0039, 0.03, 0.2, 0.99])
def test_the_image_is_within_delta_as_a_rational_number(known: Any, how: How, norm: Norm, delta: float) -> None:
    images = pictures(known)
    found = run(known, images, how, norm=norm, delta=delta)
    assert found.images.dtype == np.uint8
    change = np.abs(found.images.astype(int) - images.astype(int)).reshape(4, -1)
    for row in change.tolist():
        if norm is Norm.L2:
            assert Fraction(sum(k * k for k in row), 255**2) <= Fraction(delta) ** 2
        else:
            assert Fraction(max(row), 255) <= Fraction(delta)


def test_the_radius_of_the_8_bit_image_grows_by_almost_delta_and_never_more(known: Any) -> None:
    images = pictures(known, 8) // 2 + 64  # far from the edges
    found = run(known, images, CertMargin(steps=8, draws=16))
    grown = known.radii(found.images / 255) - known.radii(images / 255)
    assert (grown <= 0.2 + 1e-12).all()
    assert (grown >= 0.98 * 0.2).all()


@pytest.mark.parametrize("how", QUICK[1:], ids=lambda how: type(how).__name__)
def test_the_others_grow_it_too(known: Any, how: How) -> None:
    images = pictures(known, 8) // 2 + 64
    longer = dataclasses.replace(how, steps=30) if isinstance(how, Bilevel) else how
    found = run(known, images, longer)
    grown = known.radii(found.images / 255) - known.radii(images / 255)
    assert (grown <= 0.2 + 1e-12).all()
    assert (grown >= 0.7 * 0.2).all()


@pytest.mark.parametrize("sigma", [0.0, 0.25])
def test_fast_takes_at_most_40_passes(known: Any, sigma: float) -> None:
    images, network = pictures(known, 3), known.half_space()
    found = robustify(
        network, images, answers(known, images), budget=Budget(norm=Norm.L2, delta=0.2, epsilon=0.2), sigma=sigma,
        how=Fast(), generator=known.generator(),
    )  # fmt: skip
    assert network.passes == int(found.passes.sum())
    assert found.passes.max() <= 40


def test_cert_margin_takes_a_tenth_of_the_passes_of_bilevel(known: Any) -> None:
    images, network = pictures(known, 2), known.half_space()
    default, published = how_of(Method.CERT_MARGIN), how_of(Method.BILEVEL)
    assert isinstance(default, CertMargin)
    assert isinstance(published, Bilevel)
    found = robustify(
        network, images, answers(known, images), budget=Budget(norm=Norm.L2, delta=0.2, epsilon=0.2), sigma=0.25,
        how=default, generator=known.generator(),
    )  # fmt: skip
    assert network.passes == int(found.passes.sum()) == 2 * default.most_passes
    assert 10 * default.most_passes <= published.steps * (published.inner_steps + 1) * published.draws


@pytest.mark.parametrize("how", QUICK, ids=lambda how: type(how).__name__)
def test_equal_seeds_give_equal_images_and_others_others(known: Any, how: How) -> None:
    images, seen = pictures(known), []
    for seed in (7, 7, 8):
        seen.append(
            robustify(
                known.curved,
                images,
                np.array([0, 1, 2, 0]),
                budget=Budget(norm=Norm.L2, delta=0.5, epsilon=0.2),
                sigma=0.25,
                how=how,
                generator=known.generator(seed),
            )
        )
    assert np.array_equal(seen[0].images, seen[1].images)
    assert np.array_equal(seen[0].successes, seen[1].successes)
    assert not np.array_equal(seen[0].images, seen[2].images)


@pytest.mark.parametrize("how", QUICK, ids=lambda how: type(how).__name__)
def test_where_nothing_helps_the_image_stays_as_it_is(known: Any, how: How) -> None:
    def indifferent(rows: Any) -> Any:
        return 0 * rows.flatten(1)[:, :2]

    images = pictures(known, 2)
    found = robustify(
        indifferent, images, np.array([0, 1]), budget=Budget(norm=Norm.L2, delta=0.5, epsilon=0.2), sigma=0.25,
        how=how, generator=known.generator(),
    )  # fmt: skip
    assert np.array_equal(found.images, images)


@pytest.mark.parametrize("how", QUICK[1:], ids=lambda how: type(how).__name__)
def test_success_without_noise_is_a_radius_of_epsilon(known: Any, how: How) -> None:
    images = np.clip(127.5 + np.array([2, 60])[:, None, None, None] * known.weights.sign().numpy(), 0, 255)
    images = images.astype(np.uint8)
    radii = known.radii(images / 255) + 0.05  # what they may become
    epsilon = float(radii.mean())
    assert radii[0] < epsilon < radii[1] - 0.1
    found = run(known, images, how, sigma=0.0, delta=0.05, epsilon=epsilon)
    assert found.successes.tolist() == [False, True]


def test_success_under_noise_is_a_share_of_the_votes(known: Any) -> None:
    images = np.clip(127.5 + np.array([2, 60])[:, None, None, None] * known.weights.sign().numpy(), 0, 255)
    images = images.astype(np.uint8)
    radii = known.radii(images / 255) + 0.05  # what they become
    for factor, expected in ((0.6, [False, True]), (1.6, [False, False])):
        found = run(known, images, QUICK[0], sigma=1.0, delta=0.05, epsilon=factor * float(radii[1]))
        assert found.successes.tolist() == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": 0.0}, "a positive delta"),
        ({"delta": math.nan}, "a positive delta"),
        ({"epsilon": -1.0}, "a positive epsilon"),
        ({"delta": 7.0}, "at most 6.9282"),
        ({"norm": Norm.LINF, "delta": 1.1}, "at most 1,"),
        ({"sigma": 0.0}, "smoothed classifier"),
    ],
)
def test_what_cannot_be_done_is_said(known: Any, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(known, pictures(known), QUICK[0], **change)


@pytest.mark.parametrize("labels", [[0, 2], [-1, 0], [0]])
def test_a_label_that_the_model_does_not_have_is_refused(known: Any, labels: list[int]) -> None:
    with pytest.raises(ValueError, match="label"):
        robustify(
            known.half_space(), pictures(known, 2), np.array(labels), sigma=0.25, how=QUICK[0],
            budget=Budget(norm=Norm.L2, delta=0.5, epsilon=0.2), generator=known.generator(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (CertMargin, {"steps": 0}), (CertMargin, {"draws": 0}), (CertMargin, {"refinements": -1}),
        (CertMargin, {"step": 0.0}), (CertMargin, {"enough": 0.0}), (Bilevel, {"inner_steps": 0}),
        (Bilevel, {"rate": 0.0}), (Bilevel, {"enough": -1.0}), (Fast, {"draws": 0}), (Fast, {"attack_steps": 0}),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(kind: Any, change: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        kind(**change)
