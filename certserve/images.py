"""Bytes -> checked array; array -> PNG.

What is wrong with an image is said from its header alone, before any pixel is decoded. Decoding gives the pixels
that a radius is about: upright (EXIF), opaque (on white), in the model's colour, resized only when the caller asks.
Embedded colour profiles and gamma are ignored."""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

__all__ = [
    "EncodedImage",
    "Geometry",
    "Header",
    "ImageError",
    "ImageFit",
    "ImageInput",
    "Limits",
    "RawImage",
    "check",
    "decode",
    "describe_space",
    "encode_png",
    "on_grid",
    "pixel_digest",
    "read_header",
]

Pixels: TypeAlias = "npt.NDArray[np.uint8] | npt.NDArray[np.float32]"

_NAMES = {"PNG": "PNG", "JPEG": "JPEG", "MPO": "JPEG", "WEBP": "WebP"}  # MPO: a JPEG followed by further pictures
_COLOURS = {"grey": 1, "rgb": 3, "bgr": 3}
_MOST_READS = 4096  # of a header; ordinary files need tens, and every one costs a microsecond of the event loop
_PNG_BIT_DEPTH = 24  # its offset: signature 8, chunk length and type 8, width 4, height 4
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageFit(StrEnum):
    """What may be done to an image so that it has the model's size."""

    EXACT = "exact"
    """Nothing: it must have that size."""

    RESIZE_CROP = "resize-crop"
    """Resize the shorter side, then crop the centre; the radius is about the pixels after that."""


class ImageError(ValueError):
    """What is wrong with an image, as one sentence whose subject is the image."""


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """A PNG, JPEG or WebP file's bytes."""

    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.data, bytes):
            raise TypeError(f"expected the bytes of an image file, not {type(self.data).__name__}")


