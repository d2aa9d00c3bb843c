"""A signature is over every value of an outcome, in one way, and by one key; the values say nothing of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

import certserve
from certserve import from_document, to_document
from certserve.endpoints.plans import AnytimePlan, LooksPlan, TargetPlan
from certserve.endpoints.signatures import SigningKey, check_signature, read_public_key, signed_bytes
from certserve.errors import VerificationFailed
from certserve.smoothing.document import canonical_json
from certserve.smoothing.outcomes import Bound, Origin, Setting, Space, Undecided

KEY = SigningKey.fresh()
KINDS = ("fixed", "two-class", "target", "looks", "prediction", "anytime", "abstention", "abstention of predict",
         "undecided")  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(model: Any, harness: ModuleType) -> dict[str, Any]:
    """A real one of each kind, signed."""
    certificate = model.certify(harness.image())
    found = {
        "fixed": certificate,
        "two-class": model.certify(harness.image(), bound=Bound.TWO_CLASS),
        "target": model.certify(harness.image(), n=20_000, plan=TargetPlan(0.05, (0.1,))),
        "looks": model.certify(harness.image(), n=20_000, plan=LooksPlan(precision=0.01)),
        "prediction": model.predict(harness.image()),
        "anytime": model.predict(harness.image(), n=2_000, plan=AnytimePlan()),
        "abstention": model.certify(harness.image(128)),
        "abstention of predict": model.predict(harness.image(128)),
        "undecided": Undecided("no time was left", certificate.setting, certificate.origin),
    }
    return {kind: KEY.signed(outcome) for kind, outcome in found.items()}


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    """Signed, saved, read and checked."""

    def test_cryptography_agrees(self, outcomes: dict[str, Any], kind: str) -> None:
        """The bytes are the prefix and the canonical JSON; without the prefix the signature is none."""
        outcome = outcomes[kind]
        public = Ed25519PublicKey.from_public_bytes(KEY.public_key)
        public.verify(outcome.signature, b"certserve.v1 outcome\0" + canonical_json(outcome))
        with pytest.raises(InvalidSignature):
            public.verify(outcome.signature, canonical_json(outcome))

    def test_the_document_carries_it(self, outcomes: dict[str, Any], kind: str) -> None:
        """Written and read, the canonical JSON and the signature are the same, byte by byte."""
        outcome = outcomes[kind]
        read = from_document(json.loads(json.dumps(to_document(outcome))))
        assert (read, read.signature) == (outcome, outcome.signature)
        assert canonical_json(read) == canonical_json(outcome)
        assert base64.b64encode(KEY.public_key).decode() in check_signature(read, KEY.public_key)
        assert len(certserve.verify(read, public_key=KEY.public_key)) == len(certserve.verify(read)) + 1

    def test_any_changed_value_is_detected(self, outcomes: dict[str, Any], kind: str) -> None:
        """Each leaf of the document, changed by a digit or a letter, breaks the signature, or is no outcome at all."""
        document = to_document(outcomes[kind])
        changed = 0
        for path, value in _leaves(document):
            if path[0] == "statement":
                continue
            other = json.loads(json.dumps(document))
            _at(other, path[:-1])[path[-1]] = _another(value)
            try:
                tampered = from_document(other)
            except ValueError:
                continue
            changed += 1
            with pytest.raises(VerificationFailed, match="the signature is not that of the public key"):
                certserve.verify(tampered, public_key=KEY.public_key)
        assert changed > 20

    def test_the_signature_is_beside_the_values(self, outcomes: dict[str, Any], kind: str) -> None:
        """An unsigned one is the same outcome, and its document is as it was before there were signatures."""
        outcome = outcomes[kind]
        bare = replace(outcome, signature=b"")
        assert bare == outcome
        assert canonical_json(bare) == canonical_json(outcome)
        document = to_document(outcome)
        assert document.pop("signature")
        assert document == to_document(bare)
        assert from_document(document).signature == b""


def test_a_missing_signature(outcomes: dict[str, Any]) -> None:
    """Taking it away is no way around it; who demands none need not care."""
    bare = replace(outcomes["fixed"], signature=b"")
    with pytest.raises(VerificationFailed, match="no signature"):
        certserve.verify(bare, public_key=KEY.public_key)
    assert certserve.verify(bare)


def test_the_signature_of_another_key(outcomes: dict[str, Any]) -> None:
    with pytest.raises(VerificationFailed, match="another key"):
        certserve.verify(outcomes["fixed"], public_key=SigningKey.fresh().public_key)


@pytest.mark.parametrize("signature", [b"x", bytes(64), bytes(65), b"\xff" * 64])
def test_what_is_no_signature(outcomes: dict[str, Any], signature: bytes) -> None:
    with pytest.raises(VerificationFailed, match="the signature is not"):
        certserve.verify(replace(outcomes["fixed"], signature=signature), public_key=KEY.public_key)


def test_a_signed_outcome_must_still_be_right(outcomes: dict[str, Any]) -> None:
    """A server can sign what its numbers do not carry."""
    lie = KEY.signed(replace(outcomes["fixed"], radius=outcomes["fixed"].radius * 2))
    with pytest.raises(VerificationFailed, match="radius"):
        certserve.verify(lie, public_key=KEY.public_key)


@pytest.mark.parametrize("value", [1, None, "not base64", "QUJD!", "é", ["QUJD"]])
def test_a_document_whose_signature_is_no_base64(outcomes: dict[str, Any], value: object) -> None:
    with pytest.raises(ValueError, match="signature: expected base64"):
        from_document({**to_document(outcomes["fixed"]), "signature": value})


class TestFiles:
    """Of the private key, and of the public one."""

    def test_a_key_is_kept(self, tmp_path: Path) -> None:
        """For its owner alone, as PEM that other tools read; it is never overwritten."""
        path = tmp_path / "signing.pem"
        KEY.to_file(path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
        assert SigningKey.from_file(path).public_key == KEY.public_key
        with pytest.raises(FileExistsError):
            KEY.to_file(path)

    def test_what_is_no_signing_key(self, tmp_path: Path) -> None:
        """Nothing of the file is said."""
        path = tmp_path / "signing.pem"
        form = (Encoding.PEM, PrivateFormat.PKCS8)
        for content in (
            b"",
            b"junk-of-mine",
            KEY.private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            KEY.private_key.private_bytes(*form, BestAvailableEncryption(b"password")),
            generate_private_key(SECP256R1()).private_bytes(*form, NoEncryption()),
        ):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=r"signing\.pem: expected an Ed25519 private key") as caught:
                SigningKey.from_file(path)
            assert "junk-of-mine" not in str(caught.value)

    def test_a_key_is_not_printed(self) -> None:
        assert repr(KEY) == "SigningKey()"

    def test_a_public_key_in_each_form(self, tmp_path: Path) -> None:
        text = base64.b64encode(KEY.public_key).decode()
        (tmp_path / "key.txt").write_text(text + "\n", encoding="ascii")
        pem = KEY.private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / "key.pem").write_bytes(pem)
        for given in (text, str(tmp_path / "key.txt"), str(tmp_path / "key.pem")):
            assert read_public_key(given) == KEY.public_key

    def test_what_is_no_public_key(self, tmp_path: Path) -> None:
        """The private one neither."""
        KEY.to_file(tmp_path / "signing.pem")
        ec = generate_private_key(SECP256R1()).public_key()
        (tmp_path / "ec.pem").write_bytes(ec.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        for given in ("", "junk", "QUJD", str(tmp_path / "signing.pem"), str(tmp_path / "ec.pem"), str(tmp_path)):
            with pytest.raises(ValueError, match="expected an Ed25519 public key"):
                read_public_key(given)


def test_the_signed_bytes() -> None:
    """As the protocol describes them, for ever: another spelling would break every signature there is."""
    setting = Setting(0.25, 20, 10**18, 1e-05, "looks", (200, 400), Bound.TWO_CLASS, "grid", "s", 1.5e-17, "0a")
    origin = Origin("modèle", "1", "int8", "ab", "cd", Space('as "sent"', (1, 4, 4), "u", "ef"))
    assert signed_bytes(Undecided("no time", setting, origin, signature=b"x")) == (
        b"certserve.v1 outcome\0"
        b'{"kind":"undecided","origin":{"commitment":"cd","execution":"int8","fingerprint":"ab","model":"mod\xc3\xa8le",'
        b'"space":{"description":"as \\"sent\\"","digest":"ef","shape":[1,4,4],"units":"u"},"version":"1"},'
        b'"reason":"no time","setting":{"alpha":1e-05,"arithmetic":"grid","arithmetic_error":1.5e-17,'
        b'"bound":"two-class","looks":[200,400],"n":1000000000000000000,"n0":20,"nonce":"0a","plan":"looks",'
        b'"schedule":{"alphas":[],"every":0,"precision":0.0,"radii":[],"runner_up_alphas":[]},"sigma":0.25,"stream":"s"}}'
    )


def _leaves(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(document, dict | list):
        for name, item in document.items() if isinstance(document, dict) else enumerate(document):
            yield from _leaves(item, (*path, name))
    else:
        yield path, document


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


def _another(value: Any) -> Any:
    """The next number, or the text with its first letter changed."""
    if value is None:
        return 0.5
    if isinstance(value, str):
        return ("B" if value[:1] == "A" else "A") + value[1:]
    return value + 1 if isinstance(value, int) else value * (1 + 2**-52) if value else 5e-324
