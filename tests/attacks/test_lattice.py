"""8-bit attacks stay within their radius in integers, and leave as little of it as they can."""

from __future__ import annotations

import itertools
import math
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certserve.attacks.lattice import on_lattice
from certserve.attacks.norms import Norm


def one(image: list[int], change: list[float], radius: float, norm: Norm = Norm.L2) -> list[int]:
    """The steps, in 1/255, of the lattice image for one small image and its change in steps."""
    pixels = np.array([image], np.uint8)
    attacked = (pixels + np.array([change])) / 255
    found = on_lattice(pixels, attacked, np.array([radius]), norm)
    return [int(step) for step in (found.astype(np.int64) - pixels)[0]]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(0, 2) | st.sampled_from([0.0, 5e-324, 1 / 255, 2 / 255, math.nextafter(1 / 255, 0), 1e9]),
    st.sampled_from(Norm),
)
def test_exactly_within_ball_and_box(seed: int, radius: float, norm: Norm) -> None:
    random = np.random.default_rng(seed)
    images = random.choice([0, 1, 128, 254, 255], (2, 3, 4)).astype(np.uint8)
    attacked = np.clip(images / 255 + random.normal(size=(2, 3, 4)) * random.choice([0.01, 0.1, 1]), 0, 1)
    found = on_lattice(images, attacked, np.full(2, radius), norm)
    assert found.dtype == np.uint8
    for before, after in zip(images.reshape(2, -1).tolist(), found.reshape(2, -1).tolist(), strict=True):
        steps = [Fraction(a - b, 255) for a, b in zip(after, before, strict=True)]
        if norm is Norm.L2:
            assert sum(step**2 for step in steps) <= Fraction(radius) ** 2
        else:
            assert max(map(abs, steps)) <= Fraction(radius)


def test_a_radius_on_the_lattice_is_reached_and_one_just_below_it_is_not() -> None:
    five = 5 / 255  # as a double; below or above the fraction
    whole = five if Fraction(five) >= Fraction(5, 255) else math.nextafter(five, 1)
    assert one([100, 100], [3.0, 4.0], whole) == [3, 4]
    assert one([100, 100], [3.0, 4.0], math.nextafter(whole, 0)) != [3, 4]
    assert one([100, 100], [9.0, -9.0], whole, Norm.LINF) == [5, -5]
    assert one([100, 100], [9.0, -9.0], math.nextafter(whole, 0), Norm.LINF) == [4, -4]


def test_a_small_change_is_not_rounded_away() -> None:
    """400 pixels by a third of a step each: rounding alone gives no change, the radius allows 100 whole steps."""
    steps = one([100] * 400, [1 / 3] * 400, 10.01 / 255)
    assert sorted(steps) == [0] * 300 + [1] * 100


def test_the_box_is_kept_and_what_it_saves_is_spent_elsewhere() -> None:
    assert one([255, 100], [0.0, 1.0], 7.5 / 255) == [0, 7]
    assert one([254, 100], [5.0, 1.0], 3.5 / 255)[0] == 1


@pytest.mark.parametrize(("norm", "expected"), [(Norm.L2, [155, -100]), (Norm.LINF, [1, -1])])
def test_the_largest_radius_leads_to_the_edge_of_the_box(norm: Norm, expected: list[int]) -> None:
    assert one([100, 100], [1.0, -1.0], sys.float_info.max, norm) == expected


def test_no_change_stays_none() -> None:
    assert one([0, 255], [0.0, 0.0], 1.0) == [0, 0]


def test_linf_is_rounded_to_the_nearest_step() -> None:
    assert one([100, 100, 100], [0.4, 0.6, -2.2], 0.5, Norm.LINF) == [0, 1, -2]


def test_hardly_any_lattice_point_in_the_ball_goes_further_along_the_change() -> None:
    """By enumeration in three dimensions: at least .85 of the best inner product on average, never above it."""
    random = np.random.default_rng(3)
    cube = np.array(list(itertools.product(range(-6, 7), repeat=3)))
    shares = []
    for _ in range(60):
        change, radius = random.normal(size=3), random.uniform(1.5, 6)
        best = (cube[(cube**2).sum(1) <= radius**2] @ change).max()
        shares.append(np.dot(one([100] * 3, change.tolist(), radius / 255), change) / best)
    assert max(shares) <= 1 + 1e-12
    assert np.mean(shares) > 0.85


def test_each_image_has_its_own_radius() -> None:
    images = np.full((2, 4), 100, np.uint8)
    found = on_lattice(images, np.full((2, 4), 0.9), np.array([2.01, 4.01]) / 255, Norm.L2)
    assert found.tolist() == [[101] * 4, [102] * 4]


@pytest.mark.parametrize(
    ("images", "attacked", "radii"),
    [
        (np.zeros((1, 2), np.uint8), np.zeros((1, 3)), np.zeros(1)),
        (np.zeros((1, 2), np.uint8), np.zeros((1, 2)), np.zeros(2)),
        (np.zeros((1, 2)), np.zeros((1, 2)), np.zeros(1)),
        (np.zeros((1, 2), np.uint8), np.zeros((1, 2)), np.array([-0.1])),
        (np.zeros((1, 2), np.uint8), np.zeros((1, 2)), np.array([np.nan])),
        (np.zeros((1, 2), np.uint8), np.zeros((1, 2)), np.array([np.inf])),
    ],
)
def test_what_does_not_fit_is_refused(images: np.ndarray, attacked: np.ndarray, radii: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        on_lattice(images, attacked, radii, Norm.L2)
