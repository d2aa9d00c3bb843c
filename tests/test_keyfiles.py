"""Files that hold a secret: new ones only, whole ones only, and nobody else's to read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from certserve.keyfiles import create_keyfile, is_private, replace_keyfile


@pytest.fixture(autouse=True)
def generous() -> Iterator[None]:
    """A umask that lets everybody read what says nothing else."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_keyfile(path, b"secret")
    assert path.read_bytes() == b"secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert is_private(path)
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_keyfile(path, b"first")
    with pytest.raises(FileExistsError, match="another file"):
        create_keyfile(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_replaced_file_is_kept(tmp_path: Path) -> None:
    """And its permissions are corrected, if they were generous."""
    path, kept = tmp_path / "key", tmp_path / "old"
    path.write_bytes(b"first")
    assert not is_private(path)
    replace_keyfile(path, b"second", kept)
    assert (path.read_bytes(), kept.read_bytes()) == (b"second", b"first")
    assert is_private(path)
    assert is_private(kept)
    assert sorted(tmp_path.iterdir()) == [path, kept]


def test_a_replacement_that_fails_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_keyfile(tmp_path / "key", b"second", tmp_path / "old")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_what_others_can_read_is_not_private(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    create_keyfile(path, b"secret")
    path.chmod(mode)
    assert not is_private(path)
