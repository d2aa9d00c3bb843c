"""The divergence is exact where floats allow it, at any logits and temperature."""

from __future__ import annotations

import math
from itertools import pairwise

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from certserve.defences.divergence import jensen_shannon

Logits = npt.NDArray[np.float32]


def reference(first: Logits, second: Logits, temperature: float) -> float:
    """The divergence of two rows in 400 digits."""
    with mpmath.workdps(400):
        p, q = (_softmax(row, temperature) for row in (first, second))
        total = mpmath.mpf(0)
        for a, b in zip(p, q, strict=True):
            total += a * mpmath.log(2 * a / (a + b)) + b * mpmath.log(2 * b / (a + b))
        return float(total / 2)


def _softmax(row: Logits, temperature: float) -> list[mpmath.mpf]:
    powers = [mpmath.exp(mpmath.mpf(float(value)) / mpmath.mpf(temperature)) for value in row]
    return [power / mpmath.fsum(powers) for power in powers]


def logits(rows: int, scale: float, phase: float = 0.0) -> Logits:
    """Rows of ten without a random generator."""
    waves = np.sin(phase + 1.7 * np.arange(rows * 10)) * scale
    found: Logits = waves.astype(np.float32).reshape(rows, 10)
    return found


@pytest.mark.parametrize("temperature", [1.0, 10.0, 40.0])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_it_is_that_of_scipy(temperature: float, scale: float) -> None:
    first, second = logits(20, scale), logits(20, scale, phase=0.3)
    p, q = (softmax(part.astype(np.float64) / temperature, axis=1) for part in (first, second))
    expected = jensenshannon(p, q, axis=1) ** 2
    assert jensen_shannon(first, second, temperature) == pytest.approx(expected, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0, 40.0])
@pytest.mark.parametrize(("scale", "difference"), [(1, 1e-4), (1, 1), (20, 1), (300, 300), (1e4, 1), (1e4, 1e4)])
def test_it_is_the_exact_one_to_eight_digits(temperature: float, scale: float, difference: float) -> None:
    """Scipy's own cancels where the two are alike; this must not."""
    first = logits(3, scale)
    second = first + logits(3, difference, phase=1.0)
    for row in range(3):
        expected = reference(first[row], second[row], temperature)
        found = jensen_shannon(first[row : row + 1], second[row : row + 1], temperature)
        assert found[0] == pytest.approx(expected, rel=1e-8, abs=0)


@pytest.mark.parametrize("temperature", [1.0, 10.0, 40.0])
@pytest.mark.parametrize("size", [1e4, 3e38])
def test_extreme_logits_neither_overflow_nor_lose_their_answer(temperature: float, size: float) -> None:
    one, other = np.array([[size, -size, -size]], np.float32), np.array([[-size, size, -size]], np.float32)
    assert jensen_shannon(one, other, temperature)[0] == pytest.approx(math.log(2), rel=1e-15)
    assert jensen_shannon(one, one, temperature)[0] == 0.0
    both = np.array([[size, size, -size]], np.float32)
    assert jensen_shannon(one, both, temperature)[0] == pytest.approx(_of((1, 0), (0.5, 0.5)), rel=1e-14)


def _of(p: tuple[float, ...], q: tuple[float, ...]) -> float:
    terms = [x * math.log(2 * x / (a + b)) for a, b in zip(p, q, strict=True) for x in (a, b) if x]
    return math.fsum(terms) / 2


def test_it_is_symmetric_blind_to_a_shift_and_never_negative() -> None:
    first, second = logits(50, 5.0), logits(50, 5.0, phase=1e-3)
    there = jensen_shannon(first, second, 10.0)
    assert np.array_equal(there, jensen_shannon(second, first, 10.0))
    assert (there > 0).all()
    exact = logits(50, 8.0).round()
    assert np.array_equal(jensen_shannon(exact + 64, exact, 1.0), np.zeros(50))


def test_it_goes_through_the_place_where_the_formula_changes_without_a_step() -> None:
    sides = np.linspace(1.9, 2.1, 401).astype(np.float32)
    rows = np.stack([sides, np.zeros_like(sides)], axis=1)
    values = jensen_shannon(rows, -rows, 1.0)
    steps = [b - a for a, b in pairwise(values)]
    assert min(steps) > 0
    assert max(steps) < 1.5 * min(steps)


def test_what_is_not_finite_is_no_number() -> None:
    rows = np.array([[1.0, np.inf], [np.nan, 0.0], [1.0, 0.0]], np.float32)
    found = jensen_shannon(rows, np.zeros((3, 2), np.float32), 10.0)
    assert np.isnan(found).tolist() == [True, True, False]
