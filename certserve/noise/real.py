"""Float arithmetic: Gaussian noise on float tensors, with the sum rounded to multiples of 2^-12.

For inputs off the 8-bit grid. The float64 sum x + sigma z is rounded to the nearest multiple of 2^-12 before the
base classifier sees it, so the certified classifier is f after that rounding, and floating point can be wrong only
where the sum lies within its error of a rounding boundary. `total_variation` bounds how often that happens a pixel.
Without the rounding, float32 noise would cost about 7.5e-5 of p_lower at 3 x 32 x 32 and 3.7e-3 at 3 x 224 x 224.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from certserve.noise.keystream import Key, stream_bytes
from certserve.noise.stretches import stretches

__all__ = ["RealNoise", "round_sum", "total_variation"]

_STEP = 2.0**-12
_UNIFORM_BITS = 53


class RealNoise:
    """Standard normals of one job in float64, times sigma.

    Args:
        key: the job's key. sigma: in input units, > 0. dimension: pixels times channels of the input.
    """

    def __init__(self, key: Key, sigma: float, dimension: int) -> None:
        self._key = key
        self._sigma = sigma
        self._dimension = dimension

    def write(self, domain: str, first: int, pixels: npt.NDArray[np.float32], rows: npt.NDArray[np.float32]) -> None:
        """Fill `rows`, (count, dimension), with draws first, first + 1, ... added to `pixels`: see `round_sum`."""
        values = pixels.reshape(-1).astype(np.float64)
        for start, some in stretches(first, rows):
            some[...] = round_sum(values, self.draws(domain, start, len(some)))

    def draws(self, domain: str, first: int, count: int) -> npt.NDArray[np.float64]:
        """Noise of draws first..first + count - 1 of one set, as float64 of shape (count, dimension).

        sigma * Phi^-1((U + 1/2) / 2^53) with U the high 53 of 64 uniform bits. Draw i is the same alone, in any
        range, and in any batch.
        """
        stride = -(-8 * self._dimension // 16) * 16
        raw = stream_bytes(self._key.domain(f"{domain}/normals"), first * stride, count * stride)
        words = raw.view("<u8").reshape(count, stride // 8)[:, : self._dimension]
        # 2^-53 (U + 1/2) is exact below 1/2; above it the half is kept by mirroring, so that no value is 0 or 1.
        high = words >> np.uint64(64 - _UNIFORM_BITS)
        mirrored = high >= np.uint64(1 << (_UNIFORM_BITS - 1))
        folded = np.where(mirrored, np.uint64((1 << _UNIFORM_BITS) - 1) - high, high)
        normals = ndtri((folded.astype(np.float64) + 0.5) * 2.0**-_UNIFORM_BITS)
        return np.asarray(np.where(mirrored, -normals, normals) * self._sigma, dtype=np.float64)


def round_sum(x: npt.NDArray[np.float64], noise: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """x + noise in float64, rounded to the nearest multiple of 2^-12, as float32 (exact below 2^12)."""
    return (np.rint((x + noise) * (1.0 / _STEP)) * _STEP).astype(np.float32)


def total_variation(sigma: float) -> float:
    """An upper bound, a pixel, on the distance between the law drawn and round(x + sigma Z), |x| <= 1.

    Three terms: the uniforms have 53 bits, so the mass of each of the 2 * 8.3 sigma / 2^-12 cells that can be
    drawn errs by at most 2^-53; the tails that are never drawn hold less than 2^-53; and the computed sum errs by
    at most e(z) = 2^-53 (18 sigma |z| + 1) (ndtri within 8 units in the last place, where 3 were measured: 16;
    the product and the sum within half a unit each: 2, and |x| <= 1), which flips a rounding only within e of a
    boundary. The density f of the sum, times e, summed over boundaries a step apart, is at most its integral over
    the step plus its maxima: with E|z| < 0.8, |z| phi(z) < 0.25 (two maxima) and phi(z) < 0.4 (one).

    Raises:
        ValueError: sigma is not positive.
    """
    if not sigma > 0.0:
        raise ValueError(f"sigma must be positive, not {sigma!r}")
    cells = 2.0 * 8.3 * sigma / _STEP + 2.0
    flips = 2.0 * 2.0**-53 * ((18.0 * 0.8 * sigma + 1.0) / _STEP + 2.0 * 18.0 * 0.25 + 0.4 / sigma)
    return cells * 2.0**-53 + 2.0**-53 + flips
