"""A server with a signing key signs every answer, on every call; its public key is in GetModel."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

import certserve
from certserve.endpoints.plans import AnytimePlan, LooksPlan, TargetPlan
from certserve.endpoints.signatures import SigningKey
from certserve.errors import VerificationFailed
from certserve.serving.config import Address, Config, ConfigError, Security
from certserve.smoothing.document import canonical_json
from certserve.smoothing.outcomes import Abstention, Bound, Certificate, Prediction, Undecided
from certserve.v1 import certserve_pb2 as pb

KEY = SigningKey.fresh()


def config(path: Path) -> Config:
    """With the signing key in that file."""
    return Config(server=Address(port=0), security=Security(signing_key_file=str(path)))


@pytest.fixture(scope="module")
def signing(harness: ModuleType, loaded: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server that signs."""
    path = tmp_path_factory.mktemp("signing") / "signing.pem"
    KEY.to_file(path)
    with harness.Server(loaded, config=config(path)) as running:
        yield running


def holds(outcome: Any) -> None:
    """`cryptography` alone finds the signature right, over what arrived."""
    message = b"certserve.v1 outcome\0" + canonical_json(outcome)
    Ed25519PublicKey.from_public_bytes(KEY.public_key).verify(outcome.signature, message)


@pytest.fixture(params=["sync", "async"])
def signed(request: pytest.FixtureRequest, harness: ModuleType, signing: Any, loop: Any) -> Iterator[Any]:
    """Either client of it."""
    face = harness.face(request.param, signing.target, loop)
    yield face
    face.close()


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ({}, Certificate),
        ({"bound": Bound.TWO_CLASS, "nonce": b"x"}, Certificate),
        ({"plan": TargetPlan(0.05, (0.1, 0.15)), "n": 20_000}, Certificate),
        ({"plan": TargetPlan(0.25), "n": 2_000}, Abstention),
        ({"plan": LooksPlan(precision=0.01), "n": 20_000, "alpha": 1e-5}, Certificate),
        ({"n": 5_000_000, "time_budget": 0.05}, Undecided),
    ],
    ids=str,
)
def test_certify(signed: Any, harness: ModuleType, question: dict[str, Any], kind: Any) -> None:
    outcome = signed.certify(harness.image(), **question)
    assert isinstance(outcome, kind)
    holds(outcome)
    assert certserve.verify(outcome, public_key=signed.get_model().public_key)


@pytest.mark.parametrize(
    ("question", "brightness", "kind"),
    [
        ({}, 180, Prediction),
        ({"plan": AnytimePlan(), "n": 2_000}, 180, Prediction),
        ({}, 128, Abstention),
        ({"n": 5_000_000, "time_budget": 0.05}, 180, Undecided),
    ],
    ids=str,
)
def test_predict(signed: Any, harness: ModuleType, question: dict[str, Any], brightness: int, kind: Any) -> None:
    outcome = signed.predict(harness.image(brightness), **question)
    assert isinstance(outcome, kind)
    holds(outcome)


def test_every_certificate_of_a_stream(signing: Any, harness: ModuleType) -> None:
    """Each its own."""
    with signing.client() as client:
        found = list(client.certify_stream(harness.image(), plan=LooksPlan(), n=20_000))
    assert len(found) > 3
    for outcome in found:
        holds(outcome)
    values = {canonical_json(outcome): outcome.signature for outcome in found}
    assert len(set(values.values())) == len(values) > 3


def test_every_answer_of_many(signing: Any, harness: ModuleType) -> None:
    asked = [(str(k), harness.image(k)) for k in (20, 128, 180, 250)]
    with signing.client() as client:
        for _, outcome in client.certify_many(iter(asked), n=100):
            holds(outcome)


def test_a_signature_changes_no_answer(signing: Any, server: Any, harness: ModuleType) -> None:
    """And a server without a key carries none."""
    with signing.client() as one, server.client() as other:
        signed, bare = one.certify(harness.image()), other.certify(harness.image())
        assert signed == bare
        assert bare.signature == other.get_model().public_key == b""
        assert one.get_model().public_key == KEY.public_key
        with pytest.raises(VerificationFailed, match="no signature"):
            certserve.verify(bare, public_key=KEY.public_key)


def test_on_the_wire(signing: Any, harness: ModuleType) -> None:
    """64 bytes in the reply and 32 in the model, for clients in other languages."""
    with grpc.insecure_channel(signing.target) as channel:
        stub = harness.stub(channel)
        pixels = pb.Tensor(data=harness.image().tobytes(), shape=harness.SHAPE, dtype=pb.DATA_TYPE_UINT8)
        reply = stub.Certify(pb.CertifyRequest(image=pb.Image(tensor=pixels), n=100), timeout=harness.PATIENCE)
        assert len(reply.signature) == 64
        assert stub.GetModel(pb.GetModelRequest()).model.public_key == KEY.public_key


@pytest.mark.parametrize("content", [None, b"", b"junk"])
def test_a_file_that_holds_no_key(harness: ModuleType, loaded: Any, tmp_path: Path, content: bytes | None) -> None:
    """A server must not answer unsigned when it was told to sign."""
    path = tmp_path / "signing.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"signing\.pem"):
        harness.Server(loaded, config=config(path))


def test_a_file_that_others_can_read_is_told(
    harness: ModuleType, loaded: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "signing.pem"
    KEY.to_file(path)
    caplog.set_level(logging.WARNING, "certserve.serving.server")
    with harness.Server(loaded, config=config(path)):
        assert caplog.messages == []
    path.chmod(0o644)
    with harness.Server(loaded, config=config(path)):
        assert "can be read by others" in caplog.messages[-1]
