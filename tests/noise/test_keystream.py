"""The stream against AES itself, and what a key depends on."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from hypothesis import strategies as st

from certserve.noise.keystream import STREAM, Key, Secret, stream_bytes

KEY = bytes(range(16))
SECRET = Secret(bytes(range(32)))

# NIST SP 800-38A, F.5.1 CTR-AES128.Encrypt: key, initial counter block, plaintext and ciphertext.
NIST_KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
NIST_COUNTER = int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16)
NIST_PLAIN = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
NIST_CIPHER = bytes.fromhex(
    "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff"
    "5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"
)


def test_the_stream_is_that_of_nist() -> None:
    """A stream other than the standard's known answer (another cipher, counter width or byte order) fails."""
    stream = stream_bytes(NIST_KEY, 16 * NIST_COUNTER, 64)
    assert bytes(a ^ b for a, b in zip(NIST_PLAIN, stream.tolist(), strict=True)) == NIST_CIPHER


@pytest.mark.parametrize("block", [0, 1, 255, 256, 2**32 - 1, 2**64 - 1, 2**100])
def test_block_i_is_the_encryption_of_i(block: int) -> None:
    """A block that is not AES of its big-endian number, across every carry of the counter, fails."""
    encryptor = Cipher(AES(KEY), ECB()).encryptor()
    expected = encryptor.update(block.to_bytes(16, "big") + (block + 1).to_bytes(16, "big"))
    assert stream_bytes(KEY, 16 * block, 32).tobytes() == expected


@settings(derandomize=True, deadline=None)
@given(block=st.integers(0, 60), length=st.integers(0, 70))
def test_random_access_is_a_slice_of_the_whole(block: int, length: int) -> None:
    """Bytes that depend on where reading began or ended fail."""
    whole = stream_bytes(KEY, 0, 16 * 66)
    part = stream_bytes(KEY, 16 * block, length)
    assert part.dtype == np.uint8
    assert np.array_equal(part, whole[16 * block : 16 * block + length])


def test_threads_that_read_under_one_key_do_not_disturb_each_other() -> None:
    """Bytes from where another thread has just been reading fail."""
    whole = stream_bytes(KEY, 0, 16 * 600)

    def read(start: int) -> bool:
        blocks = range(start, 500, 5)
        return all(
            np.array_equal(stream_bytes(KEY, 16 * b, 160), whole[16 * b :][:160]) for b in blocks for _ in "1234"
        )

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(read, range(4)))
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("first", [1, 8, 15, 17])
def test_reading_begins_at_a_block(first: int) -> None:
    """Bytes silently taken from another place than asked for fail."""
    with pytest.raises(ValueError, match="blocks of 16"):
        stream_bytes(KEY, first, 16)


def test_the_key_of_a_job_is_an_hmac_of_secret_and_question() -> None:
    """A key that another implementation cannot derive from the written recipe fails."""
    key = SECRET.key({"n": 100, "alpha": 0.001, "model": "m", "pixels": b"\x00\xff"})
    canonical = b'{"alpha": "float:0x1.0624dd2f1a9fcp-10", "model": "str:m", "n": "int:100", "pixels": "bytes:00ff"}'
    assert key.secret_bytes == hmac.new(SECRET.secret_bytes, canonical, hashlib.sha256).digest()


def test_the_key_of_a_domain_is_an_hmac_of_key_and_name() -> None:
    """The same for the AES key of a domain."""
    job = Key(b"k" * 32)
    assert job.domain("estimation/cells") == hmac.new(b"k" * 32, b"estimation/cells", hashlib.sha256).digest()[:16]


def test_domains_have_different_keys() -> None:
    """Two sets of draws, or a set and its further bits, under one key fail."""
    job = SECRET.key({"n": 1})
    names = [f"{of}/{what}" for of in ("selection", "estimation") for what in ("cells", "settle", "normals")]
    assert len({job.domain(name) for name in names}) == len(names)


def test_the_order_of_the_fields_does_not_matter() -> None:
    """A key that depends on the order in which a question was put together fails."""
    fields: list[tuple[str, str | int | float | bytes]] = [("n", 100), ("sigma", 0.25), ("model", "m"), ("x", b"\1")]
    keys = {SECRET.key(dict(order)) for order in itertools.permutations(fields)}
    assert len(keys) == 1


