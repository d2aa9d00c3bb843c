"""The linear oracle: classifiers whose true radius is known, against the whole of sampling, noise and bounds.

A half-space of the 8-bit grid answers "above" where an integer combination of pixels exceeds a threshold. Under
the rounded Gaussian its probability is an exact sum, and no randomness is needed to say how often CERTIFY is
wrong: every possible count is certified, and the binomial masses of those that claim too much are added up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from types import ModuleType

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import ndtr
from scipy.stats import binom

from certserve.noise.arithmetic import Arithmetic, arithmetic_error
from certserve.noise.grid import rounded_gaussian
from certserve.noise.keystream import STREAM, Key
from certserve.sampling.sampler import Sampler
from certserve.sampling.slices import DrawSet, Slice
from certserve.sampling.source import DrawSource
from certserve.smoothing.decision import certify
from certserve.smoothing.outcomes import Bound, Case, Certificate, Origin, Setting, Space, Votes

SHAPE = (1, 2, 2)
KEY = Key(b"the public key of this oracle...")
FALSE_ALARM = 1e-9


@dataclass(frozen=True)
class HalfSpace:
    """Class 1 where the sum of steps[j] * pixel j exceeds threshold + 1/2, asked about at `pixels` under sigma."""

    steps: tuple[tuple[int, int], ...]
    threshold: int
    pixels: tuple[int, int, int, int]
    sigma: float

    @property
    def margin(self) -> Fraction:
        """How far the sum is above the boundary, in grid steps."""
        total = sum(step * self.pixels[pixel] for pixel, step in self.steps)
        return total - self.threshold - Fraction(1, 2)


ORACLES = [
    HalfSpace(((0, 1),), 100, (120, 7, 200, 255), 0.25),
    HalfSpace(((2, -1),), -9, (3, 3, 0, 3), 0.12),
    HalfSpace(((3, 1),), 0, (0, 0, 0, 64), 1.0),
    HalfSpace(((0, 1), (1, 1)), 300, (180, 170, 0, 0), 0.25),
    HalfSpace(((0, 3), (3, -2)), -100, (40, 0, 0, 100), 0.1),
]
NAMES = ["one pixel", "negative step", "loud", "two pixels", "unequal steps"]


@cache
def _law(sigma: float) -> dict[int, Fraction]:
    """The noise of one pixel exactly as it is drawn, from the 64-bit thresholds."""
    gaussian = rounded_gaussian(sigma)
    edges = [0, *(int(threshold) for threshold in gaussian.thresholds), 1 << 64]
    return {gaussian.lowest + i: Fraction(edges[i + 1] - edges[i], 1 << 64) for i in range(len(edges) - 1)}


@cache
def _probability(oracle: HalfSpace) -> Fraction:
    """P(class 1) under the noise as drawn, by exact convolution."""
    needed = math.ceil(-oracle.margin)  # of the noise, weighted by the steps
    (_, first), *others = oracle.steps
    law = _law(oracle.sigma)
    if not others:
        return sum((mass for noise, mass in law.items() if first * noise >= needed), Fraction(0))
    ((_, second),) = others
    values = sorted(law)
    above = np.cumsum([law[v] for v in reversed(values)])[::-1]  # P(noise >= values[i])
    total = Fraction(0)
    for noise, mass in law.items():
        bound = Fraction(needed - first * noise, second)
        if second > 0:
            i = math.ceil(bound) - values[0]
            total += mass * (above[max(i, 0)] if i < len(values) else 0)
        else:
            i = math.floor(bound) + 1 - values[0]
            total += mass * (1 - (above[max(i, 0)] if i < len(values) else 0))
    return total


def _true_radius(oracle: HalfSpace) -> mpmath.mpf:
    """sigma * Phi^-1(p), in pixels of [0, 1]: exact for one pixel, where it is the margin itself."""
    if len(oracle.steps) == 1:
        return mpmath.mpf(oracle.margin.numerator) / oracle.margin.denominator / 255
    p = _probability(oracle)
    return oracle.sigma * mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p.numerator) / p.denominator - 1)


def _case(oracle: HalfSpace, n0: int, n: int, alpha: float) -> Case:
    error = arithmetic_error(Arithmetic.GRID, oracle.sigma, 4)
    setting = Setting(oracle.sigma, n0, n, alpha, "fixed", (n,), Bound.BINARY, "grid", STREAM, error)
    origin = Origin("oracle", "1", "float64", "0" * 64, "0" * 64, Space("as sent", SHAPE, "pixels in [0, 1]", "0" * 64))
    return Case(setting, origin, ("below", "above"))


def _radii(oracle: HalfSpace, n: int, alpha: float, label: int) -> list[float | None]:
    """The certified radius for every count of `label`, None where it abstains; selection chose `label`."""
    selection = Votes((0, 7) if label else (7, 0))
    case = _case(oracle, 7, n, alpha)
    found = [certify(selection, Votes((n - k, k) if label else (k, n - k)), case) for k in range(n + 1)]
    return [outcome.radius if isinstance(outcome, Certificate) else None for outcome in found]


def _mass(counts: list[int], n: int, p: Fraction) -> mpmath.mpf:
    """P(a Binomial(n, p) is among the counts), to 50 digits."""
    with mpmath.workdps(50):
        success = mpmath.mpf(p.numerator) / p.denominator
        return sum((mpmath.binomial(n, k) * success**k * (1 - success) ** (n - k) for k in counts), mpmath.mpf(0))


@pytest.mark.parametrize("oracle", ORACLES, ids=NAMES)
def test_the_exact_probability_is_that_of_the_gaussian(oracle: HalfSpace) -> None:
    """Phi(margin / (255 sigma)) for one pixel; for more, rounding can move it by half a step of each."""
    p = _probability(oracle)
    slack = sum(abs(step) for _, step in oracle.steps) / 2 if len(oracle.steps) > 1 else 0.0
    with mpmath.workdps(30):
        scale = 255 * mpmath.mpf(oracle.sigma) * mpmath.sqrt(sum(step**2 for _, step in oracle.steps))
        low = mpmath.ncdf((mpmath.mpf(float(oracle.margin)) - slack) / scale)
        high = mpmath.ncdf((mpmath.mpf(float(oracle.margin)) + slack) / scale)
        exact = mpmath.mpf(p.numerator) / p.denominator
        assert low - 1e-19 <= exact <= high + 1e-19
    assert p > Fraction(1, 2)


@pytest.mark.parametrize("oracle", ORACLES, ids=NAMES)
@pytest.mark.parametrize(("n", "alpha"), [(50, 0.05), (200, 0.01), (400, 0.001)])
def test_a_false_certificate_is_at_most_as_likely_as_alpha(oracle: HalfSpace, n: int, alpha: float) -> None:
    """If selection took the right class, too large a radius is false; if it took the other, any radius is."""
    p = _probability(oracle)
    with mpmath.workdps(50):
        radius = _true_radius(oracle)
        too_large = [k for k, r in enumerate(_radii(oracle, n, alpha, 1)) if r is not None and mpmath.mpf(r) > radius]
        any_at_all = [k for k, r in enumerate(_radii(oracle, n, alpha, 0)) if r is not None]
        assert _mass(too_large, n, p) <= alpha
        assert _mass(any_at_all, n, 1 - p) <= alpha


@pytest.mark.parametrize(("n", "alpha"), [(50, 0.05), (200, 0.01), (400, 0.001)])
def test_the_bound_is_not_bought_by_claiming_nothing(n: int, alpha: float) -> None:
    """Over the margins of one pixel, the error comes close to alpha: the bound is tight, not merely safe."""
    errors = []
    with mpmath.workdps(50):
        for pixel in range(105, 200, 5):
            oracle = HalfSpace(((0, 1),), 100, (pixel, 0, 0, 0), 0.25)
            radius = _true_radius(oracle)
            false = [k for k, r in enumerate(_radii(oracle, n, alpha, 1)) if r is not None and mpmath.mpf(r) > radius]
            errors.append(_mass(false, n, _probability(oracle)))
    assert alpha / 2 < max(errors) <= alpha


@pytest.mark.parametrize("oracle", ORACLES[3:], ids=NAMES[3:])
def test_within_the_radius_no_real_image_has_another_answer(oracle: HalfSpace) -> None:
    """The theorem that turns p into a radius, on F itself: at that distance p is at least 1/2 in every direction."""
    radius = float(_true_radius(oracle)) * (1 - 1e-9)
    for angle in np.linspace(0.0, 2.0 * math.pi, 721):
        shift = 255.0 * radius * np.array([math.cos(angle), math.sin(angle)])
        assert _probability_near(oracle, shift) >= 0.5 - 1e-12


def _probability_near(oracle: HalfSpace, shift: npt.NDArray[np.float64]) -> float:
    """P(class 1) in double precision for a real image: the pixels of the steps moved by `shift` grid steps."""
    scale = 255.0 * oracle.sigma
    (_, first), (_, second) = oracle.steps
    reach = np.arange(-math.ceil(9.0 * scale), math.ceil(9.0 * scale) + 1)  # of round(shift + noise), one pixel
    masses = ndtr((reach + 0.5 - shift[0]) / scale) - ndtr((reach - 0.5 - shift[0]) / scale)
    bound = (math.ceil(-oracle.margin) - first * reach) / second
    if second > 0:
        return float(masses @ ndtr((shift[1] + 0.5 - np.ceil(bound)) / scale))
    return float(masses @ ndtr((np.floor(bound) + 0.5 - shift[1]) / scale))


@pytest.mark.parametrize("draws", DrawSet)
@pytest.mark.parametrize("oracle", ORACLES, ids=NAMES)
def test_the_sampler_draws_with_exactly_that_probability(oracle: HalfSpace, draws: DrawSet, models: ModuleType) -> None:
    """Under a fixed public key the count lies where all but a 10^-9 of keys put it."""
    n = 16_000
    backend = models.half_space(SHAPE, dict(oracle.steps), oracle.threshold)
    source = DrawSource(KEY, np.array(oracle.pixels, np.uint8).reshape(SHAPE), oracle.sigma, Arithmetic.GRID)
    (labels,) = Sampler(backend, (1, 8, 32, 128)).labels([(source, Slice(0, draws, 0, n))])
    _assert_plausible(int(labels.sum()), n, float(_probability(oracle)))


@pytest.mark.parametrize("steps", [{0: 1}, {1: 1, 2: -1}], ids=["one pixel", "two pixels"])
def test_float_arithmetic_draws_with_the_gaussian_probability(steps: Mapping[int, int], models: ModuleType) -> None:
    n, sigma, threshold = 16_000, 0.5, -51
    pixels = np.array([0.3, 0.7, 0.41, 0.9], np.float32).reshape(SHAPE)
    source = DrawSource(KEY, pixels, sigma, Arithmetic.FLOAT)
    (labels,) = Sampler(models.half_space(SHAPE, steps, threshold), (1, 8, 32, 128)).labels(
        [(source, Slice(0, DrawSet.ESTIMATION, 0, n))]
    )
    margin = 255.0 * sum(step * float(pixels.flat[pixel]) for pixel, step in steps.items()) - threshold - 0.5
    _assert_plausible(int(labels.sum()), n, float(mpmath.ncdf(margin / (255.0 * sigma * math.hypot(*steps.values())))))


def _assert_plausible(count: int, n: int, p: float) -> None:
    low, high = binom.ppf(FALSE_ALARM / 2, n, p), binom.isf(FALSE_ALARM / 2, n, p)
    assert low <= count <= high, f"{count} of {n} draws, expected {n * p:.1f} within {low:.0f}..{high:.0f}"
