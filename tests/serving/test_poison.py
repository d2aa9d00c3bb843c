"""One request that the model fails on: its own caller is told, and those who share its batches notice nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from certserve import errors


class Allergic:
    """The backend, but it fails on every batch with a bright row; it knows whether other rows were beside one."""

    def __init__(self, logits: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]) -> None:
        self._logits = logits
        self.shared = 0

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        bright = pixels.mean(axis=(1, 2, 3)) > 0.9  # noise moves the mean of 16 pixels by .06
        if bright.any():
            self.shared += not bright.all() and bool((pixels[~bright] != 0.0).any())
            raise errors.BackendFailed("too bright")
        return self._logits(pixels)


@pytest.mark.parametrize("n", [400, 5_000], ids=["small", "large"])
def test_only_its_own_caller_is_told(
    server: Any, loaded: Any, harness: ModuleType, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    questions = [{"n": 6_000, "nonce": bytes([k])} for k in range(6)] + [
        {"n": 300, "nonce": bytes([k])} for k in (6, 7)
    ]
    with server.client() as one:
        undisturbed = [one.certify(harness.image(), **question) for question in questions]
    with harness.Server(loaded[:1]) as disturbed, disturbed.client() as client, ThreadPoolExecutor(9) as pool:
        healthy = disturbed.engine()._executor._sampler._backend
        backend = Allergic(healthy.logits)
        monkeypatch.setattr(healthy, "logits", backend.logits)
        answers = [pool.submit(client.certify, harness.image(), **question) for question in questions]
        assert harness.eventually(lambda: disturbed.waiting() > 0)
        white = np.full(harness.SHAPE, 255, np.uint8)
        error = pool.submit(lambda: harness.raised(lambda: client.certify(white, n=n))).result(harness.PATIENCE)
        assert [answer.result(harness.PATIENCE) for answer in answers] == undisturbed
        assert "twice" in str(error)
        assert backend.shared
        assert client.certify(harness.image(), **questions[0]) == undisturbed[0]
        assert harness.eventually(disturbed.idle)
