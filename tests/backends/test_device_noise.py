"""The kernel that draws, on a CUDA device or by Triton's interpreter: bit for bit what `noise.chacha` says."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from certserve.errors import BackendFailed
from certserve.noise.chacha import uniforms
from certserve.noise.grid import rounded_gaussian
from certserve.noise.keystream import Key

torch = pytest.importorskip("torch")

KEY = Key(b"one job's key, of thirty-2 bytes")
MEAN, SCALE = (0.4, 0.5, 0.6), (5.0, 4.0, 3.3)


@pytest.fixture
def noise(device_noise: ModuleType, device: Any) -> Any:
    """Of three channels."""
    return a_noise(device_noise, 3, device)


def a_noise(device_noise: ModuleType, channels: int, device: Any) -> Any:
    values = (torch.tensor(each[:channels], device=device).view(1, channels, 1, 1) for each in (MEAN, SCALE))
    return device_noise.DeviceNoise(*values)


def an_image(shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    return (np.arange(np.prod(shape)) * 7 % 256).astype(np.uint8).reshape(shape)


def written(noise: Any, pixels: npt.NDArray[np.uint8], sigma: float, first: int, count: int) -> npt.NDArray[np.float32]:
    """What the kernel puts into rows of NaN, (count, *shape)."""
    rows = torch.full((count, *pixels.shape), float("nan"), device=noise._mean.device)
    rows = rows.contiguous(memory_format=torch.channels_last)
    noise.write(rows, KEY, pixels, sigma, "estimation", first)
    return np.asarray(rows.cpu().numpy())


@pytest.mark.parametrize(
    ("shape", "sigma", "first"),
    [
        ((3, 8, 8), 0.25, 0),
        ((1, 9, 7), 1.0, 5),
        ((3, 1, 1), 10.0, 2**32 - 1),  # draws on both sides of 2^32
        ((2, 17, 16), 0.001, 2**40),  # more blocks than a program has, most of their words past the end
        ((1, 30, 30), 3.0, 1),  # some cells have several thresholds
        ((3, 9, 13), 1.0, 7),  # the words of a block are of different channels
    ],
)
def test_copies_are_those_of_the_reference(
    device_noise: ModuleType, device: Any, shape: tuple[int, int, int], sigma: float, first: int
) -> None:
    channels, height, width = shape
    pixels = an_image(shape)
    bits = np.stack([uniforms(KEY, "estimation", first + i, pixels.size) for i in range(3)])
    drawn = rounded_gaussian(sigma).settle(bits.reshape(-1))
    drawn = drawn.reshape(3, height, width, channels).transpose(0, 3, 1, 2)
    copies = (pixels.astype(np.int16) + drawn).astype(np.float32) / np.float32(255)
    mean, scale = (np.array(values[:channels], np.float32).reshape(-1, 1, 1) for values in (MEAN, SCALE))
    found = written(a_noise(device_noise, channels, device), pixels, sigma, first, 3)
    np.testing.assert_array_equal(found, (copies - mean) * scale)


def test_quotients_are_the_nearest_whatever_is_rounded_between(device_noise: ModuleType) -> None:
    """The kernel multiplies by the two parts of 1 / 255; its compiler may round either product or none of them."""
    kernel = importlib.import_module("certserve.backends.chacha_kernel")
    high, low = (np.float32(part.value) for part in (kernel._HIGH_PART, kernel._LOW_PART))
    totals = np.arange(-(1 << 15), 1 << 15).astype(np.float32)
    exact = totals.astype(np.float64) * np.float64(high)
    np.testing.assert_array_equal(totals * high, exact)
    expected = totals / np.float32(255)
    np.testing.assert_array_equal(totals * high + totals * low, expected)
    np.testing.assert_array_equal((exact + totals.astype(np.float64) * np.float64(low)).astype(np.float32), expected)


def test_a_draw_is_the_same_in_any_range(noise: Any) -> None:
    pixels = an_image((3, 4, 4))
    together = written(noise, pixels, 0.5, 10, 3)
    for i in range(3):
        np.testing.assert_array_equal(written(noise, pixels, 0.5, 10 + i, 1)[0], together[i])


class TestCheck:
    """What a model's loading asks of the device."""

    def test_a_device_that_draws_what_it_must_passes(self, noise: Any) -> None:
        noise.check((3, 5, 5), torch.float32)

    @pytest.mark.parametrize("spoiled", ["table", "passed", "high", "low"])
    def test_one_that_draws_anything_else_fails(
        self, noise: Any, spoiled: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make = noise._law

        def law(*parts: object) -> Any:
            made = make(*parts)
            return made._replace(**{spoiled: torch.zeros_like(getattr(made, spoiled))})

        monkeypatch.setattr(noise, "_law", law)
        with pytest.raises(BackendFailed, match="bit for bit"):
            noise.check((3, 16, 16), torch.float32)

    def test_its_second_law_is_decided_by_low_halves(
        self, noise: Any, device_noise: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A threshold equal to the number drawn is passed, one that is larger by 1 is not."""
        laws: list[Any] = []
        monkeypatch.setattr(noise, "_compare", lambda *parts: laws.append(parts[2:]))
        noise.check((3, 5, 5), torch.float32)
        _, (table, thresholds, _) = laws
        drawn = uniforms(device_noise._PROBE_KEY, "check", device_noise._PROBE_DRAWS[0], 75)[:64]
        assert set(drawn.tolist()) < set(thresholds.tolist())
        assert {int(u) + 1 for u in drawn[::2]} < set(thresholds.tolist())
        assert (table == -32768).all()


def test_laws_are_kept(noise: Any) -> None:
    pixels = an_image((3, 2, 2))
    written(noise, pixels, 0.5, 0, 1)
    (law,) = noise._laws.values()
    written(noise, pixels, 0.5, 1, 1)
    assert noise._laws[0.5] is law
    assert law.thresholds == rounded_gaussian(0.5).thresholds.size
