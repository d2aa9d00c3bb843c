"""Secrets, the keys derived from them, and a random-access stream of uniform bytes under a key.

    secret (32 bytes, one epoch) --HMAC-SHA256(question)--> key of a job --HMAC-SHA256(domain)--> AES-128-CTR stream

The same question of one stream gets the same key, hence the same draws, from any replica and after any restart; nobody
learns a key without the secret. Assumes that HMAC-SHA256 and AES-128 are pseudo-random functions.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from certserve.keyfiles import create_keyfile, replace_keyfile

__all__ = ["STREAM", "Key", "Secret", "stream_bytes"]

STREAM = "aes128-ctr/2"
"""The name of this stream in certificates: another one draws other noise from the same key."""

_BLOCK = 16
_KEY_BYTES = 32
_ZEROS = memoryview(bytes(1 << 20))


@dataclass(frozen=True, slots=True)
class Key:
    """The key of one job: everything its noise depends on besides the draw's index."""

    secret_bytes: bytes = field(repr=False)

    def domain(self, name: str) -> bytes:
        """A 16-byte key for one disjoint part of the job's randomness: of AES, or half of one of ChaCha20."""
        return _derived(self.secret_bytes, name)


@dataclass(frozen=True, slots=True)
class Secret:
    """The server's 32-byte secret of one epoch.

    Raises:
        ValueError: not exactly 32 bytes.
    """

    secret_bytes: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret_bytes) != _KEY_BYTES:
            raise ValueError(f"a secret has {_KEY_BYTES} bytes, not {len(self.secret_bytes)}")

    @classmethod
    def fresh(cls) -> Secret:
        """From the operating system's entropy."""
        return cls(os.urandom(_KEY_BYTES))

    @classmethod
    def from_file(cls, path: Path) -> Secret:
        """From a file of 64 hexadecimal digits, so that restarts and replicas share it.

        Raises:
            ValueError: the file holds something else.
            OSError: the file cannot be read.
        """
        try:
            return cls(bytes.fromhex(path.read_text(encoding="ascii").strip()))
        except (UnicodeDecodeError, ValueError) as error:
            raise ValueError(
                f"{path}: expected 64 hexadecimal digits (make one with `certserve secret new`)"
            ) from error

    def to_file(self, path: Path) -> None:
        """Into a new file, for its owner alone to read.

        Raises:
            FileExistsError: there is a file; it stays as it is. OSError: it cannot be written.
        """
        create_keyfile(path, self._digits)

    def replace_file(self, path: Path) -> Path:
        """Into the place of another secret's file, which stays beside it under the returned name.

        Raises:
            ValueError, OSError: as `from_file`; or it cannot be written, and the file is as it was.
        """
        kept = path.with_name(f"{path.name}.{Secret.from_file(path).commitment}")
        replace_keyfile(path, self._digits, kept)
        return kept

    @property
    def _digits(self) -> bytes:
        return self.secret_bytes.hex().encode() + b"\n"

    @property
    def commitment(self) -> str:
        """SHA-256 of the secret, in hexadecimal: published before any question is known."""
        return hashlib.sha256(self.secret_bytes).hexdigest()

    def key(self, question: Mapping[str, str | int | float | bytes]) -> Key:
        """The key of the job that answers `question`: equal questions, equal keys; else independent ones.

        Floats enter exactly (as hexadecimal), bytes as hexadecimal, the fields in sorted order.
        """
        canonical = json.dumps({name: _exact(value) for name, value in question.items()}, sort_keys=True)
        return Key(hmac.new(self.secret_bytes, canonical.encode(), hashlib.sha256).digest())


def stream_bytes(domain_key: bytes, first: int, length: int) -> npt.NDArray[np.uint8]:
    """Bytes first..first + length - 1 of the stream under a 16-byte key; `first` must be a multiple of 16."""
    block, offset = divmod(first, _BLOCK)
    if offset:
        raise ValueError(f"the stream is addressed in blocks of {_BLOCK} bytes, not at {first}")
    cipher = _ciphers.under(domain_key)
    cipher.reset_nonce(block.to_bytes(_BLOCK, "big"))
    zeros = _ZEROS[:length] if length <= len(_ZEROS) else bytes(length)
    return np.frombuffer(cipher.update(zeros), dtype=np.uint8)


def _cipher(key: bytes) -> CipherContext:
    return Cipher(AES(key), CTR(bytes(_BLOCK))).encryptor()


class _Ciphers(threading.local):
    """This thread's, remembered because making one takes longer than a batch's bytes do."""

    def __init__(self) -> None:
        self.under = lru_cache(maxsize=64)(_cipher)


_ciphers = _Ciphers()


@lru_cache(maxsize=1024)
def _derived(key: bytes, name: str) -> bytes:
    """Remembered, because every batch of a job asks for the same few."""
    return hmac.new(key, name.encode(), hashlib.sha256).digest()[:_BLOCK]


def _exact(value: str | int | float | bytes) -> str:
    """A spelling that tells types and values apart.

    Raises:
        TypeError: a value of another type; a subclass or a numpy scalar could spell the same value otherwise.
    """
    if type(value) is bytes:
        return "bytes:" + value.hex()
    if type(value) is float:
        return "float:" + value.hex()
    if type(value) is not str and type(value) is not int:
        raise TypeError(f"a question is made of str, int, float and bytes, not {type(value).__name__}")
    return f"{type(value).__name__}:{value}"
