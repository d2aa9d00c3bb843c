"""Bundles to and from a directory: written all or nothing, read with every digest checked.

Files are opened only under plain names inside the directory; no link leads out of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from certserve.bundle.description import CHANNELS, MANIFEST, Bundle, Defaults, Execution
from certserve.bundle.magnet import Magnet
from certserve.bundle.manifest import interpret, render
from certserve.errors import BundleError

__all__ = ["extend", "read", "write"]


def read(path: Path) -> Bundle:
    """The bundle in a directory, once all of it has been checked, the digest of every file included.

    Raises:
        BundleError: it is incomplete, damaged, altered or not understood; one sentence that says what to do.
    """
    try:
        bundle = interpret(_manifest(path), path)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error.__cause__
    for name, digest in bundle.digests.items():
        if _digest_of(path, name) != digest:
            raise BundleError(f"{path / name} does not match its digest; the bundle is damaged or was altered, "
                              "so fetch or create it again")  # fmt: skip
    return bundle


def write(
    directory: Path,
    files: Mapping[str, bytes],
    *,
    name: str,
    labels: Sequence[str],
    shape: tuple[int, int, int],
    sigmas: Sequence[float],
    executions: Sequence[Execution],
    colour: str | None = None,
    resize: int | None = None,
    version: str = "1",
    description: str = "",
    defaults: Defaults | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Bundle:
    """Store a bundle in a new directory, all of it or nothing; `read` gives the same bundle again.

    Args:
        directory: must not exist, or be empty. files: name -> contents.
        colour: default "grey" for one channel, "rgb" for three.
        defaults: default sigma the first of `sigmas`, and the rest as in `Defaults`.
        The rest as in `Bundle`.

    Raises:
        BundleError: a value is out of its range, or the directory cannot be written.
    """
    offered = tuple(float(sigma) for sigma in sigmas)
    if not offered:
        raise BundleError("sigmas must be one or more positive numbers; say what noise the model was trained for")
    bundle = Bundle(
        path=directory,
        name=name,
        version=version,
        description=description,
        labels=tuple(labels),
        shape=shape,
        colour=_colour_of(shape[0]) if colour is None else colour,
        resize=resize,
        sigmas=offered,
        defaults=defaults or Defaults(offered[0]),
        executions=tuple(executions),
        digests={file: hashlib.sha256(contents).hexdigest() for file, contents in files.items()},
        provenance=dict(provenance or {}),
    )
    manifest = render(bundle)
    interpret(manifest, directory)  # what `read` would refuse is not written
    _store(directory, {**files, MANIFEST: manifest})
    return read(directory)


def extend(
    path: Path,
    files: Mapping[str, bytes],
    executions: Sequence[Execution],
    provenance: Mapping[str, str],
    *,
    magnet: Magnet | None = None,
) -> Bundle:
    """Add executions to a bundle, in front of its others, with their files; what has the same name is replaced.

    A `magnet` takes the place of the one that was there, whose files go. A complete new directory, with whatever else
    was in the old one, takes the old one's place.

    Raises:
        BundleError: as `read` and `write`.
    """
    old = read(path)
    target = path.resolve()
    names = {execution.name for execution in executions}
    used = [*executions, *(execution for execution in old.executions if execution.name not in names)]
    gone = set(old.magnet.files) - set(files) if magnet and old.magnet else set()
    kept = {name: digest for name, digest in old.digests.items() if name not in gone}
    new = dataclasses.replace(
        old,
        executions=tuple(used),
        digests={**kept, **{name: hashlib.sha256(contents).hexdigest() for name, contents in files.items()}},
        provenance={**old.provenance, **provenance},
        magnet=magnet or old.magnet,
    )
    manifest = render(new)
    interpret(manifest, path)
    staging, aside = (target.with_name(f".{target.name}.{secrets.token_hex(8)}") for _ in range(2))
    try:
        if target == Path.cwd():
            raise BundleError(f"{path} is the current directory; go to another one first")
        shutil.copytree(target, staging, ignore=lambda folder, _: gone if Path(folder) == target else set())
        for name, contents in {**files, MANIFEST: manifest}.items():
            (staging / name).write_bytes(contents)
        read(staging)
        target.rename(aside)
        staging.rename(target)
    except OSError as error:
        raise BundleError(f"{path} cannot be written ({error.strerror}); nothing was changed") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)
    return read(path)


def _colour_of(channels: int) -> str:
    for colour, expected in CHANNELS.items():
        if channels == expected:
            return colour
    raise BundleError(f"images have 1 (grey) or 3 (rgb) channels; a model with {channels} cannot be served")


def _digest_of(directory: Path, name: str) -> str:
    """A file's SHA-256.

    Raises:
        BundleError: it is missing, unreadable, or a link that leaves the directory.
    """
    path = directory / name
    try:
        if not path.resolve().is_relative_to(directory.resolve()):
            raise BundleError(f"{path} is a link that leaves the bundle; put a copy of the file there")
        if not path.is_file():
            raise BundleError(f"{path} is missing, or no plain file; fetch or create the bundle again")
        with path.open("rb") as contents:
            return hashlib.file_digest(contents, "sha256").hexdigest()
    except (OSError, RuntimeError) as error:  # RuntimeError: links that go round in a circle, before Python 3.13
        raise BundleError(f"{path} cannot be read ({error}); fetch or create the bundle again") from error


def _manifest(path: Path) -> bytes:
    if not path.is_dir():
        raise BundleError("there is no such directory; give the path of a bundle, or create it first")
    try:
        return (path / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"has no {MANIFEST}, so it is no bundle; give the path of one, or create it") from error
    except OSError as error:
        raise BundleError(f"{MANIFEST} cannot be read ({error.strerror}); correct its permissions") from error


def _store(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write the files beside the directory, then give them its name: a reader never sees half a bundle."""
    target = directory.resolve()
    staging = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        if target == Path.cwd():
            raise BundleError(f"{directory} is the current directory; name a new one, and it will be made")
        if target.exists() and any(target.iterdir()):
            raise BundleError(f"{directory} is not empty; choose another directory, or remove it first")
        target.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
        for name, contents in files.items():
            (staging / name).write_bytes(contents)
        staging.rename(target)
    except OSError as error:
        raise BundleError(f"{directory} cannot be written ({error.strerror}); choose another directory") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
