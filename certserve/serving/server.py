"""The gRPC server: the endpoints on a port, with health, reflection and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from certserve.endpoints.epochs import Epochs
from certserve.endpoints.many import answered
from certserve.endpoints.models import LoadedModel, Offer
from certserve.endpoints.searches import SearchLimits
from certserve.endpoints.service import Service, running
from certserve.endpoints.signatures import SigningKey
from certserve.keyfiles import is_private
from certserve.noise.keystream import Secret
from certserve.serving.config import Config, ConfigError, RobustifyConfig, Security
from certserve.serving.interceptors import CallInterceptor
from certserve.smoothing.outcomes import CertifyOutcome
from certserve.v1 import certserve_pb2 as pb
from certserve.v1 import certserve_pb2_grpc
from certserve.wire.magnet import (
    detect_request_from_wire,
    reform_request_from_wire,
    reformations_to_wire,
    verdicts_to_wire,
)
from certserve.wire.many import certify_many_reply_to_wire, check_tag
from certserve.wire.outcomes import certify_outcome_to_wire, predict_outcome_to_wire
from certserve.wire.requests import certify_request_from_wire, model_to_wire, predict_request_from_wire
from certserve.wire.robustify import progress_to_wire, robustified_to_wire, robustify_request_from_wire
from certserve.wire.surrogates import surrogate_to_wire

__all__ = ["RunningServer", "read_secret", "serve", "serving"]

Held = TypeVar("Held", Secret, SigningKey)

_log = logging.getLogger(__name__)
_SERVICE = pb.DESCRIPTOR.services_by_name["CertServe"].full_name
_BESIDE_THE_IMAGE = 64 << 10  # bytes of a request that are not the image
_LARGEST_DRAWS = 256  # of a Robustify's step, which are in memory together
_HEARTBEAT_SECONDS = 1.0
_LAST_REPLIES_SECONDS = 0.2  # for replies that are written but not yet sent
_OPTIONS = (
    # A long Certify sends nothing for a while: clients may ping, and are not cut off for it.
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers. `port` is the one it listens on, chosen by the system where 0 was asked for."""

    port: int
    service: Service
    health: health.aio.HealthServicer


