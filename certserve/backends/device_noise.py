"""Noisy copies made where the classifier takes them from, on a CUDA device, of `certserve.noise.chacha`'s noise."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from certserve.backends.chacha_kernel import noisy_copies
from certserve.backends.protocols import Source
from certserve.errors import BackendFailed
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.chacha import ChaChaNoise, blocks_of, chacha_key
from certserve.noise.grid import LEVELS, rounded_gaussian
from certserve.noise.keystream import Key

__all__ = ["DeviceNoise"]

_BLOCKS = 32  # of the stream in each program, one a thread of a single warp: measured best of 32 to 256 on an H200
_HALF = np.uint64(32)


class _Law(NamedTuple):
    """A `RoundedGaussian` as the kernel takes it; see there."""

    table: Tensor
    passed: Tensor
    high: Tensor
    low: Tensor
    lowest: int
    thresholds: int


class _Probe(NamedTuple):
    """What the kernel is checked with."""

    key: Key
    pixels: npt.NDArray[np.uint8]
    sigma: float
    arithmetic: Arithmetic = Arithmetic.GRID

    def write(self, draws: str, first: int, rows: npt.NDArray[np.float32]) -> None:
        flat = self.pixels.transpose(1, 2, 0).reshape(-1)
        noise = ChaChaNoise(self.key, self.sigma, flat.size).draws(draws, first, len(rows))
        rows[...] = (noise + flat.astype(np.int16)).astype(np.float32) / np.float32(LEVELS)


class DeviceNoise:
    """Makes noisy copies in grid arithmetic, normalised for a network.

    Args:
        mean, std: float32 (1, channels, 1, 1), on the device.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self._mean, self._std = mean.flatten().contiguous(), std.flatten().contiguous()
        self._laws: dict[float, _Law] = {}

    def write(self, rows: Tensor, source: Source, draws: str, first: int) -> None:
        """Queue the making of draws first, first + 1, ... of one set: ((x + noise) / 255 - mean) / std.

        Args:
            rows: (count, channels, height, width) on the device, float32 or bfloat16, channels_last.
        """
        channels, dimension = rows.shape[1], rows[0].numel()
        law = self._law(source.sigma)
        blocks = blocks_of(dimension)
        job = chacha_key(source.key, draws) + first.to_bytes(8, "little")
        pixels = np.ascontiguousarray(source.pixels.transpose(1, 2, 0)).tobytes()
        sent = torch.frombuffer(bytearray(job + pixels), dtype=torch.uint8)
        if rows.is_cuda:  # from pinned memory, so as not to wait for what is queued
            sent = sent.pin_memory().to(rows.device, non_blocking=True)
        noisy_copies[(len(rows), -(-blocks // _BLOCKS))](
            rows,
            sent[: len(job)].view(torch.uint32),
            sent[len(job) :],
            self._mean,
            self._std,
            *law,
            dimension,
            blocks,
            CHANNELS=channels,
            BLOCKS=_BLOCKS,
            num_warps=1,
        )

    def check(self, shape: tuple[int, int, int], precision: torch.dtype) -> None:
        """Compare a few draws of such images with `certserve.noise.chacha`, bit for bit.

        Raises:
            BackendFailed: they are others. What compiling the kernel raises has no base but Exception.
        """
        pixels = (np.arange(np.prod(shape)) * 7 % 256).astype(np.uint8).reshape(shape)
        probe = _Probe(Key(bytes(range(32))), pixels, 0.5)
        first, count = (1 << 32) - 1, 2
        device = self._mean.device
        rows = torch.zeros((count, *shape), dtype=precision, device=device)
        rows = rows.contiguous(memory_format=torch.channels_last)
        self.write(rows, probe, "check", first)
        expected = np.empty((count, pixels.size), dtype=np.float32)
        probe.write("check", first, expected)
        copies = torch.from_numpy(expected).to(device).view(count, *shape[1:], shape[0])
        if not torch.equal(rows.permute(0, 2, 3, 1), ((copies - self._mean) / self._std).to(precision)):
            raise BackendFailed("the noise that this device makes is not what it must be, bit for bit")

    def _law(self, sigma: float) -> _Law:
        if sigma not in self._laws:
            law = rounded_gaussian(sigma)
            starts = np.arange(1 << 16, dtype=np.uint64) << np.uint64(48)
            passed = np.append(np.searchsorted(law.thresholds, starts, side="right"), law.thresholds.size)
            high, low = law.thresholds >> _HALF, law.thresholds & np.uint64((1 << 32) - 1)
            self._laws[sigma] = _Law(
                self._sent(law.table),
                self._sent(passed.astype(np.int32)),
                self._sent(high.astype(np.uint32)),
                self._sent(low.astype(np.uint32)),
                law.lowest,
                law.thresholds.size,
            )
        return self._laws[sigma]

    def _sent(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array.copy()).to(self._mean.device)
