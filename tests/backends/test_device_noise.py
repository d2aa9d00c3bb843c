"""The kernel that draws on a CUDA device, by Triton's interpreter: bit for bit what `certserve.noise.chacha` says."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from certserve.errors import BackendFailed
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.chacha import ChaChaNoise, chacha_key
from certserve.noise.grid import RoundedGaussian, rounded_gaussian
from certserve.noise.keystream import Key
from certserve.sampling.source import DrawSource

os.environ["TRITON_INTERPRET"] = "1"  # before the kernel is read
torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton, which comes with PyTorch for CUDA, is not installed")

from certserve.backends.device_noise import DeviceNoise  # noqa: E402

KEY = Key(b"one job's key, of thirty-2 bytes")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def a_noise(channels: int = 3) -> DeviceNoise:
    return DeviceNoise(*(torch.tensor(values[:channels]).view(1, channels, 1, 1) for values in (MEAN, STD)))


def a_source(shape: tuple[int, int, int], sigma: float) -> DrawSource:
    pixels = (np.arange(np.prod(shape)) * 7 % 256).astype(np.uint8).reshape(shape)
    return DrawSource(KEY, pixels, sigma, Arithmetic.GRID)


def written(noise: DeviceNoise, source: DrawSource, first: int, count: int) -> npt.NDArray[np.float32]:
    """What the kernel puts into rows of NaN, (count, *shape)."""
    rows = torch.full((count, *source.pixels.shape), float("nan")).contiguous(memory_format=torch.channels_last)
    noise.write(rows, source, "estimation", first)
    return np.asarray(rows.numpy())


def expected(source: DrawSource, first: int, count: int, sigma: float) -> npt.NDArray[np.float32]:
    channels, height, width = source.pixels.shape
    noise = ChaChaNoise(KEY, sigma, source.pixels.size).draws("estimation", first, count)
    noise = noise.reshape(count, height, width, channels).transpose(0, 3, 1, 2)
    copies = (source.pixels.astype(np.int16) + noise).astype(np.float32) / np.float32(255)
    mean, std = (np.array(values[:channels], np.float32).reshape(-1, 1, 1) for values in (MEAN, STD))
    return np.asarray((copies - mean) / std)


@pytest.mark.parametrize(
    ("shape", "sigma", "first"),
    [
        ((3, 8, 8), 0.25, 0),
        ((1, 9, 7), 1.0, 5),
        ((3, 1, 1), 10.0, 2**32 - 1),  # draws on both sides of 2^32
        ((2, 17, 16), 0.001, 2**40),  # more blocks than a program has, most of their words past the end
        ((1, 30, 30), 3.0, 1),
    ],
)
def test_copies_are_those_of_the_reference(shape: tuple[int, int, int], sigma: float, first: int) -> None:
    source = a_source(shape, sigma)
    found = written(a_noise(shape[0]), source, first, 3)
    np.testing.assert_array_equal(found, expected(source, first, 3, sigma))


def a_law_that_only_low_halves_decide() -> RoundedGaussian:
    """Thresholds at, above and below the very numbers that are drawn, several with one high half."""
    words = ChaChaNoise(KEY, 0.25, 48)._words
    high, low = (words(chacha_key(KEY, "estimation"), 0, half).astype(np.uint64) for half in (0, 1))
    drawn = high << np.uint64(32) | low
    near = [int(u) + shift for u in drawn[::3] for shift in (-1, 0, 1, 2)]
    thresholds = np.array(sorted(t for t in set(near) if 0 < t < 2**64), dtype=np.uint64)
    table = np.full(65536, -32768, dtype=np.int16)
    return RoundedGaussian(0.25, -20, thresholds, table, np.zeros(65536, np.uint16), 1.0, 0.0)


def test_ties_of_the_high_half_are_settled_by_the_low_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A threshold equal to the number drawn is passed, one that is larger by 1 is not."""
    law = a_law_that_only_low_halves_decide()
    for module in ("certserve.backends.device_noise", "certserve.noise.chacha"):
        monkeypatch.setattr(f"{module}.rounded_gaussian", lambda sigma: law)
    source = a_source((3, 4, 4), 0.25)
    found, wanted = written(a_noise(), source, 0, 1), expected(source, 0, 1, 0.25)
    np.testing.assert_array_equal(found, wanted)
    assert len(np.unique(wanted)) > 30


def test_a_draw_is_the_same_in_any_range() -> None:
    noise, source = a_noise(), a_source((3, 4, 4), 0.5)
    together = written(noise, source, 10, 3)
    for i in range(3):
        np.testing.assert_array_equal(written(noise, source, 10 + i, 1)[0], together[i])


class TestCheck:
    def test_a_device_that_draws_what_it_must_passes(self) -> None:
        a_noise().check((3, 5, 5), torch.float32)

    @pytest.mark.parametrize("spoiled", ["table", "high", "passed"])
    def test_one_that_draws_anything_else_fails(self, spoiled: str, monkeypatch: pytest.MonkeyPatch) -> None:
        noise = a_noise()
        law = noise._law(0.5)
        changed: Any = getattr(law, spoiled).clone()
        changed.view(torch.uint8)[...] = 1
        monkeypatch.setattr(noise, "_law", lambda sigma: law._replace(**{spoiled: changed}))
        with pytest.raises(BackendFailed, match="bit for bit"):
            noise.check((3, 16, 16), torch.float32)


def test_laws_are_kept() -> None:
    noise = a_noise()
    assert noise._law(0.5) is noise._law(0.5)
    assert noise._law(0.25).thresholds == rounded_gaussian(0.25).thresholds.size
