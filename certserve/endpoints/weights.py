"""GetSurrogate: the bundle's own safetensors file, where its operator offers it."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor

from certserve.endpoints.models import Models, ServedModel, weights_of
from certserve.endpoints.surrogates import Surrogate, architecture_of
from certserve.errors import BundleError, Infeasible

__all__ = ["SurrogateEndpoint"]


class SurrogateEndpoint:
    """Hands out weights, where that is offered.

    Args:
        models: what is served. reader: a small pool that reads files.
    """

    def __init__(self, models: Models, reader: ThreadPoolExecutor) -> None:
        self._models, self._reader = models, reader
        self._files: dict[str, bytes] = {}

    async def surrogate(self, name: str) -> Surrogate:
        """The model's weights.

        Raises:
            Infeasible: they are not offered. ModelNotFound: there is no such model.
            BundleError: it has no weights for torch, or its file is no longer what it was.
        """
        model = self._models.get(name)
        if not model.offer.surrogate:
            raise Infeasible(
                "This server hands out no weights; its operator can offer them (robustify.surrogate = true). Ask it "
                "to robustify, or use a bundle of your own."
            )
        weights = weights_of(model.bundle)
        if weights is None:
            raise BundleError(f"{model.bundle.name} has no weights for torch (a .safetensors file) to hand out")
        digest = model.bundle.digests[weights.file]
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(self._reader, self._file, model, weights.file, digest)
        return Surrogate(model.info, architecture_of(data), digest, data)

    def _file(self, model: ServedModel, file: str, digest: str) -> bytes:
        """The bytes, which are kept."""
        name = model.bundle.name
        if name not in self._files:
            data = model.bundle.file(file).read_bytes()
            if hashlib.sha256(data).hexdigest() != digest:
                raise BundleError(f"{name}: its weights are no longer the file that it was loaded with")
            self._files[name] = data
        return self._files[name]