@dataclass(frozen=True, slots=True, eq=False)
class RawImage:
    """Pixels of shape (channels, height, width) as the model takes them: uint8, or float32 in [0, 1].

    Dtype, shape and values are judged by `check`, which names all that is wrong at once.
    """

    pixels: npt.NDArray[Any] = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, np.ndarray):
            raise TypeError(f"expected pixels as a numpy array, not {type(self.pixels).__name__}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RawImage):
            return NotImplemented
        return self.pixels.dtype == other.pixels.dtype and np.array_equal(self.pixels, other.pixels)

    def __hash__(self) -> int:
        return hash((self.pixels.dtype, self.pixels.shape))


ImageInput: TypeAlias = EncodedImage | RawImage


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a model expects.

    Attributes:
        channels, height, width: at least 1 each; 1 channel for "grey", 3 for "rgb" and "bgr".
        colour: "grey", "rgb" or "bgr": what the channels are, in order.
        resize: pixels; the length the shorter side is resized to before the centre crop, at least height and
            width. None: just enough to cover height x width.
    """

    channels: int
    height: int
    width: int
    colour: str
    resize: int | None = None

    def __post_init__(self) -> None:
        if self.colour not in _COLOURS:
            raise ValueError(f"expected the colour grey, rgb or bgr, not {self.colour!r}")
        if self.channels != _COLOURS[self.colour]:
            raise ValueError(f"{self.colour} has {_COLOURS[self.colour]} channels, not {self.channels}")
        if min(self.height, self.width) < 1:
            raise ValueError(f"height and width must be at least 1, not {self.height} and {self.width}")
        if self.resize is not None and self.resize < max(self.height, self.width):
            raise ValueError(f"resize must cover {self.width}x{self.height} pixels, which {self.resize} does not")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (self.channels, self.height, self.width)

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of an upright image after the resizing and before the centre crop."""
        if self.resize is not None:  # as torchvision's Resize: the longer side is rounded down
            shorter = min(width, height)
            return self.resize * width // shorter, self.resize * height // shorter
        if width * self.height >= height * self.width:
            return self.height * width // height, self.height
        return self.width, self.width * height // width


@dataclass(frozen=True, slots=True)
class Limits:
    """How large an encoded image may be: bytes as sent, and pixels decoded or resized."""

    max_bytes: int = 16 << 20
    max_pixels: int = 40_000_000

    def __post_init__(self) -> None:
        if min(self.max_bytes, self.max_pixels) < 1:
            raise ValueError(f"the limits must be at least 1, not {self.max_bytes} bytes and {self.max_pixels} pixels")


_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Header:
    """What an image file says of itself.

    Attributes:
        format: "PNG", "JPEG" or "WebP". mode: Pillow's name of the pixel layout.
        width, height: as stored. orientation: EXIF, 1 to 8; 1 where there is none.
    """

    format: str
    width: int
    height: int
    mode: str
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright image."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(data: bytes, limits: Limits = _LIMITS) -> Header:
    """What the file says of itself; no pixel is decoded.

    Raises:
        ImageError: not a PNG, JPEG or WebP file, damaged, larger than the limits, animated, or of 16 bits a channel.
    """
    return _open(data, limits)[1]


def check(image: ImageInput, geometry: Geometry, fit: ImageFit, limits: Limits) -> list[str]:
    """Everything wrong with an image that can be told without decoding it; sentences whose subject is the image."""
    if isinstance(image, RawImage):
        return _check_raw(image.pixels, geometry, fit)
    try:
        header = read_header(image.data, limits)
    except ImageError as error:
        return [str(error)]
    return _check_size(header.size, geometry, fit, limits)


def decode(image: ImageInput, geometry: Geometry, fit: ImageFit, limits: Limits) -> Pixels:
    """The pixels that a radius is about: (channels, height, width), C-contiguous, owning their memory.

    uint8 for encoded images and uint8 tensors, float32 in [0, 1] for float32 tensors.

    Raises:
        ImageError: anything `check` finds, or the file is truncated or corrupt.
    """
    if isinstance(image, RawImage):
        problems = _check_raw(image.pixels, geometry, fit)
        if problems:
            raise ImageError("; ".join(problems))
        return np.array(image.pixels, order="C", copy=True)
    opened, header = _open(image.data, limits)
    problems = _check_size(header.size, geometry, fit, limits)
    if problems:
        raise ImageError("; ".join(problems))
    try:
        if header.format == "PNG":  # Pillow checks the checksums only when told to, which uses the opened file up
            opened.verify()
            opened, header = _open(image.data, limits)
        upright = _upright(opened, header)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types on damaged bytes
        raise ImageError(f"is a damaged or truncated {header.format} file ({_reason(error)}); send it again") from error
    return _to_array(_fitted(_coloured(upright, geometry), geometry, fit), geometry)


def on_grid(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8] | None:
    """The integers k, if every pixel is bit for bit float32(k) / float32(255) for a k in 0..255; else None."""
    if pixels.dtype != np.float32:
        raise TypeError(f"expected float32 pixels, not {pixels.dtype}")
    if not ((pixels >= 0) & (pixels <= 1)).all():  # NaN included
        return None
    grid = np.rint(pixels * np.float32(255)).astype(np.uint8)
    exact = grid.astype(np.float32) / np.float32(255)
    same = np.ascontiguousarray(pixels).view(np.uint32) == exact.view(np.uint32)  # -0.0 is not 0.0
    return grid if same.all() else None


def describe_space(image: ImageInput, geometry: Geometry, fit: ImageFit) -> str:
    """One phrase that names the pixels a radius is about; sizes are width x height."""
    if isinstance(image, RawImage):
        return "the raw tensor as sent"
    size = f"{geometry.width}x{geometry.height}"
    colour = geometry.colour if geometry.colour == "grey" else geometry.colour.upper()
    pixels = f"the {size} {colour} pixels"
    if fit is ImageFit.EXACT:
        return f"{pixels} as decoded"
    target = f"the shorter side to {geometry.resize}" if geometry.resize is not None else f"to just cover {size}"
    return f"{pixels} after resizing {target} (bicubic) and cropping the centre"


def pixel_digest(pixels: npt.NDArray[Any]) -> str:
    """SHA-256, in hexadecimal, over `dtype:shape:` in ASCII ("uint8:3x32x32:") and the little-endian C-order bytes."""
    head = f"{pixels.dtype.name}:{'x'.join(map(str, pixels.shape))}:"
    body = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))
    return hashlib.sha256(head.encode("ascii") + body.tobytes()).hexdigest()


