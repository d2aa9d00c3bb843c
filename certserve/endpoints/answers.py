"""What Reform comes to, as values. Nothing is certified about them."""

from __future__ import annotations

from dataclasses import dataclass

from certserve.images import RawImage

__all__ = ["Answer", "Reformation"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The base classifier's own answer to an image, without noise; nothing is certified about it."""

    label: int
    label_name: str


@dataclass(frozen=True, slots=True)
class Reformation:
    """An image moved towards those that the reformer was trained on. No guarantee follows from it.

    Attributes:
        image: the reformed pixels, float32 in [0, 1]. png: the same as a PNG file, rounded to 8 bits; empty if it was
            not asked for.
        before: the answer to the image as it was sent. after: to the reformed one.
        l2, linf: the size of the change, in units of pixels in [0, 1].
    """

    image: RawImage
    png: bytes
    before: Answer
    after: Answer
    l2: float
    linf: float