QUESTIONS: list[dict[str, str | int | float | bytes]] = [
    {},
    {"a": 1},
    {"a": 1.0},
    {"a": "1"},
    {"a": b"1"},
    {"a": "int:1"},
    {"a": "31"},
    {"a": -1},
    {"a": 0.0},
    {"a": -0.0},
    {"a": 0.1},
    {"a": 0.1 + 2.0**-56},
    {"a": ""},
    {"a": b""},
    {"b": 1},
    {"a": 1, "b": 1},
    {"a": '1", "b": "int:1'},
    {"a": "\N{LATIN SMALL LETTER E WITH ACUTE}"},
    {"a": "e\N{COMBINING ACUTE ACCENT}"},
]


def test_different_questions_have_different_keys() -> None:
    """Two questions that differ in a type, a sign, a last bit or a field, and share their noise, fail."""
    assert len({SECRET.key(question).secret_bytes for question in QUESTIONS}) == len(QUESTIONS)


@pytest.mark.parametrize("value", [True, np.int64(1), np.float64(1.0), None], ids=lambda value: type(value).__name__)
def test_values_that_spell_a_number_otherwise_are_refused(value: Any) -> None:
    """The same number as another type would be another question, which draws other noise."""
    with pytest.raises(TypeError, match="str, int, float and bytes"):
        SECRET.key({"a": value})


def test_equal_questions_have_equal_keys_under_one_secret_only() -> None:
    """A key that changes between calls, or is the same under another secret, fails."""
    assert SECRET.key({"a": 1}) == Secret(bytes(range(32))).key({"a": 1})
    assert SECRET.key({"a": 1}) != Secret(bytes(32)).key({"a": 1})


def test_a_secret_has_32_bytes() -> None:
    """A secret that is easier to guess, or cut off without a word, fails."""
    for length in (0, 16, 31, 33, 64):
        with pytest.raises(ValueError, match=f"32 bytes, not {length}"):
            Secret(bytes(length))


def test_fresh_secrets_differ() -> None:
    """A secret that does not come from the operating system's entropy fails."""
    assert len({Secret.fresh().secret_bytes for _ in range(20)}) == 20


@pytest.mark.parametrize("text", ["{}", "{}\n", "  {}\r\n"])
@pytest.mark.parametrize("upper", [False, True])
def test_a_secret_from_a_file(tmp_path: Path, text: str, upper: bool) -> None:
    """A file of 64 hexadecimal digits, as `openssl rand -hex 32` writes it, that is read otherwise fails."""
    digits = SECRET.secret_bytes.hex()
    file = tmp_path / "secret"
    file.write_text(text.format(digits.upper() if upper else digits))
    assert Secret.from_file(file) == SECRET


@pytest.mark.parametrize(
    "content", [b"", b"00" * 31, b"00" * 33, b"zz" * 32, b"0" * 63, bytes(range(224, 256)), b"\0" * 32]
)
def test_a_file_that_holds_no_secret(tmp_path: Path, content: bytes) -> None:
    """A secret made of something else, or an error that does not say what to do (or shows the content), fails."""
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="expected 64 hexadecimal digits") as failure:
        Secret.from_file(file)
    assert str(file) in str(failure.value)
    assert not content or content.decode("latin-1") not in str(failure.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file that is taken for an empty or a fresh secret fails."""
    with pytest.raises(FileNotFoundError):
        Secret.from_file(tmp_path / "secret")


def test_no_secret_is_ever_printed() -> None:
    """A secret or a key that gets into a log with the representation of its object fails."""
    for holder in (SECRET, SECRET.key({"a": 1})):
        for text in (repr(holder), str(holder), f"{holder}"):
            assert holder.secret_bytes.hex() not in text
            assert repr(holder.secret_bytes) not in text
            assert "secret_bytes" not in text


def test_the_commitment_is_the_digest_of_the_secret() -> None:
    """A commitment that `sha256sum` of the published secret does not confirm fails."""
    assert SECRET.commitment == hashlib.sha256(bytes(range(32))).hexdigest()


def test_the_name_of_the_stream() -> None:
    """A stream changed in name only, or renamed without need, fails: old certificates name it."""
    assert STREAM == "aes128-ctr/2"
