"""The grid noise that a CUDA device draws: the law of `certserve.noise.grid`, from the ChaCha20 stream of RFC 8439.

AES has instructions of its own on a CPU alone; ChaCha20 is additions, exclusive ors and rotations of 32-bit words. This
is what the device must draw, bit for bit, in a form that is easy to read: `certserve.backends.device_noise` is compared
with it before it serves. Assumes that HMAC-SHA256 and ChaCha20 are pseudo-random functions.

Draw i of a set is 2 x B blocks of the stream under one 32-byte key, where B blocks have a 32-bit word for each value
of the draw. Blocks whose nonce begins with i and ends in 0 hold the high halves of the 64-bit uniforms U of
`certserve.noise.grid`, those that end in 1 the low halves. Word w of block b belongs to place w B + b.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from certserve.noise.keystream import Key

__all__ = ["CHACHA_STREAM", "WORDS", "blocks_of", "chacha_key", "uniforms"]

CHACHA_STREAM = "chacha20/1"
"""The name of this stream in certificates: another one draws other noise from the same key."""

WORDS = 16
"""32-bit words in a block."""


def chacha_key(key: Key, domain: str) -> bytes:
    """The 32-byte ChaCha20 key of one set of a job's draws."""
    return key.domain(f"{domain}/chacha/0") + key.domain(f"{domain}/chacha/1")


def blocks_of(dimension: int) -> int:
    """How many blocks have a word for each of so many values."""
    return -(-dimension // WORDS)


def uniforms(key: Key, domain: str, draw: int, dimension: int) -> npt.NDArray[np.uint64]:
    """The 64-bit uniforms U of one draw of a set, in the order of its places: what `RoundedGaussian.settle` takes.

    Places are in a device's order: channels change fastest, then columns, then rows.
    """
    high, low = (_words(chacha_key(key, domain), draw, half, dimension).astype(np.uint64) for half in (0, 1))
    return np.asarray(high << np.uint64(32) | low)


def _words(key: bytes, draw: int, half: int, dimension: int) -> npt.NDArray[np.uint32]:
    blocks = blocks_of(dimension)
    nonce = draw.to_bytes(8, "little") + half.to_bytes(4, "little")
    cipher = Cipher(ChaCha20(key, bytes(4) + nonce), mode=None).encryptor()  # 4 bytes: the first block's number
    words = np.frombuffer(cipher.update(bytes(4 * WORDS * blocks)), dtype="<u4").reshape(blocks, WORDS)
    return words.T.reshape(-1)[:dimension]