class _CertServe(certserve_pb2_grpc.CertServeServicer):
    """Each method: from the wire, ask the endpoint, to the wire."""

    def __init__(self, service: Service) -> None:
        self._smoothing, self._magnet = service.smoothing, service.magnet
        self._robustify, self._surrogates = service.robustify, service.surrogates

    async def Predict(self, message: pb.PredictRequest, context: Any) -> pb.PredictResponse:
        start = time.perf_counter()
        outcome = await self._smoothing.predict(predict_request_from_wire(message), timeout=context.time_remaining())
        return predict_outcome_to_wire(outcome, time.perf_counter() - start)

    async def Certify(self, message: pb.CertifyRequest, context: Any) -> pb.CertifyResponse:
        start = time.perf_counter()
        outcome = await self._smoothing.certify(certify_request_from_wire(message), timeout=context.time_remaining())
        return certify_outcome_to_wire(outcome, time.perf_counter() - start)

    async def CertifyStream(self, message: pb.CertifyRequest, context: Any) -> AsyncIterator[pb.CertifyResponse]:
        start = time.perf_counter()
        request = certify_request_from_wire(message)
        async with aclosing(self._smoothing.certify_stream(request, timeout=context.time_remaining())) as outcomes:
            async for outcome, final in outcomes:
                yield certify_outcome_to_wire(outcome, time.perf_counter() - start, final=final)

    async def CertifyMany(self, messages: Any, context: Any) -> AsyncIterator[pb.CertifyManyResponse]:
        async def certify(message: pb.CertifyManyRequest) -> tuple[CertifyOutcome, float]:
            start = time.perf_counter()
            check_tag(message.tag)
            request = certify_request_from_wire(message.request)
            outcome = await self._smoothing.certify(request, timeout=context.time_remaining())
            return outcome, time.perf_counter() - start

        async with aclosing(answered(messages, certify)) as results:
            async for message, result in results:
                yield certify_many_reply_to_wire(message.tag, result, uuid.uuid4().hex)

    async def Detect(self, message: pb.DetectRequest, context: Any) -> pb.DetectResponse:
        start = time.perf_counter()
        verdicts = await self._magnet.detect(detect_request_from_wire(message), timeout=context.time_remaining())
        return verdicts_to_wire(verdicts, time.perf_counter() - start)

    async def Reform(self, message: pb.ReformRequest, context: Any) -> pb.ReformResponse:
        start = time.perf_counter()
        reformations = await self._magnet.reform(reform_request_from_wire(message), timeout=context.time_remaining())
        return reformations_to_wire(reformations, time.perf_counter() - start)

    async def Robustify(self, message: pb.RobustifyRequest, context: Any) -> pb.RobustifyResponse:
        start = time.perf_counter()
        request = robustify_request_from_wire(message)
        found = await self._robustify.robustify(request, timeout=context.time_remaining())
        return robustified_to_wire(found, time.perf_counter() - start)

    async def RobustifyStream(
        self, message: pb.RobustifyRequest, context: Any
    ) -> AsyncIterator[pb.RobustifyStreamResponse]:
        start = time.perf_counter()
        request = robustify_request_from_wire(message)
        async with aclosing(self._robustify.robustify_stream(request, timeout=context.time_remaining())) as parts:
            async for part in parts:
                if isinstance(part, tuple):
                    yield progress_to_wire(*part)
                else:
                    result = robustified_to_wire(part, time.perf_counter() - start)
                    yield pb.RobustifyStreamResponse(result=result)

    async def GetSurrogate(
        self, message: pb.GetSurrogateRequest, context: Any
    ) -> AsyncIterator[pb.GetSurrogateResponse]:
        for part in surrogate_to_wire(await self._surrogates.surrogate(message.model)):
            yield part

    async def ListModels(self, message: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[model_to_wire(info) for info in self._smoothing.list_models()])

    async def GetModel(self, message: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=model_to_wire(self._smoothing.get_model(message.model)))