def encode_png(pixels: npt.NDArray[np.uint8], colour: str) -> bytes:
    """A PNG file of uint8 pixels (channels, height, width), whose channels are as `colour` says.

    Raises:
        ValueError: the dtype, the shape or the colour is none of an image.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise ValueError(f"expected uint8 pixels (channels, height, width), not {pixels.dtype} {pixels.shape}")
    channels, height, width = pixels.shape
    Geometry(channels, height, width, colour)
    ordered = pixels[::-1] if colour == "bgr" else pixels
    rows = np.ascontiguousarray(ordered[0] if colour == "grey" else ordered.transpose(1, 2, 0))
    target = io.BytesIO()
    Image.fromarray(rows).save(target, format="PNG")
    return target.getvalue()


class _Source(io.BytesIO):
    """A file for Pillow, which parses headers of millions of tiny segments if nobody stops it."""

    reads_left: float = _MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise ImageError("has a header of too many segments; save it again without metadata")
        return super().read(size)


def _open(data: bytes, limits: Limits) -> tuple[Image.Image, Header]:
    """The file opened, not decoded, and its header.

    Raises:
        ImageError: as `read_header`.
    """
    if not data:
        raise ImageError("is empty; send the bytes of a PNG, JPEG or WebP file")
    if len(data) > limits.max_bytes:
        raise ImageError(f"has {len(data)} bytes; at most {limits.max_bytes} are accepted: send a smaller image")
    try:
        source = _Source(data)
        image = Image.open(source, formats=("PNG", "JPEG", "WEBP"))
        frames = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
        header = Header(_NAMES[image.format or ""], image.width, image.height, image.mode, _orientation(image))
        source.reads_left = math.inf
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"has too many pixels ({_reason(error)}); send a smaller image") from error
    except UnidentifiedImageError as error:
        raise ImageError("is not a readable PNG, JPEG or WebP file; convert it to one of these") from error
    except Exception as error:  # Pillow's parsers raise a dozen unrelated types on hostile bytes
        raise ImageError(f"is not a readable PNG, JPEG or WebP file ({_reason(error)})") from error
    if header.width * header.height > limits.max_pixels:
        size = f"{header.width}x{header.height}"
        raise ImageError(f"has {size} pixels; at most {limits.max_pixels} are accepted: send a smaller image")
    if frames > 1:
        raise ImageError(f"is an animation of {frames} frames; send one still image")
    if header.format == "PNG" and data[_PNG_BIT_DEPTH] > 8:
        raise ImageError("has 16 bits a channel, and the pixel grid is 8-bit; convert it to 8 bits a channel")
    return image, header


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation before any pixel is decoded; 1 where it is missing or nonsense."""
    try:
        # Not image.getexif(): for PNG that decodes the pixels to look for EXIF behind them.
        value = Image.Image.getexif(image).get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF, in as many ways as there are bytes; viewers ignore it too
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _check_size(size: tuple[int, int], geometry: Geometry, fit: ImageFit, limits: Limits) -> list[str]:
    came, model = f"{size[0]}x{size[1]}", f"{geometry.width}x{geometry.height}"
    if fit is ImageFit.EXACT:
        if size == (geometry.width, geometry.height):
            return []
        return [f"must have {model} pixels (width x height), not {came}; the fit resize-crop resizes it"]
    width, height = geometry.resized(*size)
    if width * height > limits.max_pixels:
        return [f"is too elongated: {came} pixels (width x height) would be resized to {width}x{height}; crop it first"]
    return []


def _check_raw(pixels: npt.NDArray[Any], geometry: Geometry, fit: ImageFit) -> list[str]:
    problems = []
    if pixels.shape != geometry.shape:
        resizing = fit is ImageFit.RESIZE_CROP
        advice = "a tensor is never resized: send an encoded image" if resizing else "send a tensor of that shape"
        problems.append(f"must have the shape {geometry.shape} (channels, height, width), not {pixels.shape}; {advice}")
        if pixels.size > 1 << 20:  # too many values to judge for nothing
            return problems
    if pixels.dtype == np.float32:
        if not np.isfinite(pixels).all():
            problems.append("has values that are not finite; send float32 values in [0, 1]")
        elif pixels.size and not (pixels.min() >= 0 and pixels.max() <= 1):
            problems.append(f"has values from {pixels.min():g} to {pixels.max():g}; send float32 values in [0, 1]")
    elif pixels.dtype != np.uint8:
        problems.append(f"has the dtype {pixels.dtype}; send uint8 values, or float32 values in [0, 1]")
    return problems


def _upright(image: Image.Image, header: Header) -> Image.Image:
    """The decoded image, turned as its EXIF orientation says."""
    image.load()
    return image if header.orientation == 1 else image.transpose(_UPRIGHT[header.orientation])


def _coloured(image: Image.Image, geometry: Geometry) -> Image.Image:
    """Mode L for a grey model and RGB for any other; what is transparent shows white."""
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    target = "L" if geometry.colour == "grey" else "RGB"
    return image if image.mode == target else image.convert(target)


def _fitted(image: Image.Image, geometry: Geometry, fit: ImageFit) -> Image.Image:
    if fit is ImageFit.EXACT:
        return image
    resized = image.resize(geometry.resized(*image.size), Image.Resampling.BICUBIC)  # Pillow's is antialiased
    left = (resized.width - geometry.width) // 2
    top = (resized.height - geometry.height) // 2
    return resized.crop((left, top, left + geometry.width, top + geometry.height))


def _to_array(image: Image.Image, geometry: Geometry) -> npt.NDArray[np.uint8]:
    planes = np.asarray(image).reshape(geometry.height, geometry.width, geometry.channels).transpose(2, 0, 1)
    return np.array(planes[::-1] if geometry.colour == "bgr" else planes, order="C", copy=True)


def _reason(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__
