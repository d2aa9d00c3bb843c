"""Images side by side, for people to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from certserve import images
from certserve.endpoints.requests import ModelInfo, as_image
from certserve.images import Geometry, ImageFit, Limits

__all__ = ["comparison"]

_SIDE = 224  # pixels at least, of each panel
_GAP, _CAPTION = 12, 18
_FACTORS = (1, 2, 3, 5, 10, 20, 30, 50, 100)


def comparison(image: str, reformed: npt.NDArray[Any], info: ModelInfo, fit: ImageFit, path: Path) -> float:
    """Write the image, the reformed one and their difference, magnified, as one PNG file; by how much it is.

    Args:
        image: a file. reformed: float32 pixels in [0, 1], as the model of `info` takes them.
    """
    channels, height, width = info.shape
    geometry = Geometry(channels, height, width, info.colour, info.resize or None)
    pixels = images.decode(as_image(image), geometry, fit, Limits())
    before = pixels / 255.0 if pixels.dtype == np.uint8 else pixels
    change = reformed - before
    largest = float(np.abs(change).max())
    factor = max((f for f in _FACTORS if f * largest <= 0.5), default=1)
    panels = {
        "before": before,
        "after": reformed,
        f"difference x {factor}": 0.5 + factor * change,
    }
    _side_by_side({caption: _picture(panel, info.colour) for caption, panel in panels.items()}).save(path, format="PNG")
    return float(factor)


def _picture(pixels: npt.NDArray[Any], colour: str) -> Image.Image:
    rounded = np.rint(255 * np.clip(pixels, 0.0, 1.0)).astype(np.uint8)
    ordered = rounded[::-1] if colour == "bgr" else rounded
    picture = Image.fromarray(ordered[0] if colour == "grey" else np.ascontiguousarray(ordered.transpose(1, 2, 0)))
    times = max(1, round(_SIDE / max(picture.size)))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST).convert("RGB")


def _side_by_side(panels: dict[str, Image.Image]) -> Image.Image:
    first = next(iter(panels.values()))
    step = first.width + _GAP
    whole = Image.new("RGB", (_GAP + step * len(panels), first.height + 2 * _GAP + _CAPTION), "white")
    draw = ImageDraw.Draw(whole)
    for i, (caption, panel) in enumerate(panels.items()):
        left = _GAP + i * step
        draw.text((left, _GAP - 4), caption, fill="black")
        whole.paste(panel, (left, _GAP + _CAPTION))
    return whole
