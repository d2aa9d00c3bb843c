"""`certserve secret` and `certserve signing-key`: files that are made, replaced and named, and what they check."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from certserve.endpoints.models import LoadedModel
from certserve.noise.keystream import Secret
from certserve.serving.config import Address, Config, Security


def test_a_new_secret(cli: Any, tmp_path: Path) -> None:
    """For its owner alone; only the commitment is printed, and it is the digest of the file's bytes."""
    path = tmp_path / "secret.hex"
    result = cli("secret", "new", path)
    digits = path.read_text(encoding="ascii").strip()
    assert result.exit_code == 0
    assert result.stdout.strip() == hashlib.sha256(bytes.fromhex(digits)).hexdigest()
    assert digits not in result.output
    assert path.stat().st_mode & 0o777 == 0o600
    assert cli("secret", "commitment", path).stdout == result.stdout


def test_a_secret_is_never_overwritten(cli: Any, only_sentence: Any, tmp_path: Path) -> None:
    path = tmp_path / "secret.hex"
    cli("secret", "new", path)
    before = path.read_bytes()
    assert "is there already" in only_sentence(cli("secret", "new", path), 1)
    assert path.read_bytes() == before


def test_rotating_keeps_the_old_one(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "secret.hex"
    old = cli("secret", "new", path).stdout.strip()
    before = path.read_bytes()
    result = cli("secret", "rotate", path)
    kept = tmp_path / f"secret.hex.{old}"
    assert kept.read_bytes() == before
    assert kept.stat().st_mode & 0o777 == 0o600
    assert result.stdout.strip() == Secret.from_file(path).commitment != old
    assert str(kept) in result.stderr.replace("\n", "")
    assert sorted(tmp_path.iterdir()) == [path, kept]


@pytest.mark.parametrize("command", ["rotate", "commitment"])
@pytest.mark.parametrize("content", ["", "no secret", "5a" * 31])
def test_what_is_no_secret(cli: Any, only_sentence: Any, tmp_path: Path, command: str, content: str) -> None:
    path = tmp_path / "secret.hex"
    path.write_text(content, encoding="ascii")
    assert "expected 64 hexadecimal digits" in only_sentence(cli("secret", command, path), 1)
    assert path.read_text(encoding="ascii") == content


def test_verify_with_a_published_secret(cli: Any, half: Path, images: Any, tmp_path: Path) -> None:
    """The secret of the certificate's epoch draws it again; that of another one is refused by its commitment."""
    path, certificate = tmp_path / "secret.hex", tmp_path / "certificate.json"
    old = cli("secret", "new", path).stdout.strip()
    printed = cli("certify", images["edge"], "--model", half, "--secret-file", path, "--json").stdout
    certificate.write_text(printed, encoding="utf-8")
    new = cli("secret", "rotate", path).stdout.strip()
    kept = tmp_path / f"secret.hex.{old}"
    kept.chmod(0o644)

    def verify(secret: Path) -> Any:
        words = ["--secret-file", secret, "--image", images["edge"], "--model", half, "--json"]
        return cli("verify", certificate, *words)

    result = verify(kept)
    assert result.exit_code == 0
    assert "every vote" in json.loads(result.stdout)[0]["checked"][-1]
    result = verify(path)
    assert result.exit_code == 1
    (said,) = json.loads(result.stdout)[0]["discrepancies"]
    assert said == f"the commitment to the secret is {old}, here {new}"


class TestSigning:
    """`certserve signing-key`, and `certserve verify --public-key`."""

    @pytest.fixture
    def key(self, cli: Any, tmp_path: Path) -> tuple[Path, str]:
        """A new key's file, and what was printed."""
        path = tmp_path / "signing.pem"
        result = cli("signing-key", "new", path)
        assert result.exit_code == 0
        return path, result.stdout.strip()

    @pytest.fixture
    def printed(self, cli: Any, key: tuple[Path, str], half: Path, images: Any, harness: ModuleType) -> str:
        """What `certify --json` printed of a server that signs with it: a certificate and an abstention."""
        config = Config(server=Address(port=0), security=Security(signing_key_file=str(key[0])))
        with harness.Server([LoadedModel.read(half)], config=config) as server:
            asked = (images["bright"], images["edge"], "--server", server.target, "--json")
            (model,) = json.loads(cli("models", "--server", server.target, "--json").stdout)
            assert model["public_key"] == key[1]
            return str(cli("certify", *asked).stdout)

    def test_a_new_key(self, cli: Any, only_sentence: Any, key: tuple[Path, str]) -> None:
        path, public = key
        assert path.stat().st_mode & 0o777 == 0o600
        assert len(base64.b64decode(public)) == 32
        assert cli("signing-key", "public", path).stdout.strip() == public
        before = path.read_bytes()
        assert "is there already" in only_sentence(cli("signing-key", "new", path), 1)
        assert path.read_bytes() == before

    def test_what_is_no_key(self, cli: Any, only_sentence: Any, tmp_path: Path, half: Path) -> None:
        path = tmp_path / "junk.pem"
        path.write_text("junk", encoding="ascii")
        assert "expected an Ed25519 private key" in only_sentence(cli("signing-key", "public", path), 1)
        said = only_sentence(cli("serve", "--model", half, "--address", "127.0.0.1:0", "--signing-key-file", path), 1)
        assert "expected an Ed25519 private key" in said

    def test_what_was_signed_verifies(self, cli: Any, key: tuple[Path, str], printed: str, tmp_path: Path) -> None:
        """With the key itself or a file of it; without it too, for who need not know."""
        (tmp_path / "public.txt").write_text(key[1] + "\n", encoding="ascii")
        for given in (key[1], tmp_path / "public.txt"):
            result = cli("verify", "-", "--public-key", given, "--json", stdin=printed)
            assert result.exit_code == 0
            assert [report["checked"][0] for report in json.loads(result.stdout)] == [
                f"It is signed with the public key {key[1]}."
            ] * 2
        result = cli("verify", "-", stdin=printed)
        assert result.exit_code == 0
        assert "signed" not in result.stdout

    def test_a_changed_digit(self, cli: Any, one_line: Any, key: tuple[Path, str], printed: str) -> None:
        """One that makes the certificate weaker passes without the key, and fails with it, in one sentence."""
        documents = json.loads(printed)
        documents[0]["radius"] *= 1 - 2**-50
        text = json.dumps(documents)
        assert cli("verify", "-", stdin=text).exit_code == 0
        result = cli("verify", "-", "--public-key", key[1], stdin=text)
        assert result.exit_code == 1
        assert result.stdout.count("DOES NOT HOLD: ") == 1
        assert f"fails: the signature is not that of the public key {key[1]} over these values" in one_line(
            result.stdout
        )

    def test_another_key_and_no_signature(self, cli: Any, key: tuple[Path, str], printed: str, tmp_path: Path) -> None:
        other = cli("signing-key", "new", tmp_path / "other.pem").stdout.strip()
        bare = [{k: v for k, v in document.items() if k != "signature"} for document in json.loads(printed)]
        for public, text, claim in (
            (other, printed, "the signature is not that of"),
            (key[1], json.dumps(bare), "it carries no signature"),
        ):
            result = cli("verify", "-", "--public-key", public, "--json", stdin=text)
            assert result.exit_code == 1
            for report in json.loads(result.stdout):
                (said,) = report["discrepancies"]
                assert claim in said

    @pytest.mark.parametrize("given", ["", "junk", "QUJD"])
    def test_what_is_no_public_key(self, cli: Any, only_sentence: Any, printed: str, given: str) -> None:
        said = only_sentence(cli("verify", "-", "--public-key", given, stdin=printed), 1)
        assert "expected an Ed25519 public key" in said
