"""JPEG as part of the noise: images -> what encoding them with loss adds, at qualities drawn at random.

Encoding has no gradient of its own; what it adds is taken as a constant of the image, so that the ascent is that of
an expectation over qualities (backward pass differentiable approximation by the identity, Athalye, Carlini and Wagner
2018; expectation over transformation, Athalye et al. 2018).
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from certserve.defences.preemptive.methods import Qualities
from certserve.images import EncodedImage, Geometry, ImageFit, Limits, decode
from certserve.noise.grid import LEVELS

__all__ = ["Uploads", "arriving", "through_jpeg"]

_ENCODINGS = 4  # of an image, at a time


def through_jpeg(pixels: npt.NDArray[np.uint8], colour: str, quality: int) -> npt.NDArray[np.uint8]:
    """The pixels (channels, height, width) after a JPEG file of that quality, colours at half the resolution.

    Args:
        colour: "grey", "rgb" or "bgr": what the channels are. quality: from 1 to 95, as libjpeg counts it.
    """
    channels, height, width = pixels.shape
    geometry = Geometry(channels, height, width, colour)
    ordered = pixels[::-1] if colour == "bgr" else pixels
    rows = np.ascontiguousarray(ordered[0] if colour == "grey" else ordered.transpose(1, 2, 0))
    target = io.BytesIO()
    Image.fromarray(rows).save(target, format="JPEG", quality=quality, subsampling="4:2:0")
    found = decode(EncodedImage(target.getvalue()), geometry, ImageFit.EXACT, Limits())
    return found.astype(np.uint8)


class Uploads:
    """What becomes of images on their way: half of the copies arrive as they are, half through JPEG files.

    Args:
        qualities: from which each file's is drawn. colour: what the images' channels are.
    """

    def __init__(self, qualities: Qualities, colour: str) -> None:
        self._qualities, self._colour = qualities, colour

    def loss(self, points: Tensor, copies: int, generator: torch.Generator) -> Tensor:
        """What is added to each copy: (copies, *points.shape), of the points' type; the points are put on 8 bits."""
        pixels = (points.detach() * LEVELS).round().clamp(0, LEVELS).to(torch.uint8)
        lost = points.new_zeros(copies, *points.shape)
        low, high = self._qualities.lowest, self._qualities.highest
        for row in range(len(points)):
            drawn = torch.randint(low, high + 1, (_ENCODINGS,), generator=generator).tolist()
            for number, quality in enumerate(drawn):
                arrived = through_jpeg(pixels[row].numpy(), self._colour, quality)
                shift = torch.from_numpy(arrived.astype(np.float64) / LEVELS).to(points) - points[row].detach()
                lost[copies // 2 + number :: _ENCODINGS, row] = shift
        return lost


def arriving(noise: Tensor, points: Tensor, uploads: Uploads | None, generator: torch.Generator) -> Tensor:
    """The noise (copies, *points.shape), and what the uploads add to each copy of the points."""
    return noise if uploads is None else noise + uploads.loss(points, len(noise), generator)
