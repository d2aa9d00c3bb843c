"""f(x) = W x + b in numpy: the classifier whose true radius is known in closed form.

With two classes the smoothed classifier changes its answer exactly at distance |(w1 - w0) x + b1 - b0| / ||w1 - w0||,
which makes it the oracle of the tests, and the measure of what everything around a model costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from certserve.errors import BundleError

__all__ = ["LinearBackend"]


class LinearBackend:
    """A linear classifier.

    Args:
        weights: (num_classes, channels * height * width). bias: (num_classes,). shape: (channels, height, width).
    """

    parallel = 1

    def __init__(
        self, weights: npt.NDArray[np.float64], bias: npt.NDArray[np.float64], shape: tuple[int, int, int]
    ) -> None:
        self._weights = np.asarray(weights, dtype=np.float64)
        self._bias = np.asarray(bias, dtype=np.float64)
        self.shape = shape
        self.num_classes = len(self._bias)
        self.identity: Mapping[str, str] = {
            "runtime": "linear",
            "version": "1",
            "precision": "float64",
            "device": "cpu",
        }

    @classmethod
    def read(cls, path: Path, shape: tuple[int, int, int]) -> LinearBackend:
        """From an .npz file with `weights` and `bias`.

        Raises:
            BundleError: the file does not hold them in the shapes that `shape` needs.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                weights, bias = arrays["weights"], arrays["bias"]
        except Exception as error:  # numpy, zipfile and zlib share no base but Exception
            raise BundleError(f"{path}: expected an .npz file with `weights` and `bias`: {error}") from error
        if bias.ndim != 1 or weights.shape != (len(bias), math.prod(shape)):
            raise BundleError(f"{path}: weights {weights.shape} and bias {bias.shape} do not fit the input {shape}")
        return cls(weights, bias, shape)

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """W x + b for each row alone, so that no row's rounding depends on its batch-mates."""
        rows = pixels.reshape(len(pixels), -1).astype(np.float64)
        sums = [np.einsum("rd,d->r", rows, w) for w in self._weights]
        return (np.stack(sums, axis=1) + self._bias).astype(np.float32)
