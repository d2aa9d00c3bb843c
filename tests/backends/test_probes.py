"""The fixed inputs are the same everywhere, in any number, and varied."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pytest

from certserve.backends.probes import noisy_copies, patterned_pixels, probe_labels, probe_pixels
from certserve.noise.grid import GridNoise
from certserve.noise.keystream import Key

SHAPES = [(1, 5, 7), (3, 32, 32), (3, 224, 224)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("make", [probe_pixels, patterned_pixels])
def test_the_first_ones_do_not_depend_on_how_many(make: object, shape: tuple[int, int, int]) -> None:
    assert callable(make)
    few, many = make(shape, 3, 0.25), make(shape, 10, 0.25)
    assert few.shape == (3, *shape)
    assert few.dtype == np.float32
    np.testing.assert_array_equal(few, many[:3])


def test_they_are_these_bits() -> None:
    """A change would make every quantised execution's recorded labels worthless, and change every fingerprint."""
    found = [
        hashlib.sha256(make((3, 32, 32), 16, 0.25).tobytes()).hexdigest()[:16]
        for make in (probe_pixels, patterned_pixels)
    ]
    assert found == ["9bf28a5613a42620", "e3cbb771b9fc55a3"]


def test_patterns_without_noise_are_smooth_within_8_bits_and_of_every_fineness() -> None:
    pixels = patterned_pixels((1, 64, 64), 8, 1e-4)  # the noise of so small a sigma is 0 on the grid
    assert pixels.min() >= 0.0
    assert pixels.max() <= 1.0
    np.testing.assert_array_equal(np.rint(pixels * 255) / np.float32(255), pixels)
    for i, image in enumerate(pixels[:, 0]):
        assert np.abs(np.diff(image, axis=0)).max() <= (i + 1) / 64 + 1.5 / 255
        assert (np.ptp(image) > 0) == (i > 0)


class _Brightness:
    """Class k where the mean lies in the k-th quarter."""

    shape = (1, 4, 4)

    def __init__(self) -> None:
        self.rows: list[int] = []

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self.rows.append(len(pixels))
        means = pixels.mean(axis=(1, 2, 3))
        return np.asarray(-np.abs(means[:, None] - np.array([0.125, 0.375, 0.625, 0.875], np.float32)))


def test_labels_are_those_of_the_patterns_in_batches_of_one_shape() -> None:
    model = _Brightness()
    labels = probe_labels(model, 50, 0.25, 8)
    assert set(model.rows) == {8}
    assert len(labels) == 50
    assert labels == tuple(model.logits(patterned_pixels((1, 4, 4), 50, 0.25)).argmax(axis=1).tolist())
    assert len(set(labels)) >= 3


def test_noisy_copies_are_draws_of_one_image() -> None:
    shape, sigma = (3, 4, 4), 0.25
    together = noisy_copies(shape, 5, 3, sigma)
    noise = GridNoise(Key(bytes(32)), sigma, 48).draws("copies", 5, 3).reshape(3, *shape)
    levels = np.rint(together * 255).astype(int) - noise
    assert (levels == levels[0]).all()
    assert 0 <= levels.min() <= levels.max() <= 255
    np.testing.assert_array_equal(together, ((levels + noise) / np.float32(255)).astype(np.float32))
    np.testing.assert_array_equal(noisy_copies(shape, 6, 1, sigma)[0], together[1])
