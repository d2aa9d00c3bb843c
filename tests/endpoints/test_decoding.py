"""Small images are decoded where they arrive, and all others on threads of their own; the answers are the same."""

from __future__ import annotations

import io
import threading
from types import ModuleType
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from certserve import images
from certserve.errors import InvalidRequest


def _png(size: tuple[int, int] = (4, 4), comment: str = "") -> bytes:
    chunks, target = PngInfo(), io.BytesIO()
    chunks.add_text("comment", comment)
    Image.new("L", size, 255).save(target, format="PNG", pnginfo=chunks)
    return target.getvalue()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of those that decoded an image, in order."""
    names: list[str] = []
    decode = images.decode

    def noted(*arguments: Any) -> Any:
        names.append(threading.current_thread().name)
        return decode(*arguments)

    monkeypatch.setattr("certserve.images.decode", noted)
    return names


@pytest.mark.parametrize(
    ("image", "fit", "aside"),
    [
        (_png(), "exact", False),
        (_png(comment="x" * 5_000), "exact", True),
        (_png((64, 64)), "resize-crop", True),
    ],
    ids=["small", "of many bytes", "resized"],
)
def test_what_is_decoded_where(model: Any, threads: list[str], image: bytes, fit: str, aside: bool) -> None:
    """A file that may take long and holds up the event loop fails, and a small one that waits for a thread."""
    assert model.predict(image, fit=images.ImageFit(fit), n=100).label_name == "high"
    (name,) = threads
    assert name.startswith("certserve-decode") is aside


def test_pixels_are_copied_where_they_arrive(
    model: Any, threads: list[str], harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but many: of an image of more values than are called few, those are copied aside."""
    here = model.predict(harness.image(), n=100)
    monkeypatch.setattr("certserve.endpoints.smoothing._FEW_VALUES", harness.image().size - 1)
    assert model.predict(harness.image(), n=100) == here
    assert [name.startswith("certserve-decode") for name in threads] == [False, True]


def test_a_small_file_that_is_damaged_is_refused_in_the_same_words(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(_png())
    data[-20] ^= 1
    refusals = []
    for few in (1 << 12, 0):
        monkeypatch.setattr("certserve.endpoints.smoothing._FEW_BYTES", few)
        with pytest.raises(InvalidRequest, match="damaged") as caught:
            model.predict(bytes(data), n=100)
        refusals.append(str(caught.value))
    assert refusals[0] == refusals[1]
