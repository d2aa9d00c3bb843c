"""Bearer token and TLS, from the start."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from certserve import errors
from certserve.serving.config import Address, Config, ConfigError, Security

TOKEN = "correct-horse-battery-staple"


def config(**security: Any) -> Config:
    """On a free port of this machine."""
    return Config(server=Address(port=0), security=Security(**security))


def health_of(channel: grpc.Channel, service: str = "") -> int:
    """What the health service says."""
    reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
    return int(reply.status)


def listed(channel: grpc.Channel) -> list[str]:
    """What reflection lists."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    (reply,) = list(stub.ServerReflectionInfo(iter([ask]), timeout=60))
    return [service.name for service in reply.list_services_response.service]


@pytest.fixture(scope="module")
def guarded(harness: ModuleType, loaded: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with a token."""
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(TOKEN + "\n", encoding="ascii")
    with harness.Server(loaded, config=config(token_file=str(path))) as server:
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A certificate of this machine that signs itself, its key, and another such certificate."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "stranger"):
        _make_certificate(folder, name)
    return {path.name: str(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def encrypted(harness: ModuleType, loaded: Any, files: dict[str, str]) -> Iterator[Any]:
    """A server with TLS."""
    settings = config(tls_certificate=files["server.pem"], tls_key=files["server.key"])
    with harness.Server(loaded, config=settings) as server:
        yield server


class TestToken:
    """The service's methods ask for it; health does not."""

    @pytest.mark.parametrize("kind", ["sync", "async"])
    @pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "Bearer " + TOKEN])
    def test_missing_or_wrong(self, harness: ModuleType, guarded: Any, loop: Any, kind: str, token: str | None) -> None:
        """Every method refuses, and says nothing of what it would have answered."""
        client = harness.face(kind, guarded.target, loop, token=token)
        for ask in (
            lambda: client.predict(harness.image()),
            lambda: client.certify(b"junk"),
            lambda: client.list_models(),
            lambda: client.get_model("none"),
        ):
            error = harness.raised(ask)
            assert type(error) is errors.Unauthenticated
            assert TOKEN not in str(error)
        client.close()

    @pytest.mark.parametrize("kind", ["sync", "async"])
    def test_right(self, harness: ModuleType, guarded: Any, loop: Any, kind: str) -> None:
        """With the file's token, without its newline, every method answers."""
        client = harness.face(kind, guarded.target, loop, token=TOKEN)
        assert client.certify(harness.image()).label == 1
        assert client.get_model("waves").name == "waves"
        client.close()

    def test_health_is_exempt_and_reflection_is_off(self, guarded: Any) -> None:
        """Load balancers have no token; who has none need not know the methods."""
        with grpc.insecure_channel(guarded.target) as channel:
            assert health_of(channel) == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as caught:
                listed(channel)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    def test_reflection_is_on_without_a_token(self, channel: grpc.Channel) -> None:
        """So that general tools can ask an open server."""
        assert {"certserve.v1.CertServe", "grpc.health.v1.Health"} <= set(listed(channel))

    @pytest.mark.parametrize(
        "content", ["", "short", "has spaces in the middle", "two-lines-of-text\nmore-of-it", "é" * 20]
    )
    def test_a_file_that_holds_none(self, harness: ModuleType, loaded: Any, tmp_path: Path, content: str) -> None:
        """An empty file must not become a server without a token."""
        path = tmp_path / "token"
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match="16 ASCII"):
            harness.Server(loaded, config=config(token_file=str(path)))

    def test_a_file_that_is_not_there(self, harness: ModuleType, loaded: Any, tmp_path: Path) -> None:
        """Named in one sentence."""
        with pytest.raises(ConfigError, match="nowhere"):
            harness.Server(loaded, config=config(token_file=str(tmp_path / "nowhere")))


class TestTls:
    """With a certificate the wire is encrypted, and nothing else is accepted."""

    @pytest.mark.parametrize("kind", ["sync", "async"])
    def test_a_client_that_trusts_it(
        self, harness: ModuleType, encrypted: Any, loop: Any, files: dict[str, str], kind: str
    ) -> None:
        """The answers are the same as without TLS."""
        client = harness.face(kind, encrypted.target, loop, root_certificates=files["server.pem"])
        assert client.certify(harness.image()).label == 1
        client.close()

    @pytest.mark.parametrize("kind", ["sync", "async"])
    @pytest.mark.parametrize("root", [None, "stranger.pem"])
    def test_plaintext_and_strangers(
        self, harness: ModuleType, encrypted: Any, loop: Any, files: dict[str, str], kind: str, root: str | None
    ) -> None:
        """A client without TLS, or one that trusts another certificate, reaches nothing."""
        client = harness.face(kind, encrypted.target, loop, root_certificates=files[root] if root else None)
        assert type(harness.raised(lambda: client.list_models(timeout=30))) is errors.Unavailable
        client.close()

    def test_files_that_are_not_there(self, harness: ModuleType, loaded: Any, files: dict[str, str]) -> None:
        """Named in one sentence, before anything listens."""
        with pytest.raises(ConfigError, match="nowhere"):
            harness.Server(loaded, config=config(tls_certificate=files["server.pem"], tls_key="/nowhere"))

    def test_files_that_hold_no_certificate(self, harness: ModuleType, loaded: Any, tmp_path: Path) -> None:
        """A server must not start without what it was told to use."""
        junk = tmp_path / "junk.pem"
        junk.write_text("junk", encoding="ascii")
        with pytest.raises(ConfigError, match=r"junk\.pem"):
            harness.Server(loaded, config=config(tls_certificate=str(junk), tls_key=str(junk)))


def _make_certificate(folder: Path, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    hosts = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(hosts, critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def test_a_port_that_is_taken(harness: ModuleType, loaded: Any, server: Any) -> None:
    """Two servers on one port would share its callers."""
    with pytest.raises(ConfigError, match=str(server.running.port)):
        harness.Server(loaded, config=Config(server=Address(port=server.running.port)))
