"""Noisy copies made where the classifier takes them from, on a CUDA device, of `certserve.noise.chacha`'s noise."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from certserve.backends.chacha_kernel import SEVERAL, noisy_copies
from certserve.errors import BackendFailed
from certserve.noise.chacha import blocks_of, chacha_key, uniforms
from certserve.noise.grid import LEVELS, rounded_gaussian
from certserve.noise.keystream import Key

__all__ = ["DeviceNoise"]

_BLOCKS = 32  # of the stream in each program, one a thread of a single warp: measured best of 32 to 256 on an H200
_HALF = np.uint64(32)
_CELLS = 1 << 16
_UNDECIDED = np.int16(-32768)
_PROBE_KEY = Key(bytes(range(32)))
_PROBE_DRAWS = range((1 << 32) - 1, (1 << 32) + 1)
_TIES = 64


class _Law(NamedTuple):
    """A `RoundedGaussian` as the kernel takes it; see there."""

    table: Tensor
    passed: Tensor
    high: Tensor
    low: Tensor
    lowest: int
    thresholds: int


class DeviceNoise:
    """Makes noisy copies in grid arithmetic, normalised for a network.

    Args:
        mean, scale: float32 (1, channels, 1, 1), on the device.
    """

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        self._mean, self._scale = mean.flatten().contiguous(), scale.flatten().contiguous()
        self._laws: dict[float, _Law] = {}

    def write(
        self, rows: Tensor, key: Key, pixels: npt.NDArray[np.uint8], sigma: float, draws: str, first: int
    ) -> None:
        """Queue the making of draws first, first + 1, ... of one set: ((pixels + noise) / 255 - mean) * scale.

        Args:
            rows: (count, channels, height, width) on the device, float32 or bfloat16, channels_last.
            key: the job's. pixels: (channels, height, width). sigma: in input units.
        """
        if sigma not in self._laws:
            law = rounded_gaussian(sigma)
            self._laws[sigma] = self._law(law.table, law.thresholds, law.lowest)
        self._launch(rows, key, pixels, self._laws[sigma], draws, first)

    def check(self, shape: tuple[int, int, int], precision: torch.dtype) -> None:
        """Compare a few draws of such images with `certserve.noise.chacha`, bit for bit: of the Gaussian, and of a law
        whose thresholds lie at the very numbers that are drawn, so that their low halves decide.

        Raises:
            BackendFailed: they are others. What compiling the kernel raises has no base but Exception.
        """
        gaussian = rounded_gaussian(0.5)
        self._compare(shape, precision, gaussian.table, gaussian.thresholds, gaussian.lowest)
        drawn = uniforms(_PROBE_KEY, "check", _PROBE_DRAWS[0], int(np.prod(shape)))[:_TIES]
        near = np.concatenate([drawn, drawn[::2] + np.uint64(1), drawn[::2] - np.uint64(1)])
        self._compare(shape, precision, np.full(_CELLS, _UNDECIDED), np.unique(near), 0)

    def _compare(
        self,
        shape: tuple[int, int, int],
        precision: torch.dtype,
        table: npt.NDArray[np.int16],
        thresholds: npt.NDArray[np.uint64],
        lowest: int,
    ) -> None:
        channels, height, width = shape
        device, size = self._mean.device, channels * height * width
        pixels = (np.arange(size) * 7 % (LEVELS + 1)).astype(np.uint8).reshape(shape)
        rows = torch.zeros((len(_PROBE_DRAWS), *shape), dtype=precision, device=device)
        rows = rows.contiguous(memory_format=torch.channels_last)
        self._launch(rows, _PROBE_KEY, pixels, self._law(table, thresholds, lowest), "check", _PROBE_DRAWS[0])
        bits = np.stack([uniforms(_PROBE_KEY, "check", draw, size) for draw in _PROBE_DRAWS])
        noise = lowest + np.searchsorted(thresholds, bits, side="right")
        sums = noise.reshape(-1, height, width, channels) + pixels.transpose(1, 2, 0)
        copies = torch.from_numpy(sums.astype(np.float32) / np.float32(LEVELS)).to(device)
        if not torch.equal(rows.permute(0, 2, 3, 1), ((copies - self._mean) * self._scale).to(precision)):
            raise BackendFailed("the noise that this device makes is not what it must be, bit for bit")

    def _law(self, table: npt.NDArray[np.int16], thresholds: npt.NDArray[np.uint64], lowest: int) -> _Law:
        starts = np.arange(_CELLS, dtype=np.uint64) << np.uint64(48)
        passed = np.append(np.searchsorted(thresholds, starts, side="right"), thresholds.size)
        several = np.append(np.diff(passed) > 1, False)
        padded = np.append(thresholds, np.uint64((1 << 64) - 1))
        return _Law(
            self._sent(table),
            self._sent((passed + SEVERAL * several).astype(np.int32)),
            self._sent((padded >> _HALF).astype(np.uint32)),
            self._sent((padded & np.uint64((1 << 32) - 1)).astype(np.uint32)),
            lowest,
            thresholds.size,
        )

    def _launch(self, rows: Tensor, key: Key, pixels: npt.NDArray[np.uint8], law: _Law, draws: str, first: int) -> None:
        dimension = pixels.size
        blocks = blocks_of(dimension)
        job = chacha_key(key, draws) + first.to_bytes(8, "little")
        image = np.ascontiguousarray(pixels.transpose(1, 2, 0)).tobytes()
        sent = torch.frombuffer(bytearray(job + image), dtype=torch.uint8)
        if rows.is_cuda:  # from pinned memory, so as not to wait for what is queued
            sent = sent.pin_memory().to(rows.device, non_blocking=True)
        noisy_copies[(len(rows), -(-blocks // _BLOCKS))](
            rows,
            sent[: len(job)].view(torch.uint32),
            sent[len(job) :],
            self._mean,
            self._scale,
            *law,
            dimension,
            blocks,
            CHANNELS=len(pixels),
            MIXED=blocks % len(pixels) != 0,
            BLOCKS=_BLOCKS,
            num_warps=1,
        )

    def _sent(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array.copy()).to(self._mean.device)
