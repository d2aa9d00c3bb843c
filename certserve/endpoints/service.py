"""The endpoints over a set of models, for as long as they run: what every shell around them stands on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from certserve.endpoints.epochs import Epochs
from certserve.endpoints.magnet import MagnetEndpoints
from certserve.endpoints.models import LoadedModel, Models, Offer
from certserve.endpoints.robustify import RobustifyEndpoint
from certserve.endpoints.searches import Searches, SearchLimits
from certserve.endpoints.signatures import SigningKey
from certserve.endpoints.smoothing import SmoothingEndpoints
from certserve.endpoints.weights import SurrogateEndpoint
from certserve.images import Limits
from certserve.noise.keystream import Secret
from certserve.smoothing.bounds import LARGEST_N

__all__ = ["Service", "running"]

_DECODERS = 2


@dataclass(frozen=True, slots=True)
class Service:
    """Everything that can be asked."""

    models: Models
    smoothing: SmoothingEndpoints
    magnet: MagnetEndpoints
    robustify: RobustifyEndpoint
    surrogates: SurrogateEndpoint


@asynccontextmanager
async def running(
    loaded: Sequence[LoadedModel],
    secret: Secret,
    *,
    signing_key: SigningKey | None = None,
    limits: Limits | None = None,
    largest_n: int = LARGEST_N,
    searching: SearchLimits | None = None,
    offer: Offer | None = None,
) -> AsyncIterator[Service]:
    """The service, while the context is open; requests still running at its end fail with `Unavailable`.

    Args:
        searching: what searches may take; default: one at a time, and no limit else.
        The rest as for `Models`.
    """
    decoder = ThreadPoolExecutor(_DECODERS, thread_name_prefix="certserve-decode")
    searches = Searches(searching or SearchLimits())
    limits = limits or Limits()
    try:
        made = Models(loaded, Epochs(secret), signing_key=signing_key, largest_n=largest_n, offer=offer)
        async with made as models:
            magnet = MagnetEndpoints(models, decoder, limits)
            smoothing = SmoothingEndpoints(models, decoder, limits)
            robustify = RobustifyEndpoint(models, smoothing, searches, decoder, limits)
            yield Service(models, smoothing, magnet, robustify, SurrogateEndpoint(models, decoder))
    finally:
        searches.close()
        decoder.shutdown(wait=True, cancel_futures=True)
