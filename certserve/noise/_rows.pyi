"""Noisy rows by compiled code; `certserve.noise.grid` says what is computed."""

import numpy as np
import numpy.typing as npt

def write(
    rows: npt.NDArray[np.float32],
    pixels: npt.NDArray[np.uint8],
    cells: npt.NDArray[np.uint16],
    stride: int,
    low: npt.NDArray[np.uint64],
    slots: int,
    table: npt.NDArray[np.int16],
    passed: npt.NDArray[np.uint16],
    thresholds: npt.NDArray[np.uint64],
    lowest: int,
) -> bool:
    """Fill the rows, one draw each; False where a draw has more undecided pixels than slots.

    Args:
        rows: contiguous (count, dimension), overwritten. pixels: dimension values.
        cells: high 16 bits, `stride` a draw, of which the first `dimension` count.
        low: words of which the low 48 bits count, `slots` a draw.
        table, passed, thresholds, lowest: of the `RoundedGaussian`.

    Raises:
        ValueError: the sizes do not belong together. TypeError: rows cannot be written to as they lie.
    """
