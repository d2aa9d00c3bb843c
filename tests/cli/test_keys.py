"""`certserve secret`: files that are made, replaced and named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from certserve.noise.keystream import Secret


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
