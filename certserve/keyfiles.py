"""Files that hold a secret: made once, for their owner alone to read, and never overwritten."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["create_keyfile", "is_private", "replace_keyfile"]


def create_keyfile(path: Path, content: bytes) -> None:
    """Write a new file; whoever sees it sees the whole of it.

    Raises:
        FileExistsError: there is a file; it stays as it is.
        OSError: it cannot be written.
    """
    with _beside(path, content) as fresh:
        try:
            os.link(fresh, path)
        except FileExistsError as error:
            raise FileExistsError(f"{path} is there already; name another file, for it may be in use") from error


def replace_keyfile(path: Path, content: bytes, kept: Path) -> None:
    """Write `content` in the place of a file, which becomes `kept`; at every moment there is a whole one.

    Raises:
        OSError: it cannot be written; the file is as it was.
    """
    with _beside(path, content) as fresh:
        with contextlib.suppress(FileExistsError):  # an earlier attempt got as far as this
            os.link(path, kept)
        kept.chmod(0o600)
        fresh.rename(path)


def is_private(path: Path) -> bool:
    """Whether no other user of this machine may read it."""
    return not path.stat().st_mode & 0o077


@contextmanager
def _beside(path: Path, content: bytes) -> Iterator[Path]:
    """A file with that content, on the disk, beside where it is to be; gone at the end if it is still there."""
    fresh = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield fresh
    finally:
        fresh.unlink(missing_ok=True)
