"""Grid arithmetic: the rounded Gaussian on the 8-bit grid, drawn as exact integers.

Inputs live on k / 255. The noise of a pixel is the integer round(255 sigma Z), Z standard normal, so x + noise is
exact in int16 and no rounding is left for floating point to get wrong: the certified classifier is
F(u) = f(round(255 u)), and for every *real* image u within the radius the smoothed F gives the same label.

A pixel's noise is looked up from 64 uniform bits U: the value j with T[j-1] <= U < T[j], where
T[j] = floor(2^64 Phi((j + 1/2) / (255 sigma))). The high 16 bits decide in most cells of a 65,536-entry table; the
cells that straddle a threshold hold a sentinel and are settled with 48 further bits of a disjoint domain of the
stream, addressed by the draw and the pixel's place among the draw's undecided ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from mpmath import MPContext

from certserve.noise.keystream import Key, stream_bytes

__all__ = ["LARGEST_SIGMA", "LEVELS", "GridNoise", "RoundedGaussian", "rounded_gaussian"]

LEVELS = 255
"""Grid steps per unit of input: 8-bit pixels are k / 255."""

LARGEST_SIGMA = 10.0
"""Above it the noise would not fit into int16."""

_SENTINEL = np.int16(-32768)
_SPREAD = 8  # standard deviations of room for undecided pixels, and as many slots at least
_LOW_48 = np.uint64((1 << 48) - 1)
_PHI_BITS = 160
_STEP = 1 << (_PHI_BITS - 64)  # one unit of the 64-bit uniform, in units of 2^-160


@dataclass(frozen=True)
class RoundedGaussian:
    """The law of round(255 sigma Z) as 64-bit thresholds, and the table that draws from it.

    Attributes:
        sigma: standard deviation in input units.
        lowest: the smallest value drawn.
        thresholds: uint64; value lowest + i is drawn for thresholds[i - 1] <= U < thresholds[i].
        table: int16 of 65,536 entries: the value that the high 16 bits decide, or the sentinel.
        undecided: the share of the table's entries that are the sentinel.
        total_variation: an upper bound on the distance of the drawn law from the exact rounded Gaussian.
    """

    sigma: float
    lowest: int
    thresholds: npt.NDArray[np.uint64]
    table: npt.NDArray[np.int16]
    undecided: float
    total_variation: float

    def settle(self, bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.int16]:
        """The value for each 64-bit uniform."""
        index = np.searchsorted(self.thresholds, bits, side="right")
        return (index + self.lowest).astype(np.int16)


@lru_cache(maxsize=16)
def rounded_gaussian(sigma: float) -> RoundedGaussian:
    """The rounded Gaussian at `sigma` (input units, in (0, 10]); about 0.1 s the first time at sigma 0.25, then cached.

    Raises:
        ValueError: sigma outside its range.
    """
    if not 0.0 < sigma <= LARGEST_SIGMA:
        raise ValueError(f"sigma must lie in (0, {LARGEST_SIGMA:g}] in grid arithmetic, not {sigma!r}")
    tails = _tail_masses(sigma)
    lower = [tail // _STEP for tail in tails[:-1]]
    upper = [(1 << 64) + -tail // _STEP for tail in tails[:-1]]
    thresholds = np.array(lower[::-1] + upper, dtype=np.uint64)
    lowest = -len(lower)
    table = _table(thresholds, lowest)
    undecided = np.count_nonzero(table == _SENTINEL) / table.size
    return RoundedGaussian(sigma, lowest, thresholds, table, undecided, _total_variation(tails))


def _tail_masses(sigma: float) -> list[int]:
    """2^160 Phi(-(j + 1/2) / (255 sigma)) for j = 0, 1, ..., rounded down; only the last is below one step of U."""
    context = MPContext()  # of our own: all threads share the precision of mpmath's global one
    context.prec = _PHI_BITS + 32
    scale = LEVELS * context.mpf(sigma)
    masses: list[int] = []
    while not masses or masses[-1] >= _STEP:
        phi = context.ncdf(-(len(masses) + context.mpf(1) / 2) / scale)
        masses.append(int(context.ldexp(phi, _PHI_BITS)))
    return masses


def _total_variation(tails: list[int]) -> float:
    """Total variation between the drawn and the exact law, rounded up.

    The error of the distribution function at each threshold is what rounding took off it; the first and last
    entry are the tails that are never drawn. A value's probability errs by the difference of two neighbours.
    """
    below = [tail // _STEP * _STEP - tail for tail in tails[:-1]]
    above = [tail + -tail // _STEP * _STEP for tail in tails[:-1]]
    errors = [0, -tails[-1], *below[::-1], *above, tails[-1], 0]
    excess = sum(max(0, b - a) for a, b in pairwise(errors))
    cut_off = 2 * len(errors)  # each tail may be one unit of 2^-160 larger
    return math.ldexp(excess + cut_off, -_PHI_BITS) * (1.0 + 1e-9)


def _table(thresholds: npt.NDArray[np.uint64], lowest: int) -> npt.NDArray[np.int16]:
    """For each value of the high 16 bits: the draw, or the sentinel where the low 48 bits matter."""
    starts = np.arange(65536, dtype=np.uint64) << np.uint64(48)
    ends = starts | np.uint64((1 << 48) - 1)
    at_start = np.searchsorted(thresholds, starts, side="right")
    at_end = np.searchsorted(thresholds, ends, side="right")
    return np.where(at_start == at_end, at_start + lowest, _SENTINEL).astype(np.int16)


class GridNoise:
    """The grid noise of one job.

    Args:
        key: the job's key. sigma: in input units, (0, 10]. dimension: pixels times channels of the input.
    """

    arithmetic = "grid"

    def __init__(self, key: Key, sigma: float, dimension: int) -> None:
        self._key = key
        self._law = rounded_gaussian(sigma)
        self._dimension = dimension
        expected = dimension * self._law.undecided
        self._slots = 2 * math.ceil((expected + _SPREAD * math.sqrt(expected) + _SPREAD) / 2)  # whole blocks

    def draws(self, domain: str, first: int, count: int) -> npt.NDArray[np.int16]:
        """Noise of draws first..first + count - 1 of one set, as int16 of shape (count, dimension), in 1/255.

        Draw i is the same alone, in any range, and in any batch.
        """
        d = self._dimension
        stride = _whole_blocks(2 * d)  # bytes a draw
        cells = stream_bytes(self._key.domain(f"{domain}/cells"), first * stride, count * stride)
        high = cells.view("<u2").reshape(count, stride // 2)[:, :d]
        noise = np.take(self._law.table, high)
        undecided = np.flatnonzero(noise == _SENTINEL)
        if undecided.size:
            rows, pixels = np.divmod(undecided, d)
            high_bits = high[rows, pixels].astype(np.uint64) << np.uint64(48)
            noise[rows, pixels] = self._law.settle(high_bits | self._low_bits(domain, first, count, rows))
        return noise

    def _low_bits(self, domain: str, first: int, count: int, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.uint64]:
        """48 further bits for each undecided pixel, whose rows are given in order.

        The j-th one of a draw gets the low 48 bits of bytes 8 j..8 j + 7 of the draw's own stretch. A stretch has
        slots for all but a negligible share of draws; a draw with more goes on in a stream of its own.
        """
        slots = self._slots
        raw = stream_bytes(self._key.domain(f"{domain}/settle"), first * 8 * slots, count * 8 * slots).view("<u8")
        counts = np.bincount(rows, minlength=count)
        rank = np.arange(rows.size) - np.repeat(np.cumsum(counts) - counts, counts)
        low = raw.take(rows * slots + np.minimum(rank, slots - 1))
        for row in np.flatnonzero(counts > slots):
            own = self._key.domain(f"{domain}/settle/{first + row}")
            more = stream_bytes(own, 0, _whole_blocks(8 * int(counts[row]))).view("<u8")
            low[(rows == row) & (rank >= slots)] = more[: counts[row] - slots]
        return low & _LOW_48


def _whole_blocks(length: int) -> int:
    """The number of bytes, rounded up to whole blocks of the stream."""
    return -(-length // 16) * 16
