"""Grid noise: the law drawn is the exact rounded Gaussian to 1e-16, and every draw can be had alone."""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import flint
import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from hypothesis import strategies as st

from certserve.noise.arithmetic import Arithmetic, arithmetic_error
from certserve.noise.grid import LARGEST_SIGMA, LEVELS, GridNoise, rounded_gaussian
from certserve.noise.keystream import Key

SIGMAS = (0.12, 0.25, 0.5, 1.0)
SENTINEL = -32768
KEY = Key(b"one job's key, of thirty-2 bytes")
STEP = Fraction(1, 2**64)


@lru_cache
def exact_law(sigma: float) -> tuple[flint.arb, ...]:
    """Phi((j + 1/2) / (255 sigma)) for j = lowest - 1 to the highest value, as balls of more than 200 bits."""
    lowest = rounded_gaussian(sigma).lowest
    with flint.ctx.workprec(320):
        scale = LEVELS * flint.arb(sigma) * flint.arb(2).sqrt()
        edges = range(lowest - 1, -lowest + 1)
        law = tuple((-(flint.arb(2 * j + 1) / 2) / scale).erfc() / 2 for j in edges)
    assert all(ball.rel_accuracy_bits() > 200 for ball in law)
    return law


def drawn_law(sigma: float) -> tuple[Fraction, ...]:
    """P(value <= j) of the draws for the same j, exactly: 0, the thresholds, 1."""
    thresholds = [int(t) for t in rounded_gaussian(sigma).thresholds]
    return (Fraction(0), *(t * STEP for t in thresholds), Fraction(1))


def as_ball(x: Fraction) -> flint.arb:
    return flint.arb(flint.fmpq(x.numerator, x.denominator))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_every_value_has_the_probability_of_the_rounded_gaussian(sigma: float) -> None:
    """A value whose probability is off by 1e-17, or by more than two steps of 2^-64, fails; so do shifted values."""
    with flint.ctx.workprec(320):
        drawn = [as_ball(b - a) for a, b in pairwise(drawn_law(sigma))]
        exact = [b - a for a, b in pairwise(exact_law(sigma))]
        assert len(drawn) == len(exact) == 1 - 2 * rounded_gaussian(sigma).lowest
        assert all(abs(a - b) < 2 * as_ball(STEP) for a, b in zip(drawn, exact, strict=True))
    assert Fraction(1, 10**17) > 2 * STEP


@pytest.mark.parametrize("sigma", SIGMAS)
def test_every_threshold_is_rounded_down(sigma: float) -> None:
    """A threshold other than floor(2^64 Phi) fails: what a certificate's draws are is written down."""
    with flint.ctx.workprec(320):
        expected = [(ball * 2**64).floor().unique_fmpz() for ball in exact_law(sigma)[1:-1]]
    assert rounded_gaussian(sigma).thresholds.tolist() == expected


@pytest.mark.parametrize("sigma", [*SIGMAS, 0.01, 1e-4])
def test_the_total_variation_is_not_understated(sigma: float) -> None:
    """A reported distance below the exact one, or much above it, or not below 1e-16, fails."""
    reported = rounded_gaussian(sigma).total_variation
    with flint.ctx.workprec(320):
        law = zip(drawn_law(sigma), exact_law(sigma), strict=True)
        errors = [flint.arb(0), *(as_ball(a) - b for a, b in law), flint.arb(0)]
        distance = sum((abs(b - a) for a, b in pairwise(errors)), flint.arb(0)) / 2
        assert distance <= reported
        assert reported <= distance * (1 + flint.arb("1e-8")) + flint.arb("1e-40")
    assert reported < 1e-16


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_table_agrees_with_the_thresholds_in_every_cell(sigma: float) -> None:
    """A cell that gives a value where a threshold lies in it, a sentinel where none does, or a wrong value fails."""
    law = rounded_gaussian(sigma)
    thresholds = law.thresholds.tolist()
    for cell, value in enumerate(law.table.tolist()):
        first = bisect_right(thresholds, cell << 48)
        last = bisect_right(thresholds, (cell << 48) + (1 << 48) - 1)
        assert value == (first + law.lowest if first == last else SENTINEL)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_settling_is_exact_beside_every_threshold(sigma: float) -> None:
    """A uniform just below, at or above a threshold that is settled on the wrong side fails."""
    law = rounded_gaussian(sigma)
    thresholds = law.thresholds.tolist()
    bits = [t + step for t in thresholds for step in (-1, 0, 1)] + [0, 2**64 - 1]
    expected = [law.lowest + bisect_right(thresholds, b) for b in bits]
    assert law.settle(np.array(bits, dtype=np.uint64)).tolist() == expected


