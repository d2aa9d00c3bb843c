"""Why noise is drawn as integers: a network whose float certificate is false with certainty, and sound on the grid.

The network is three linear layers and a rectifier. In real arithmetic it answers "coarse" for every image; in
floating point its first two layers, v + C - C, round v to a multiple of 2^-11, and it answers "fine" where v is
none. A noisy copy x + z, added in 16-bit floats, is a multiple of 2^-11 for every z if x = 1, and seldom if x = 1/8:
the sum's low bits tell where x was. All 63,487 values of the noise are enumerated, with the probability of each.
(The same happens in 32-bit floats, at 2^-24.)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import ndtr

from certserve.noise.grid import LEVELS, rounded_gaussian
from certserve.smoothing.distribution import Gaussian
from certserve.smoothing.outcomes import Case, Certificate, Votes
from certserve.smoothing.plans import Fixed

SIGMA = 0.25
ROUNDS = np.float32(1.5 * 2.0**23 * 2.0**-11)  # float32 numbers beside it are 2^-11 apart
Reals = npt.NDArray[np.float64]


def is_coarse(pixel: npt.NDArray[np.float16]) -> npt.NDArray[np.bool_]:
    """The network's answer for images of one pixel."""
    v = pixel.astype(np.float32)
    rounded = (v + ROUNDS) - ROUNDS
    fine = np.maximum(rounded - v, 0.0) + np.maximum(v - rounded, 0.0)
    return np.asarray(np.float32(0.5) > np.float32(2.0**24) * fine)


def float_noise() -> tuple[npt.NDArray[np.float16], Reals]:
    """Every finite 16-bit float, and the probability that sigma Z is rounded to it."""
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    values = np.unique(values[np.isfinite(values)])
    middles = (values[1:].astype(np.float64) + values[:-1]) / 2.0
    below = np.concatenate([[0.0], ndtr(middles / SIGMA), [1.0]])
    return values, np.diff(below)


def share_coarse(x: float) -> float:
    """P(the network answers "coarse" for x + z in 16-bit floats)."""
    noise, masses = float_noise()
    with np.errstate(over="ignore"):
        return float(masses[is_coarse(np.float16(x) + noise)].sum())


def test_the_certificate_in_floats_is_false(question: Callable[..., Case]) -> None:
    """The example itself: x = 1 is certified with certainty beyond a distance at which the answer is another."""
    noise, _ = float_noise()
    with np.errstate(over="ignore"):
        assert is_coarse(np.float16(1.0) + noise).all()  # so every draw votes for it, whatever the noise
    votes = Votes((100_000, 0, 0))
    outcome = Fixed(100, 100_000, 0.001).begin(question(sigma=SIGMA)).look(Votes((100, 0, 0)), votes)
    assert isinstance(outcome, Certificate)
    elsewhere = 0.125
    assert outcome.radius > 1.0 - elsewhere
    assert share_coarse(elsewhere) < 0.45


def test_the_certificate_on_the_grid_is_sound() -> None:
    """A grid image, however far its radius reaches, within which another has another answer, fails: all are tried."""
    law = rounded_gaussian(SIGMA)
    edges = np.concatenate([[0.0], law.thresholds.astype(np.float64) / 2.0**64, [1.0]])
    masses = np.diff(edges)
    reach = len(masses) // 2
    assert law.lowest == -reach
    levels = np.arange(-400, 656)
    around = np.arange(levels[0] - reach, levels[-1] + reach + 1)
    coarse = is_coarse((around / LEVELS).astype(np.float16)).astype(np.float64)
    shares = np.convolve(coarse, masses[::-1], mode="valid")  # P("coarse") at each level
    assert len(shares) == len(levels)
    certified = 0
    for level, share in zip(levels.tolist(), shares.tolist(), strict=True):
        if not 0 <= level <= LEVELS:
            continue
        top = max(share, 1.0 - share)
        steps = math.floor(LEVELS * Gaussian(SIGMA).radius(min(max(top - 1e-9, 0.0), 1.0 - 1e-15)))
        near = shares[np.abs(levels - level) <= steps]
        assert ((near > 0.5) == (share > 0.5)).all()
        certified += steps > 0
    assert certified > 200


def test_the_deduction_that_floats_would_need_leaves_nothing() -> None:
    """A total variation between the noisy sums of two images below 1/2, as if floats could be certified, fails."""
    assert share_coarse(1.0) - share_coarse(0.125) > 0.5
    assert share_coarse(1.0) == pytest.approx(1.0, abs=1e-12)
