"""Grid arithmetic: the rounded Gaussian on the 8-bit grid, drawn as exact integers.

Inputs live on k / 255. The noise of a pixel is the integer round(255 sigma Z), Z standard normal, so x + noise is
exact in int16 and no rounding is left for floating point to get wrong: the certified classifier is
F(u) = f(round(255 u)), and for every *real* image u within the radius the smoothed F gives the same label.

A pixel's noise is looked up from 64 uniform bits U: the value j with T[j-1] <= U < T[j], where
T[j] = floor(2^64 Phi((j + 1/2) / (255 sigma))). The high 16 bits decide in most cells of a 65,536-entry table; the
cells that straddle a threshold hold a sentinel and are settled with 48 further bits of a disjoint domain of the
stream, addressed by the draw and the pixel's place among the draw's undecided ones.

What is said here with numpy is done in one pass by `_rows.c`, where that was compiled and the processor can run it.
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
from certserve.noise.stretches import stretches

try:
    from certserve.noise import _rows
except ImportError:  # no C compiler when the package was installed, or no instructions for AES
    _rows = None  # type: ignore[assignment]

__all__ = ["COMPILED", "LARGEST_SIGMA", "LEVELS", "GridNoise", "RoundedGaussian", "rounded_gaussian"]

COMPILED = _rows is not None
"""Whether noisy rows are written by compiled code here; the noise is the same."""

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
        return (np.searchsorted(self.thresholds, bits, side="right") + self.lowest).astype(np.int16)


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
    """For each value of the high 16 bits: the value that its first and its last number have in common, if any."""
    starts = np.arange(65536, dtype=np.uint64) << np.uint64(48)
    ends = starts | _LOW_48
    at_start, at_end = (np.searchsorted(thresholds, bits, side="right") for bits in (starts, ends))
    return np.where(at_start == at_end, at_start + lowest, _SENTINEL).astype(np.int16)


class GridNoise:
    """The grid noise of one job.

    Args:
        key: the job's key. sigma: in input units, (0, 10]. dimension: pixels times channels of the input.
    """

    def __init__(self, key: Key, sigma: float, dimension: int) -> None:
        self._key = key
        self._law = rounded_gaussian(sigma)
        self._dimension = dimension
        expected = dimension * self._law.undecided
        self._slots = 2 * math.ceil((expected + _SPREAD * math.sqrt(expected) + _SPREAD) / 2)  # whole blocks
        self._stride = _whole_blocks(2 * dimension) // 2  # cells a draw

    def write(self, domain: str, first: int, pixels: npt.NDArray[np.uint8], rows: npt.NDArray[np.float32]) -> None:
        """Fill `rows`, contiguous (count, dimension), with draws first, first + 1, ... added to `pixels`, over 255."""
        if self._write_compiled(domain, first, pixels, rows):
            return
        values = pixels.reshape(-1).astype(np.int16)
        for start, some in stretches(first, rows):
            noise = self.draws(domain, start, len(some))
            np.add(noise, values, out=noise)
            np.divide(noise, np.float32(LEVELS), out=some, dtype=np.float32, casting="unsafe")

    def _write_compiled(
        self, domain: str, first: int, pixels: npt.NDArray[np.uint8], rows: npt.NDArray[np.float32]
    ) -> bool:
        """The same; False where it cannot be done, or some draw has more undecided pixels than slots."""
        if _rows is None:
            return False
        law = self._law
        keys = self._key.domain(f"{domain}/cells"), self._key.domain(f"{domain}/settle")
        return _rows.write(rows, pixels, *keys, first, self._slots, law.table, law.thresholds, law.lowest, _rows.WIDE)

    def draws(self, domain: str, first: int, count: int) -> npt.NDArray[np.int16]:
        """Noise of draws first..first + count - 1 of one set, as int16 of shape (count, dimension), in 1/255.

        Draw i is the same alone, in any range, and in any batch.
        """
        d, stride = self._dimension, self._stride
        cells = stream_bytes(self._key.domain(f"{domain}/cells"), first * 2 * stride, count * 2 * stride).view("<u2")
        noise = np.take(self._law.table, cells.reshape(count, stride)[:, :d])
        undecided = np.flatnonzero(noise == _SENTINEL)
        counts = np.diff(np.searchsorted(undecided, d * np.arange(count + 1)))  # of each draw
        places = undecided + np.repeat((stride - d) * np.arange(count), counts)
        high_bits = cells.take(places).astype(np.uint64) << np.uint64(48)
        noise.reshape(-1)[undecided] = self._law.settle(high_bits | self._low_bits(domain, first, counts))
        return noise

    def _low_bits(self, domain: str, first: int, counts: npt.NDArray[np.intp]) -> npt.NDArray[np.uint64]:
        """48 further bits for each undecided pixel, of which each draw has so many.

        The j-th one of a draw gets the low 48 bits of bytes 8 j..8 j + 7 of the draw's own stretch. A stretch has
        slots for all but a negligible share of draws; a draw with more goes on in a stream of its own.
        """
        slots, rows = self._slots, np.arange(counts.size)
        raw = stream_bytes(self._key.domain(f"{domain}/settle"), first * 8 * slots, 8 * slots * rows.size).view("<u8")
        starts = np.cumsum(counts) - counts
        low: npt.NDArray[np.uint64] = raw.take(
            np.arange(counts.sum()) + np.repeat(slots * rows - starts, counts), mode="clip"
        )
        for row in np.flatnonzero(counts > slots):
            extra = int(counts[row]) - slots
            own = stream_bytes(self._key.domain(f"{domain}/settle/{first + row}"), 0, _whole_blocks(8 * extra))
            low[starts[row] + slots :][:extra] = own.view("<u8")[:extra]
        return low & _LOW_48


def _whole_blocks(length: int) -> int:
    """The number of bytes, rounded up to whole blocks of the stream."""
    return -(-length // 16) * 16
