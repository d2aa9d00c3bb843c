"""JPEG-aware: half of the copies that the search sees come through JPEG files of the qualities asked for."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from PIL import Image  # noqa: E402 (after the check that torch is there)

from certserve.attacks.norms import Norm  # noqa: E402
from certserve.defences.preemptive.eight_bit import robustify, seeded  # noqa: E402
from certserve.defences.preemptive.jpeg import Uploads, through_jpeg  # noqa: E402
from certserve.defences.preemptive.methods import Budget, CertMargin, Qualities  # noqa: E402

QUALITIES = Qualities(60, 63)
SIGMA = 1e-4


def picture(seed: int = 0, shape: tuple[int, ...] = (3, 16, 16)) -> Any:
    """Smooth colours and some grain, uint8: every quality changes it in a way of its own."""
    random = np.random.default_rng(seed)
    waves = np.add.outer(np.sin(np.arange(shape[1]) / 3), np.cos(np.arange(shape[2]) / 4))
    channels = [128 + 40 * waves * np.sin(k + seed + 1) + random.integers(-20, 21, shape[1:]) for k in range(shape[0])]
    return np.stack(channels).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("quality", [40, 85, 95])
def test_pixels_come_back_as_pillow_would_show_them(quality: int) -> None:
    pixels, file = picture(), io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, format="JPEG", quality=quality, subsampling=2)
    expected = np.asarray(Image.open(file)).transpose(2, 0, 1)
    assert np.array_equal(through_jpeg(pixels, "rgb", quality), expected)
    assert np.array_equal(through_jpeg(pixels[::-1], "bgr", quality), expected[::-1])
    assert not np.array_equal(expected, pixels)


def test_grey_pixels_stay_grey() -> None:
    pixels = picture(shape=(1, 9, 7))
    back = through_jpeg(pixels, "grey", 90)
    assert back.shape == pixels.shape
    assert np.abs(back.astype(int) - pixels).max() < 40


def arrivals(image: Any) -> list[Any]:
    """What an image may arrive as."""
    return [through_jpeg(image, "rgb", q) for q in range(QUALITIES.lowest, QUALITIES.highest + 1)]


def which(row: Any, images: list[Any], tolerance: float) -> int | None:
    """The image of `images` that the row is, within so much a value."""
    near = [float(np.abs(row - each / 255).max()) < tolerance for each in images]
    return near.index(True) if any(near) else None


def test_half_of_the_copies_lose_what_the_files_lose() -> None:
    image = picture()
    points = torch.from_numpy(np.stack([image, picture(1)]) / 255)
    found = points + Uploads(QUALITIES, "rgb").loss(points, 40, seeded(1))
    kinds = [which(row, [image, *arrivals(image)], 1e-12) for row in found[:, 0].numpy()]
    assert kinds[:20] == [0] * 20
    assert None not in kinds
    assert 0 not in kinds[20:]
    assert len(set(kinds[20:])) > 1, "more than one quality"
    others = [which(row, [picture(1), *arrivals(picture(1))], 1e-12) for row in found[:, 1].numpy()]
    assert None not in others


def test_every_quality_of_the_range_is_drawn_and_no_other() -> None:
    image = picture()
    points = torch.from_numpy(image[None] / 255)
    uploads, generator = Uploads(QUALITIES, "rgb"), seeded(2)
    rows = torch.cat([(points + uploads.loss(points, 8, generator))[4:, 0] for _ in range(12)]).numpy()
    kinds = [which(row, arrivals(image), 1e-12) for row in rows]
    assert set(kinds) == {0, 1, 2, 3}


class Spy:
    """A classifier of two classes that keeps the rows it takes gradients of."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def __call__(self, rows: Any) -> Any:
        if torch.is_grad_enabled():
            self.rows.append(rows.detach().numpy().copy())
        score = rows.flatten(1).sum(1)
        return torch.stack([score, -score], 1)


def searched(jpeg: Qualities | None) -> tuple[Any, list[Any]]:
    """The moved image, and the rows of every step."""
    spy = Spy()
    found = robustify(
        spy,
        picture()[None],
        np.array([0]),
        budget=Budget(norm=Norm.L2, delta=0.1, epsilon=0.1),
        sigma=SIGMA,
        how=CertMargin(steps=1, draws=8, refinements=1, jpeg=jpeg),
        generator=seeded(5),
    )
    return found.images[0], spy.rows


def test_the_search_sees_the_image_and_what_becomes_of_it() -> None:
    image = picture()
    _, (first, refinement) = searched(QUALITIES)
    kinds = [which(row, [image, *arrivals(image)], 10 * SIGMA) for row in first]
    assert kinds[:4] == [0] * 4
    assert None not in kinds
    assert 0 not in kinds[4:]
    arrived = np.abs(refinement[4:] - refinement[:1]).max(axis=(1, 2, 3))
    assert (arrived > 100 * SIGMA).all(), "the refinement sees what becomes of the 8-bit image"


def test_without_it_there_are_no_files() -> None:
    _, rows = searched(None)
    assert all(np.abs(each - each[:1]).max() < 20 * SIGMA for each in rows)


@pytest.mark.parametrize("range_", [(0, 50), (80, 70), (50, 96)])
def test_qualities_out_of_range_are_refused(range_: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected JPEG qualities from 1 to 95"):
        Qualities(*range_)
