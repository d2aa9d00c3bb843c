"""Ed25519 signatures of outcomes: who answered. Whether an answer is right, `certserve.verify` says.

    outcome --canonical_json--> bytes --prefix, private key--> signature, carried in the outcome beside what it signs

The key is made for this and signs nothing else. RFC 8032.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from certserve.errors import VerificationFailed
from certserve.keyfiles import create_keyfile
from certserve.smoothing.document import AnyOutcome, canonical_json
from certserve.smoothing.outcomes import Abstention, Certificate, Prediction, Rejected, Undecided

__all__ = ["SigningKey", "check_signature", "read_public_key", "signed_bytes"]

Outcome = TypeVar("Outcome", Certificate, Prediction, Abstention, Undecided, Rejected)

_PREFIX = b"certserve.v1 outcome\x00"  # whatever else is ever signed, it is not taken for an outcome
_PUBLIC_KEY_BYTES = 32


def signed_bytes(outcome: AnyOutcome) -> bytes:
    """What a signature of the outcome is over."""
    return _PREFIX + canonical_json(outcome)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A server's Ed25519 key."""

    private_key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def fresh(cls) -> SigningKey:
        """From the operating system's entropy."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_file(cls, path: Path) -> SigningKey:
        """From a PEM file (PKCS 8, not encrypted).

        Raises:
            ValueError: the file holds something else. OSError: it cannot be read.
        """
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (TypeError, ValueError, UnsupportedAlgorithm):  # its text may quote the file
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(
                f"{path}: expected an Ed25519 private key in PEM, without a password (make one with "
                "`certserve signing-key new`)"
            )
        return cls(key)

    def to_file(self, path: Path) -> None:
        """Into a new file, for its owner alone to read.

        Raises:
            FileExistsError: there is a file; it stays as it is. OSError: it cannot be written.
        """
        create_keyfile(path, self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that its signatures are checked with."""
        return self.private_key.public_key().public_bytes_raw()

    def signed(self, outcome: Outcome) -> Outcome:
        """The outcome with this key's signature."""
        return replace(outcome, signature=self.private_key.sign(signed_bytes(outcome)))


def check_signature(outcome: AnyOutcome, public_key: bytes) -> str:
    """That the outcome is signed, and by that key, in a sentence.

    Raises:
        VerificationFailed: it carries no signature, or that of another key or of other values.
    """
    name = base64.b64encode(public_key).decode()
    if not outcome.signature:
        raise VerificationFailed([f"it carries no signature, and that of the public key {name} was demanded"])
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(outcome.signature, signed_bytes(outcome))
    except InvalidSignature:
        raise VerificationFailed(
            [f"the signature is not that of the public key {name} over these values: another key's, or one was changed"]
        ) from None
    return f"It is signed with the public key {name}."


def read_public_key(text: str) -> bytes:
    """The 32 bytes of a public key, from base64 or from a file of PEM or base64.

    Raises:
        ValueError: it is neither. OSError: the file cannot be read.
    """
    path = Path(text)
    content = path.read_bytes() if path.is_file() else text.encode()
    try:
        if b"-----BEGIN" in content:
            key = load_pem_public_key(content)
            raw = key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else b""
        else:
            raw = base64.b64decode(content.strip(), validate=True)
    except (ValueError, UnsupportedAlgorithm):
        raw = b""
    if len(raw) != _PUBLIC_KEY_BYTES:
        raise ValueError(f"{text:.100}: expected an Ed25519 public key, as a PEM file or 32 bytes in base64")
    return raw
