"""Attacked images -> 8-bit images within the same ball, exactly.

A client sends 8-bit images, so an attack on what is served has to end on multiples of 1/255. Distances here are
integers in steps of 1/255: no rounding leads out of the ball.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from certserve.attacks.norms import Norm
from certserve.noise.grid import LEVELS

__all__ = ["on_lattice"]

_HALVINGS = 60


def on_lattice(
    images: npt.NDArray[np.uint8],
    attacked: npt.NDArray[Any],
    radii: npt.NDArray[np.float64],
    norm: Norm,
) -> npt.NDArray[np.uint8]:
    """The 8-bit images, (batch, *input), furthest along each change `attacked - images / 255` within its radius.

    For L2 the change is scaled as far as it goes, then rounded, so that as little as may be of the radius is left;
    for Linf it is rounded and cut. Pixel k stands for k / 255: the distance to the image is at most the radius as a
    real number.

    Args:
        images: uint8, (batch, *input). attacked: floating, (batch, *input), in [0, 1].
        radii: (batch,), in input units, at least 0.

    Raises:
        ValueError: the shapes do not fit, or a radius is negative or not finite.
    """
    if images.shape != attacked.shape or radii.shape != images.shape[:1] or images.dtype != np.uint8:
        shapes = f"{images.dtype} {images.shape}, {attacked.shape} and {radii.shape}"
        raise ValueError(f"expected uint8 images, attacked ones and radii that fit each other, not {shapes}")
    if not bool((np.isfinite(radii) & (radii >= 0.0)).all()):
        raise ValueError("expected every radius to be 0 or more")
    found = np.empty_like(images)
    for i, (image, radius) in enumerate(zip(images.astype(np.int64), radii.tolist(), strict=True)):
        change = attacked[i].astype(np.float64) * LEVELS - image
        steps = _within_sphere if norm is Norm.L2 else _within_cube
        furthest = min(radius, float(image.size))  # no two images are further apart, in either norm
        found[i] = image + steps(change, image, Fraction(furthest) * LEVELS)
    return found


def _rounded(change: npt.NDArray[np.float64], image: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The nearest whole change that keeps the image within 0..255."""
    return np.rint(np.clip(change, -image, LEVELS - image)).astype(np.int64)


def _within_cube(
    change: npt.NDArray[np.float64], image: npt.NDArray[np.int64], radius: Fraction
) -> npt.NDArray[np.int64]:
    most = math.floor(radius)
    return np.clip(_rounded(change, image), -most, most)


def _within_sphere(
    change: npt.NDArray[np.float64], image: npt.NDArray[np.int64], radius: Fraction
) -> npt.NDArray[np.int64]:
    """Rounded multiples of the change grow with the factor: the largest that fits, then the pixels that come next."""
    most = math.floor(radius**2)  # a whole number is at most radius^2 just where it is at most this
    largest = float(np.abs(change).max())
    if largest == 0.0:
        return np.zeros_like(image)
    low, high = 0.0, (math.isqrt(most) + 2) / largest
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = int((_rounded(middle * change, image) ** 2).sum()) <= most
        low, high = (middle, high) if fits else (low, middle)
    inner, outer = _rounded(low * change, image), _rounded(high * change, image)
    costs = (outer**2 - inner**2).ravel()
    taken = (np.cumsum(costs) <= most - int((inner**2).sum())).reshape(image.shape)
    return np.where(taken, outer, inner)
