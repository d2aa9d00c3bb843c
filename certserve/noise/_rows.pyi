"""Noisy rows by compiled code; `certserve.noise.grid` says what is computed."""

import numpy as np
import numpy.typing as npt

WIDE: bool
"""Whether this processor has instructions of 512 bits that are worth using; the rows are the same."""

def write(
    rows: npt.NDArray[np.float32],
    pixels: npt.NDArray[np.uint8],
    cells: bytes,
    further: bytes,
    first: int,
    slots: int,
    table: npt.NDArray[np.int16],
    thresholds: npt.NDArray[np.uint64],
    lowest: int,
    wide: bool,
) -> bool:
    """Fill the rows, one draw each; False where a draw has more undecided pixels than slots.

    Args:
        rows: contiguous (count, dimension), overwritten. pixels: dimension values.
        cells: 16-byte key of the stream that has 16 bits for each pixel, a whole number of blocks for each draw.
        further: of that which has 8 bytes for each slot, of which the low 48 bits count.
        first: the first row's draw. slots: how many undecided pixels a draw may have, even.
        table, thresholds, lowest: of the `RoundedGaussian`. wide: whether by those of `WIDE`.

    Raises:
        ValueError: the arguments do not belong together, or wide where `WIDE` is false.
        TypeError: rows cannot be written to as they lie.
    """