def keystream(name: str, length: int) -> bytes:
    """The stream of a domain, from AES of the counters."""
    encryptor = Cipher(AES(KEY.domain(name)), ECB()).encryptor()
    return b"".join(encryptor.update(block.to_bytes(16, "big")) for block in range(-(-length // 16)))


def whole_blocks(length: int) -> int:
    return -(-length // 16) * 16


def slots_of(sigma: float, dimension: int) -> int:
    """An even number of undecided pixels, at least eight standard deviations above their mean, and eight more."""
    cells: list[int] = rounded_gaussian(sigma).table.tolist()
    mean = dimension * cells.count(SENTINEL) / 65536
    return 2 * math.ceil((mean + 8 * math.sqrt(mean) + 8) / 2)


def slow_draws(domain: str, sigma: float, dimension: int, count: int, slots: int) -> tuple[list[list[int]], int]:
    """Draws 0..count - 1 one pixel at a time, as the module's words define them; and how many needed more bits."""
    law = rounded_gaussian(sigma)
    thresholds, table = law.thresholds.tolist(), law.table.tolist()
    stride, further = whole_blocks(2 * dimension), 8 * slots
    cells = keystream(f"{domain}/cells", count * stride)
    settle = keystream(f"{domain}/settle", count * further)
    draws, settled = [], 0
    for i in range(count):
        row: list[int] = []
        own, rank = settle[i * further :][:further] + keystream(f"{domain}/settle/{i}", 8 * dimension), 0
        for pixel in range(dimension):
            high = int.from_bytes(cells[i * stride + 2 * pixel :][:2], "little")
            low = int.from_bytes(own[8 * rank :][:6], "little")
            rank += table[high] == SENTINEL
            row.append(law.lowest + bisect_right(thresholds, (high << 48) | low))
        settled += rank
        draws.append(row)
    return draws, settled


@pytest.mark.parametrize("domain", ["selection", "estimation"])
@pytest.mark.parametrize(
    ("sigma", "dimension", "count"), [(0.25, 784, 12), (1.0, 7, 300), (0.12, 5, 200), (10.0, 1, 99)]
)
def test_draws_equal_a_slow_reference(domain: str, sigma: float, dimension: int, count: int) -> None:
    """A draw that differs in any pixel from its written definition, those that need 64 bits included, fails."""
    expected, settled = slow_draws(domain, sigma, dimension, count, slots_of(sigma, dimension))
    drawn = GridNoise(KEY, sigma, dimension).draws(domain, 0, count)
    assert drawn.tolist() == expected
    assert settled >= 1


@pytest.mark.parametrize("slots", [2, 4, 6])
@pytest.mark.parametrize("first", [0, 3])
def test_draws_with_more_undecided_pixels_than_slots(slots: int, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits beyond the slots, which hardly any draw needs, come from the draw's own stream."""
    noise = GridNoise(KEY, 0.25, 784)
    monkeypatch.setattr(noise, "_slots", slots)
    expected, settled = slow_draws("estimation", 0.25, 784, 9, slots)
    assert settled > 9 * slots / 2
    assert noise.draws("estimation", first, 9 - first).tolist() == expected[first:]


@lru_cache
def many_draws(dimension: int) -> npt.NDArray[np.int16]:
    return GridNoise(KEY, 0.5, dimension).draws("estimation", 0, 64)


@pytest.mark.parametrize("dimension", [1, 5, 7, 784])
@settings(derandomize=True, deadline=None, max_examples=50)
@given(first=st.integers(0, 63), count=st.integers(1, 64))
def test_a_draw_is_the_same_in_any_range(dimension: int, first: int, count: int) -> None:
    """A draw that depends on the range or the batch in which it was asked for fails."""
    whole, count = many_draws(dimension), min(count, 64 - first)
    drawn = GridNoise(KEY, 0.5, dimension).draws("estimation", first, count)
    assert drawn.shape == (count, dimension)
    assert drawn.dtype == np.int16
    assert np.array_equal(drawn, whole[first : first + count])


@pytest.mark.parametrize("first", [10**7 - 1, 2**40])
def test_a_draw_far_out_is_the_same_alone(first: int) -> None:
    """An index that overflows on its way into the counter fails."""
    noise = GridNoise(KEY, 0.25, 3072)
    assert np.array_equal(noise.draws("estimation", first, 1), noise.draws("estimation", first - 1, 3)[1:2])


def test_no_two_draws_are_equal() -> None:
    """Draws, keys or domains that share their bits fail."""
    other = Key(b"another job's key, of 32 bytes..")
    rows = [
        GridNoise(key, 0.25, 784).draws(domain, 0, 20) for key in (KEY, other) for domain in ("selection", "estimation")
    ]
    assert len({row.tobytes() for block in rows for row in block}) == 80


def test_the_sum_fits_int16_at_the_largest_sigma() -> None:
    """A pixel plus its noise that wraps around, for any pixel and any noise that can be drawn, fails."""
    law = rounded_gaussian(LARGEST_SIGMA)
    highest = law.lowest + len(law.thresholds)
    assert highest == -law.lowest
    assert law.lowest > SENTINEL
    assert highest + LEVELS <= 32767
    assert int(law.table.max()) <= highest


@pytest.mark.parametrize("sigma", [0.0, -0.25, 10.01, math.inf, math.nan])
def test_sigma_outside_its_range(sigma: float) -> None:
    """Noise that would not fit, or is none, fails."""
    with pytest.raises(ValueError, match="sigma"):
        rounded_gaussian(sigma)
    with pytest.raises(ValueError, match="sigma"):
        GridNoise(KEY, sigma, 4)


def test_a_sigma_far_below_one_step_draws_zeros() -> None:
    """A law with no threshold at all that draws something else, or fails to be built, fails."""
    law = rounded_gaussian(1e-5)
    assert (law.lowest, len(law.thresholds)) == (0, 0)
    assert not GridNoise(KEY, 1e-5, 7).draws("estimation", 0, 3).any()


def test_the_law_does_not_depend_on_the_precision_others_set() -> None:
    """A law computed at whatever precision mpmath has, or one that leaves it changed, fails."""
    compute = rounded_gaussian.__wrapped__
    with mpmath.workprec(20):
        law = compute(0.25)
        assert mpmath.mp.prec == 20
    assert np.array_equal(law.thresholds, rounded_gaussian(0.25).thresholds)
    assert law.total_variation == rounded_gaussian(0.25).total_variation


def test_the_law_is_the_same_from_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Laws computed at the same time that disturb each other's precision fail."""
    interval = sys.getswitchinterval()
    monkeypatch.setattr(mpmath.mp, "prec", 53)
    try:
        sys.setswitchinterval(1e-5)
        with ThreadPoolExecutor(4) as threads:
            laws = list(threads.map(rounded_gaussian.__wrapped__, SIGMAS * 3))
    finally:
        sys.setswitchinterval(interval)
    for law in laws:
        assert np.array_equal(law.thresholds, rounded_gaussian(law.sigma).thresholds)
        assert law.total_variation == rounded_gaussian(law.sigma).total_variation


@pytest.mark.parametrize("dimension", [1, 784, 3072, 150_528])
def test_the_error_of_an_image_is_that_of_its_pixels(dimension: int) -> None:
    """A deduction below dimension times the distance of a pixel, or one that is no longer negligible, fails."""
    error = arithmetic_error(Arithmetic.GRID, 0.25, dimension)
    per_pixel = rounded_gaussian(0.25).total_variation
    assert dimension * Fraction(per_pixel) <= Fraction(error) <= dimension * Fraction(per_pixel) * (1 + STEP * 2**13)
    assert error < 1e-11
