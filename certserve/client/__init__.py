"""Clients of a certserve server: the methods of `certserve.open` over gRPC, with typed results and errors.

Encoding and decoding are `certserve.wire`'s; a method here is: encode, call, decode. No runtime is loaded.
"""

from certserve.client.asynchronous import AsyncClient
from certserve.client.synchronous import Client

__all__ = ["AsyncClient", "Client"]
