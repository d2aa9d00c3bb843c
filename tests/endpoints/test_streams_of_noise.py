"""Certificates name what generated their noise: a backend's own stream in grid arithmetic, else the processor's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import certserve
from certserve import backends
from certserve.backends import Batch
from certserve.backends.linear import LinearBackend
from certserve.bundle import Bundle, Execution
from certserve.endpoints.verification import verify_by_drawing
from certserve.errors import VerificationFailed
from certserve.noise.keystream import STREAM
from certserve.sampling.batches import HostBatch


class Drawing(LinearBackend):
    """A linear classifier that is said to make its noise itself."""

    stream = "another/1"
    made: int = 0

    def batch(self, rows: int) -> Batch:
        type(self).made += 1
        return HostBatch(self, rows)


@pytest.fixture
def drawing(harness: ModuleType, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The linear bundle, opened with the secret of `model`, on a backend that draws."""

    def load(found: Bundle, execution: Execution) -> LinearBackend:
        return Drawing.read(found.file(execution.file), found.shape)

    monkeypatch.setitem(backends._LOADERS, "linear", load)
    with certserve.open(bundle, key_source=harness.SECRET) as opened:
        yield opened


def test_grid_noise_is_the_backends_own(harness: ModuleType, drawing: Any) -> None:
    assert drawing.certify(harness.image(), n=500).setting.stream == "another/1"
    assert Drawing.made > 0


def test_float_noise_is_the_processors(harness: ModuleType, drawing: Any) -> None:
    image = (harness.image() / np.float32(256)).astype(np.float32)
    assert drawing.certify(image, n=500).setting.stream == STREAM


def test_another_stream_has_another_key(harness: ModuleType, drawing: Any, model: Any) -> None:
    """The batches here are the processor's own, so only the key can make the votes differ."""
    found, other = (each.certify(harness.image(), n=5_000) for each in (drawing, model))
    assert (found.setting.stream, other.setting.stream) == ("another/1", STREAM)
    assert found.origin == other.origin
    assert found.estimation != other.estimation


def test_a_certificate_is_drawn_again_from_its_own_stream_only(harness: ModuleType, drawing: Any, model: Any) -> None:
    outcome = drawing.certify(harness.image(), n=500)
    assert "every vote" in verify_by_drawing(outcome, drawing, harness.image())
    with pytest.raises(VerificationFailed, match=f"the stream of the noise is another/1, here {STREAM}"):
        verify_by_drawing(outcome, model, harness.image())
