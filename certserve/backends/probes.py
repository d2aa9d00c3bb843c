"""Fixed inputs that every machine makes alike: what a model is checked with, and named by, when it is loaded."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from certserve.noise.grid import LEVELS, GridNoise
from certserve.noise.keystream import Key, stream_bytes

__all__ = ["noisy_copies", "patterned_pixels", "probe_labels", "probe_pixels"]


class _Classifier(Protocol):
    @property
    def shape(self) -> tuple[int, int, int]: ...

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...


_KEY = Key(bytes(32))  # public on purpose: probes are no secret
_FINEST = 8  # cells a side of the finest pattern


def probe_pixels(shape: tuple[int, int, int], count: int, sigma: float) -> npt.NDArray[np.float32]:
    """Noisy inputs, (count, *shape): random 8-bit pixels plus grid noise at sigma."""
    return _noisy(_bytes("probe/pixels", count, math.prod(shape)), shape, sigma, "probe")


def patterned_pixels(shape: tuple[int, int, int], count: int, sigma: float) -> npt.NDArray[np.float32]:
    """Noisy inputs, (count, *shape): smooth patterns of 1 to 8 cells a side plus grid noise at sigma.

    A classifier of images gives them labels of many kinds, where it gives random pixels one and the same.
    """
    channels, height, width = shape
    cells = _bytes("probe/patterns", count, channels * _FINEST**2).reshape(count, channels, _FINEST, _FINEST)
    images = np.empty((count, *shape), dtype=np.uint8)
    for i in range(count):
        side = 1 + i % _FINEST
        rows, columns = _interpolation(side, height), _interpolation(side, width)
        images[i] = np.rint(rows @ cells[i, :, :side, :side].astype(np.float64) @ columns.T)
    return _noisy(images.reshape(count, -1), shape, sigma, "patterns")


def noisy_copies(shape: tuple[int, int, int], first: int, count: int, sigma: float) -> npt.NDArray[np.float32]:
    """Draws first..first + count - 1 of one image of random 8-bit pixels plus grid noise at sigma, (count, *shape)."""
    image = _bytes("probe/pixels", 1, math.prod(shape))
    return _noisy(np.broadcast_to(image, (count, image.size)), shape, sigma, "copies", first)


def probe_labels(backend: _Classifier, count: int, sigma: float, rows: int) -> tuple[int, ...]:
    """The labels of `count` patterned probes, run `rows` at a time."""
    pixels = patterned_pixels(backend.shape, -(-count // rows) * rows, sigma)
    logits = [backend.logits(pixels[start : start + rows]) for start in range(0, count, rows)]
    return tuple(np.concatenate(logits).argmax(axis=1)[:count].tolist())


def _bytes(domain: str, count: int, length: int) -> npt.NDArray[np.uint8]:
    whole = -(-count * length // 16) * 16
    return stream_bytes(_KEY.domain(domain), 0, whole)[: count * length].reshape(count, length)


def _interpolation(cells: int, length: int) -> npt.NDArray[np.float64]:
    """A matrix (length, cells) that interpolates linearly between the cells' centres."""
    positions = np.clip((np.arange(length) + 0.5) * cells / length - 0.5, 0, cells - 1)
    return np.stack([np.maximum(0.0, 1.0 - np.abs(positions - cell)) for cell in range(cells)], axis=1)


def _noisy(
    pixels: npt.NDArray[np.uint8], shape: tuple[int, int, int], sigma: float, draws: str, first: int = 0
) -> npt.NDArray[np.float32]:
    noise = GridNoise(_KEY, sigma, math.prod(shape)).draws(draws, first, len(pixels))
    noisy = pixels.astype(np.int16) + noise
    return (noisy / np.float32(LEVELS)).astype(np.float32).reshape(len(pixels), *shape)
