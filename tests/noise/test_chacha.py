"""The ChaCha20 stream of CUDA devices: the words that RFC 8439 gives, in the places that are documented."""

from __future__ import annotations

import hmac
import struct

import pytest

from certserve.noise.chacha import CHACHA_STREAM, blocks_of, chacha_key, uniforms
from certserve.noise.grid import rounded_gaussian
from certserve.noise.keystream import Key

KEY = Key(b"one job's key, of thirty-2 bytes")
SIGMA = 0.5


def block_words(key: bytes, counter: int, nonce: bytes) -> list[int]:
    """One block, as section 2.3 of RFC 8439 has it."""
    state = [
        *struct.unpack("<4I", b"expand 32-byte k"),
        *struct.unpack("<8I", key),
        counter,
        *struct.unpack("<3I", nonce),
    ]
    work = state[:]
    for _ in range(10):
        for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)):
            quarter_round(work, a, b, c, d)
        for a, b, c, d in ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
            quarter_round(work, a, b, c, d)
    return [(x + y) % 2**32 for x, y in zip(work, state, strict=True)]


def quarter_round(x: list[int], a: int, b: int, c: int, d: int) -> None:
    for target, other, mixed, shift in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        x[target] = (x[target] + x[other]) % 2**32
        word = x[mixed] ^ x[target]
        x[mixed] = (word << shift | word >> 32 - shift) % 2**32


def test_the_blocks_of_this_file_are_those_of_the_rfc() -> None:
    """Section 2.3.2's example."""
    words = block_words(bytes(range(32)), 1, bytes.fromhex("000000090000004a00000000"))
    assert words[:3] == [0xE4E7F110, 0x15593BD1, 0x1FDD0F50]
    assert words[-1] == 0x4E3C50A2


@pytest.mark.parametrize(
    ("draw", "dimension"), [(0, 1), (0, 48), (7, 50), (2**32 - 1, 33), (2**32, 33), (2**40 + 5, 3)]
)
def test_a_value_is_that_of_its_words(draw: int, dimension: int) -> None:
    """Word w of block b is at place w B + b; high halves under nonce (draw, 0), low halves under (draw, 1)."""
    key, blocks = chacha_key(KEY, "estimation"), -(-dimension // 16)
    halves = []
    for half in (0, 1):
        words = [block_words(key, block, struct.pack("<QI", draw, half)) for block in range(blocks)]
        halves.append([words[block][word] for word in range(16) for block in range(blocks)][:dimension])
    bits = [high << 32 | low for high, low in zip(*halves, strict=True)]
    found = uniforms(KEY, "estimation", draw, dimension)
    assert found.tolist() == bits
    law = rounded_gaussian(SIGMA)
    expected = [law.lowest + sum(int(t) <= u for t in law.thresholds) for u in bits]
    assert law.settle(found).tolist() == expected


def test_sets_and_jobs_have_keys_of_their_own() -> None:
    other = Key(bytes(32))
    keys = {chacha_key(key, domain) for key in (KEY, other) for domain in ("selection", "estimation")}
    assert len(keys) == 4
    assert all(len(key) == 32 for key in keys)
    assert len({key[:16] for key in keys} | {key[16:] for key in keys}) == 8, "both halves differ"


def test_what_certificates_name_stays_what_it_is() -> None:
    """Other keys under this name would draw other noise than the certificates that name it."""
    assert CHACHA_STREAM == "chacha20/1"
    halves = [hmac.digest(KEY.secret_bytes, f"estimation/chacha/{i}".encode(), "sha256")[:16] for i in (0, 1)]
    assert chacha_key(KEY, "estimation") == b"".join(halves)


@pytest.mark.parametrize(("dimension", "blocks"), [(1, 1), (16, 1), (17, 2), (3072, 192)])
def test_every_value_has_a_word(dimension: int, blocks: int) -> None:
    assert blocks_of(dimension) == blocks
