"""The noisy copies of one input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from certserve.noise.arithmetic import Arithmetic
from certserve.noise.grid import GridNoise
from certserve.noise.keystream import Key
from certserve.noise.real import RealNoise

__all__ = ["DrawSource"]


@dataclass(frozen=True, slots=True, eq=False)
class DrawSource:
    """One input, and the key that its noise depends on.

    Attributes:
        key: the job's key. sigma: in input units.
        pixels: (channels, height, width); uint8 in grid arithmetic, float32 in [0, 1] in float arithmetic.
    """

    key: Key
    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    sigma: float
    arithmetic: Arithmetic

    def write(self, draws: str, first: int, rows: npt.NDArray[np.float32]) -> None:
        """Fill `rows`, (count, dimension), with draws first, first + 1, ... of a set: pixels in [0, 1] plus noise."""
        flat = self.pixels.reshape(-1)
        if self.arithmetic is Arithmetic.GRID:
            GridNoise(self.key, self.sigma, flat.size).write(draws, first, flat.astype(np.uint8, copy=False), rows)
        else:
            RealNoise(self.key, self.sigma, flat.size).write(draws, first, flat.astype(np.float32, copy=False), rows)
