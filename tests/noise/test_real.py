"""Float noise: random access, a slow reference in ball arithmetic, and what its errors cost."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import flint
import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from hypothesis import strategies as st

from certserve.noise import real
from certserve.noise.arithmetic import Arithmetic, arithmetic_error
from certserve.noise.keystream import Key
from certserve.noise.real import RealNoise, round_sum, total_variation

KEY = Key(b"one job's key, of thirty-2 bytes")
STEP = 2.0**-12


def slow_words(domain: str, dimension: int, count: int) -> list[list[int]]:
    """The 64 uniform bits of every pixel of draws 0..count - 1, from AES of the counters."""
    stride = -(-8 * dimension // 16) * 16
    encryptor = Cipher(AES(KEY.domain(f"{domain}/normals")), ECB()).encryptor()
    raw = b"".join(encryptor.update(block.to_bytes(16, "big")) for block in range(count * stride // 16))
    return [
        [int.from_bytes(raw[i * stride + 8 * pixel :][:8], "little") for pixel in range(dimension)]
        for i in range(count)
    ]


def exact_normal(word: int) -> flint.arb:
    """Phi^-1((U + 1/2) / 2^53) of the high 53 bits U, as a ball."""
    doubled = flint.fmpq(2 * (word >> 11) + 1, 2**53)  # twice the probability
    return flint.arb(2).sqrt() * (flint.arb(doubled) - 1).erfinv()


def assert_is_the_normal(drawn: float, word: int, sigma: float) -> None:
    """`drawn` is sigma times the exact normal, but for the 8.5 units in the last place that `real` allows."""
    exact = flint.arb(sigma) * exact_normal(word)
    assert abs(flint.arb(drawn) - exact) <= abs(exact) * 17 / 2**53, word


@pytest.mark.parametrize("domain", ["selection", "estimation"])
@pytest.mark.parametrize(("sigma", "dimension", "count"), [(0.25, 784, 2), (1.0, 7, 80), (0.12, 1, 300)])
def test_draws_equal_a_slow_reference(domain: str, sigma: float, dimension: int, count: int) -> None:
    """A draw that differs in any pixel from its written definition by more than is accounted for fails."""
    drawn = RealNoise(KEY, sigma, dimension).draws(domain, 0, count).tolist()
    with flint.ctx.workprec(200):
        for row, words in zip(drawn, slow_words(domain, dimension, count), strict=True):
            for value, word in zip(row, words, strict=True):
                assert_is_the_normal(value, word, sigma)


@lru_cache
def many_draws(dimension: int) -> npt.NDArray[np.float64]:
    return RealNoise(KEY, 0.5, dimension).draws("estimation", 0, 64)


@pytest.mark.parametrize("dimension", [1, 5, 7, 784])
@settings(derandomize=True, deadline=None, max_examples=50)
@given(first=st.integers(0, 63), count=st.integers(1, 64))
def test_a_draw_is_the_same_in_any_range(dimension: int, first: int, count: int) -> None:
    """A draw that depends on the range or the batch in which it was asked for, in any bit, fails."""
    whole, count = many_draws(dimension), min(count, 64 - first)
    drawn = RealNoise(KEY, 0.5, dimension).draws("estimation", first, count)
    assert drawn.shape == (count, dimension)
    assert drawn.dtype == np.float64
    assert drawn.tobytes() == whole[first : first + count].tobytes()


def test_no_two_draws_are_equal() -> None:
    """Draws, keys or domains that share their bits fail."""
    other = Key(b"another job's key, of 32 bytes..")
    blocks = [
        RealNoise(key, 0.25, 16).draws(domain, 0, 20) for key in (KEY, other) for domain in ("selection", "estimation")
    ]
    assert len({row.tobytes() for block in blocks for row in block}) == 80


def draws_of(words: list[int], sigma: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is drawn where the stream holds these 64-bit words (an even number of them)."""
    stream = np.array(words, dtype="<u8").view(np.uint8)

    def fixed_stream(domain_key: bytes, first: int, length: int) -> npt.NDArray[np.uint8]:
        assert (len(domain_key), first, length) == (16, 0, stream.size)
        return stream

    monkeypatch.setattr(real, "stream_bytes", fixed_stream)
    row: list[float] = RealNoise(KEY, sigma, len(words)).draws("estimation", 0, 1)[0].tolist()
    return row


