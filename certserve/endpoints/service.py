"""The endpoints over a set of models, for as long as they run: what every shell around them stands on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from certserve.endpoints.epochs import Epochs
from certserve.endpoints.magnet import MagnetEndpoints
from certserve.endpoints.models import LoadedModel, Models
from certserve.endpoints.robustify import RobustifyEndpoint
from certserve.endpoints.signatures import SigningKey
from certserve.endpoints.smoothing import SmoothingEndpoints
from certserve.images import Limits
from certserve.noise.keystream import Secret
from certserve.smoothing.bounds import LARGEST_N

__all__ = ["Service", "running"]

_DECODERS = 2
_SEARCHERS = 1


@dataclass(frozen=True, slots=True)
class Service:
    """Everything that can be asked."""

    models: Models
    smoothing: SmoothingEndpoints
    magnet: MagnetEndpoints
    robustify: RobustifyEndpoint


@asynccontextmanager
async def running(
    loaded: Sequence[LoadedModel],
    secret: Secret,
    *,
    signing_key: SigningKey | None = None,
    limits: Limits | None = None,
    largest_n: int = LARGEST_N,
) -> AsyncIterator[Service]:
    """The service, while the context is open; requests still running at its end fail with `Unavailable`."""
    decoder = ThreadPoolExecutor(_DECODERS, thread_name_prefix="certserve-decode")
    searcher = ThreadPoolExecutor(_SEARCHERS, thread_name_prefix="certserve-search")
    limits = limits or Limits()
    try:
        async with Models(loaded, Epochs(secret), signing_key=signing_key, largest_n=largest_n) as models:
            magnet = MagnetEndpoints(models, decoder, limits)
            smoothing = SmoothingEndpoints(models, decoder, limits)
            yield Service(models, smoothing, magnet, RobustifyEndpoint(models, smoothing, searcher, limits))
    finally:
        searcher.shutdown(wait=True, cancel_futures=True)
        decoder.shutdown(wait=True, cancel_futures=True)
