"""Real images, streamed by a server of the packaged model: whatever a listener stops at can be checked."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

import certserve
from certserve import datasets, zoo
from certserve.endpoints.models import LoadedModel
from certserve.endpoints.plans import LooksPlan

IMAGES = 200


def test_every_certificate_of_a_stream_verifies(harness: ModuleType, shared_data: Path) -> None:
    """One that claims more than its own numbers carry fails, and so does one that is not better than the last."""
    data = datasets.read([shared_data / "fashion-mnist"], split="test")
    data = data.where(data.idx % (len(data) // IMAGES) == 0)
    assert len(data) == IMAGES
    streamed = 0
    with harness.Server([LoadedModel.read(zoo.path_of("fashion-mnist"))]) as server, server.client() as client:
        for image in data.images:
            radius = 0.0
            for outcome in client.certify_stream(np.ascontiguousarray(image), plan=LooksPlan(), n=800):
                assert certserve.verify(outcome)
                if isinstance(outcome, certserve.Certificate):
                    assert outcome.radius >= radius
                    radius = outcome.radius
                    streamed += 1
    assert streamed > 2 * IMAGES