@pytest.mark.parametrize("sigma", [0.25, 1.0, 100.0])
def test_the_extreme_uniforms_are_finite_and_symmetric(sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """An infinite value from all zeros or all ones, or a law that is not symmetric, fails."""
    lowest, highest = draws_of([0, 2**64 - 1], sigma, monkeypatch)
    assert -8.3 * sigma < lowest < -8.2 * sigma
    assert highest == -lowest


def test_the_uniforms_mirror_and_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uniform whose mirror image is not drawn as its negative, or a larger one as less, fails: the middle too."""
    half = 2**52
    low = [0, 1, 2, half // 2, half - 2, half - 1]
    row = draws_of([u << 11 for u in low] + [(2**53 - 1 - u) << 11 for u in reversed(low)], 0.25, monkeypatch)
    assert row == sorted(row)
    assert len(set(row)) == len(row)
    assert row == [-value for value in reversed(row)]


def test_the_normals_are_as_exact_as_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A normal off by more than 8 units in the last place, in the centre or in the tails, fails."""
    centre = [(i * 2**64) // 997 for i in range(997)]
    tails = [m << e for e in range(11, 62) for m in (1, 3, 5)]
    words = [*centre, *tails, *(2**64 - 1 - word for word in tails), 2**63]
    with flint.ctx.workprec(200):
        for value, word in zip(draws_of(words, 0.25, monkeypatch), words, strict=True):
            assert_is_the_normal(value, word, 0.25)


def test_only_the_high_53_bits_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that depends on bits which its law does not speak of fails."""
    word = 0x123456789ABCD000
    assert len(set(draws_of([word, word | 0x7FF], 0.25, monkeypatch))) == 1


@settings(derandomize=True, deadline=None, max_examples=300)
@given(x=st.floats(0.0, 1.0), noise=st.floats(-100.0, 100.0))
def test_the_sum_is_the_nearest_multiple(x: float, noise: float) -> None:
    """A sum off the multiples of 2^-12, or not the nearest one to the float64 sum, fails."""
    rounded = round_sum(np.array([x]), np.array([noise]))
    assert rounded.dtype == np.float32
    value = Fraction(float(rounded[0]))
    assert (value * 2**12).denominator == 1
    assert abs(value - Fraction(x + noise)) <= Fraction(1, 2**13)


def test_multiples_are_kept() -> None:
    """A sum that is a multiple already and is moved, up to where float32 ends to hold them, fails."""
    multiples = np.array([0.0, STEP, -STEP, 1.0 - STEP, 8.5 + STEP, -(2.0**12) + STEP])
    assert round_sum(multiples, np.zeros(6)).tolist() == multiples.tolist()


@pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5, 1.0])
def test_the_error_is_about_1e_8_at_cifar_size(sigma: float) -> None:
    """A deduction that forgets one of its terms, or costs a certificate more than 1e-7, fails."""
    assert 1e-9 < arithmetic_error(Arithmetic.FLOAT, sigma, 3072) < 1e-7
    assert arithmetic_error(Arithmetic.FLOAT, sigma, 3072) >= 3072 * Fraction(total_variation(sigma))


@pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5, 1.0, 10.0])
def test_the_error_covers_each_of_its_terms(sigma: float) -> None:
    """Less than the cells' masses, the tails and the flipped roundings together, computed in rationals, fails."""
    unit, spread = Fraction(1, 2**53), Fraction(sigma)
    cells = 2 * Fraction(83, 10) * spread * 2**12 * unit
    # E|error of the sum| / step, twice (both sides of a boundary); E|Z| = sqrt(2 / pi) < 0.79789.
    flips = 2 * unit * (17 * spread * Fraction(79789, 100000) + 1) * 2**12
    assert Fraction(total_variation(sigma)) >= cells + unit + flips
    assert Fraction(total_variation(sigma)) <= 2 * (cells + unit + flips)


def test_the_error_grows_with_sigma_and_dimension() -> None:
    """A deduction that does not follow the noise fails."""
    by_sigma = [arithmetic_error(Arithmetic.FLOAT, sigma, 784) for sigma in (0.12, 0.5, 2.0)]
    by_dimension = [arithmetic_error(Arithmetic.FLOAT, 0.5, dimension) for dimension in (1, 784, 3072)]
    for errors in (by_sigma, by_dimension):
        assert errors == sorted(set(errors))


@pytest.mark.parametrize("sigma", [1e-6, 1e-4, 0.01, 0.25, 1.0, 10.0])
@pytest.mark.parametrize("x", [0.0, 2.0**-13, 0.3, 1.0])
def test_the_bound_covers_the_density_at_every_boundary(sigma: float, x: float) -> None:
    """Density times error, summed over the boundaries themselves: fails if a small sigma is forgotten."""
    step = 2.0**-12
    first, last = math.floor((x - 9 * sigma) / step) - 1, math.ceil((x + 9 * sigma) / step) + 1
    boundaries = (np.arange(first, last) + 0.5) * step
    z = (boundaries - x) / sigma
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) / sigma
    flips = float(np.sum(2.0 * 2.0**-53 * (18.0 * sigma * np.abs(z) + 1.0) * density))
    assert flips < total_variation(sigma)