@asynccontextmanager
async def serving(config: Config, loaded: Sequence[LoadedModel], secret: Secret) -> AsyncIterator[RunningServer]:
    """A server that answers while the context is open; at its end calls in progress get the grace to finish.

    Raises:
        ConfigError: the port is taken, or the files of TLS, token or signing key cannot be used.
    """
    token = _token(config.security)
    credentials = _server_credentials(config.security)
    signing_key = _signing_key(config.security)
    limits = config.limits
    asked: dict[str, Any] = {"signing_key": signing_key, "limits": limits.images, "largest_n": limits.largest_n}
    async with running(loaded, secret, **asked, **_gradients(config.robustify)) as service:
        calls = CallInterceptor(_SERVICE, token)
        largest = max(config.limits.image_bytes, *(4 * math.prod(model.bundle.shape) for model in loaded))
        options = (*_OPTIONS, ("grpc.max_receive_message_length", largest + _BESIDE_THE_IMAGE))
        server = grpc.aio.server(interceptors=(calls,), options=options)
        certserve_pb2_grpc.add_CertServeServicer_to_server(_CertServe(service), server)  # type: ignore[no-untyped-call]
        healthy = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        if token is None:
            names = (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        port = _listen(server, config, credentials)
        await server.start()
        heartbeat = asyncio.create_task(_heartbeat(service, healthy))
        try:
            yield RunningServer(port, service, healthy)
        finally:
            heartbeat.cancel()
            await healthy.enter_graceful_shutdown()
            await _drain(server, calls, config.server.grace_seconds)


def _gradients(config: RobustifyConfig) -> dict[str, Any]:
    """What `running` is told of the section [robustify]."""
    searching = SearchLimits(
        at_once=config.at_once,
        waiting=config.waiting,
        largest_passes=config.largest_passes,
        largest_draws=_LARGEST_DRAWS,
        threads=config.threads,
    )
    offer = Offer(robustify=config.enabled, largest_passes=config.largest_passes, surrogate=config.surrogate)
    return {"searching": searching, "offer": offer}


async def serve(config: Config, loaded: Sequence[LoadedModel], secret: Secret, on_ready: Any = None) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends at once. SIGHUP: read the secret file again, if there is one.

    Args:
        on_ready: called with the RunningServer when it answers.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(config, loaded, secret) as server:
        if config.noise.secret_file:
            loop.add_signal_handler(signal.SIGHUP, _begin_epoch, server.service.models.epochs, config)
        if on_ready:
            on_ready(server)
        await stop.wait()
        _log.info("stopping: calls in progress have %g s to finish", config.server.grace_seconds)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def read_secret(config: Config) -> Secret:
    """The secret in the file that the configuration names, else a fresh one.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    if not config.noise.secret_file:
        return Secret.fresh()
    return _read_keyfile(Secret.from_file, config.noise.secret_file)


def _begin_epoch(epochs: Epochs, config: Config) -> None:
    """Draw with the secret that is in the file now; where there is none, all stays as it was and the log says why."""
    try:
        if not epochs.begin(read_secret(config)):
            _log.info("%s holds the secret that is current: nothing changes", config.noise.secret_file)
    except ValueError as error:
        _log.error("no new epoch: %s", error)


async def _drain(server: Any, calls: CallInterceptor, grace: float) -> None:
    """Take no new calls; end when those in progress have finished, at the latest after the grace.

    Streams of health watchers last as long as the server does: they are not waited for.
    """
    stopping = asyncio.create_task(server.stop(grace))
    idle = asyncio.create_task(calls.idle())
    await asyncio.wait({stopping, idle}, return_when=asyncio.FIRST_COMPLETED)
    idle.cancel()
    await server.stop(min(grace, _LAST_REPLIES_SECONDS))
    await stopping


async def _heartbeat(service: Service, healthy: health.aio.HealthServicer) -> None:
    """Health follows the engines: a dead one is NOT_SERVING within a second."""
    while True:
        status = health_pb2.HealthCheckResponse.SERVING
        if not service.models.alive:
            status = health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", _SERVICE):
            await healthy.set(name, status)
        await asyncio.sleep(_HEARTBEAT_SECONDS)


def _listen(server: Any, config: Config, credentials: grpc.ServerCredentials | None) -> int:
    host = f"[{config.server.host}]" if ":" in config.server.host.strip("[]") else config.server.host
    address = f"{host.replace('[[', '[').replace(']]', ']')}:{config.server.port}"
    try:
        if credentials:
            return int(server.add_secure_port(address, credentials))
        return int(server.add_insecure_port(address))
    except RuntimeError as error:
        why = "the port is taken, or the address is not this machine's"
        if credentials:
            why += f", or {config.security.tls_certificate} and {config.security.tls_key} do not hold a key pair in PEM"
        raise ConfigError(f"cannot listen on {address}: {why}") from error


def _server_credentials(security: Security) -> grpc.ServerCredentials | None:
    if not security.tls_certificate:
        return None
    key, certificate = (_file(path) for path in (security.tls_key, security.tls_certificate))
    return grpc.ssl_server_credentials([(key, certificate)])


def _token(security: Security) -> str | None:
    if not security.token_file:
        return None
    token = _file(security.token_file).decode("ascii", errors="replace").strip()
    if len(token) < 16 or not token.isascii() or any(c.isspace() for c in token):
        raise ConfigError(f"{security.token_file}: expected one token of at least 16 ASCII characters without spaces")
    return token


def _signing_key(security: Security) -> SigningKey | None:
    return _read_keyfile(SigningKey.from_file, security.signing_key_file) if security.signing_key_file else None


def _read_keyfile(read: Callable[[Path], Held], path: str) -> Held:
    try:
        if not is_private(Path(path)):
            _log.warning("%s can be read by others on this machine; it should be its owner's alone", path)
        return read(Path(path))
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
