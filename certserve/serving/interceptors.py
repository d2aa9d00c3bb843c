"""Around every call: a request id, the bearer token, and errors as rich statuses."""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import logging
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from certserve.endpoints.many import AT_ONCE
from certserve.errors import CertserveError, InvalidRequest, Overloaded, Unauthenticated, Violation
from certserve.wire.errors import to_status

__all__ = ["REQUEST_ID", "CallInterceptor"]

Hold = Callable[[int], None]

REQUEST_ID = "x-request-id"
_LARGEST_ACTIVE = 2_000  # calls in progress
_LARGEST_HELD = 256 << 20  # bytes of the messages of calls in progress, which take some four times as much memory

_log = logging.getLogger(__name__)
_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the calls of one service; other services (health, reflection) pass untouched.

    Args:
        service: the service's full name. token: what callers must send as `authorization: Bearer ...`; None: nothing.
    """

    def __init__(self, service: str, token: str | None) -> None:
        self._prefix = f"/{service}/"
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._active = self._held = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Return when no call of the service is in progress."""
        await self._idle.wait()

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith(self._prefix):
            return handler
        metadata = dict(details.invocation_metadata or ())
        parse = handler.request_deserializer

        async def one(data: bytes, context: Any) -> Any:
            async with self._attending(context, details.method, metadata) as hold:
                hold(len(data))
                return await handler.unary_unary(_parsed(data, parse), context)

        async def stream(data: bytes, context: Any) -> AsyncIterator[Any]:
            async with self._attending(context, details.method, metadata) as hold:
                hold(len(data))
                async with aclosing(handler.unary_stream(_parsed(data, parse), context)) as replies:
                    async for reply in replies:
                        yield reply

        async def exchange(questions: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
            async with self._attending(context, details.method, metadata) as hold:
                messages = _held(questions, hold, parse)
                async with aclosing(handler.stream_stream(messages, context)) as replies:
                    async for reply in replies:
                        yield reply

        wrapped = {"unary_unary": one, "unary_stream": stream, "stream_stream": exchange}
        changes: dict[str, Any] = {kind: call for kind, call in wrapped.items() if getattr(handler, kind)}
        if dataclasses.is_dataclass(handler):
            return dataclasses.replace(handler, request_deserializer=None, **changes)  # type: ignore[type-var]
        return handler._replace(request_deserializer=None, **changes)

    @asynccontextmanager
    async def _attending(self, context: Any, method: str, metadata: dict[str, str]) -> AsyncIterator[Hold]:
        """A call in progress: with a request id, for callers with the token, its errors as rich statuses.

        What it gives is to be told of the bytes that the call holds, and refuses those for which there is no room.
        """
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if self._held and self._held + size > _LARGEST_HELD:
                raise Overloaded("The calls in progress hold as much as this server keeps; try again later.",
                                 retry_after=1.0)  # fmt: skip
            self._held += size
            held += size

        given_id = metadata.get(REQUEST_ID, "")
        request_id = given_id if _ACCEPTABLE_ID.fullmatch(given_id) else uuid.uuid4().hex
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        self._enter()
        try:
            self._authenticate(metadata)
            if self._active > _LARGEST_ACTIVE:
                raise Overloaded(f"{self._active} calls are in progress; try again later.", retry_after=1.0)
            yield hold
        except Exception as error:
            if isinstance(error, InvalidRequest):
                _log.info("request %s to %s was refused: %s", request_id, method, str(error)[:500])
            elif not isinstance(error, CertserveError) or error.__cause__ is not None:
                _log.warning("request %s to %s failed", request_id, method, exc_info=error)
            await _abort(context, error, request_id)
        finally:
            self._held -= held
            self._leave()

    def _enter(self) -> None:
        self._active += 1
        self._idle.clear()

    def _leave(self) -> None:
        self._active -= 1
        if not self._active:
            self._idle.set()

    def _authenticate(self, metadata: dict[str, str]) -> None:
        if self._expected is None:
            return
        given = str(metadata.get("authorization", "")).encode()
        if not hmac.compare_digest(given, self._expected):
            raise Unauthenticated("This server asks for a bearer token; send its token with the call.")


async def _held(questions: AsyncIterator[bytes], hold: Hold, parse: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    """The messages, held as many at once as are answered at once."""
    largest = 0
    async for data in questions:
        if len(data) > largest:
            hold(AT_ONCE * (len(data) - largest))
            largest = len(data)
        yield _parsed(data, parse)


def _parsed(data: bytes, parse: Callable[[bytes], Any]) -> Any:
    """The message; not parsed by gRPC itself, which would do so for callers without a token and fail without an id."""
    try:
        return parse(data)
    except DecodeError:
        raise InvalidRequest([Violation("request", "is no message of this method")]) from None


async def _abort(context: Any, error: Exception, request_id: str) -> None:
    status = rpc_status.to_status(to_status(error, request_id))
    trailers = [*status.trailing_metadata, (REQUEST_ID, request_id)]
    if isinstance(error, Overloaded):
        trailers.append(("grpc-retry-pushback-ms", str(int(error.retry_after * 1000))))
    await context.abort(status.code, status.details, trailing_metadata=tuple(trailers))
