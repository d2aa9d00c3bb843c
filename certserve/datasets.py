"""Images and labels on disk -> arrays: idx files, CIFAR batches, npz archives, a folder of images with a CSV.

Pickled CIFAR batches are read by an unpickler that knows numpy arrays and nothing else.
"""

from __future__ import annotations

import csv
import gzip
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from certserve.images import EncodedImage, Geometry, ImageError, ImageFit, Limits, decode, read_header

__all__ = ["Dataset", "DatasetError", "read"]

_CIFAR_RECORD = 3 * 32 * 32
_GREY_MODES = ("1", "L", "LA")


class DatasetError(ValueError):
    """A data set that cannot be read; one sentence that says what was expected."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled images.

    Attributes:
        images: uint8, (count, channels, height, width). labels: int64, (count,).
        idx: int64, (count,): each image's position in the data set as published; its own position by default.
        classes: their names, in the order of the labels, where the data say them; else empty.

    Raises:
        DatasetError: the three do not fit together.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    idx: npt.NDArray[np.int64]
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            found = f"{self.images.dtype} {self.images.shape}"
            raise DatasetError(f"expected uint8 images (count, channels, height, width), not {found}")
        if self.labels.ndim != 1 or self.idx.ndim != 1:
            raise DatasetError("expected one label and one position an image, not arrays of them")
        if not len(self.images) == len(self.labels) == len(self.idx):
            counts = f"{len(self.images)} images, {len(self.labels)} labels, {len(self.idx)} positions"
            raise DatasetError(f"expected one label and one position an image, not {counts}")
        if len(np.unique(self.idx)) < len(self.idx):
            raise DatasetError("expected positions that occur once each")

    def __len__(self) -> int:
        return len(self.images)

    def check(self, shape: tuple[int, int, int], classes: Sequence[str]) -> None:
        """Return if these are images of `shape`, labelled 0..len(classes) - 1.

        Raises:
            DatasetError: they are not; the first that is not.
        """
        if self.images.shape[1:] != shape:
            raise DatasetError(f"expected images (channels, height, width) of {shape}, not {self.images.shape[1:]}")
        outside = np.flatnonzero((self.labels < 0) | (self.labels >= len(classes)))
        if len(outside):
            i = int(outside[0])
            raise DatasetError(
                f"image {self.idx[i]} has the label {self.labels[i]}, but labels go from 0 to {len(classes) - 1}; "
                "correct it, or name every class"
            )

    def where(self, chosen: npt.NDArray[np.bool_]) -> Dataset:
        """The images whose entry in `chosen`, (count,), is true."""
        return Dataset(self.images[chosen], self.labels[chosen], self.idx[chosen], self.classes)


def read(
    paths: Sequence[Path], *, split: str = "test", geometry: Geometry | None = None, classes: Sequence[str] = ()
) -> Dataset:
    """The data set in one or more places, put together in order.

    Args:
        paths: each an .npz file with `x`, `y` and perhaps `idx`; a folder with idx.gz or CIFAR files; a CIFAR batch
            (.bin, or the Python version); or a folder of images with a CSV file of the columns file and label.
        split: "train" or "test": which part of a folder that holds both.
        geometry: what the model expects: a folder of images is resized and cropped to it, without one its images
            must be of one size; arrays are taken as RGB and turned round where its colour is "bgr".
        classes: names in the order of the labels, for a CSV file whose labels are names. Without them such names
            are numbered in alphabetical order.

    Raises:
        DatasetError: a path holds none of these, or the parts do not fit together.
        OSError: a file cannot be read.
    """
    if split not in ("train", "test"):
        raise DatasetError(f"split must be train or test, not {split!r}")
    parts = [_read_one(path, split, geometry, classes) for path in paths]
    if not parts:
        raise DatasetError("expected at least one path")
    if len({part.images.shape[1:] for part in parts}) > 1:
        raise DatasetError(f"the parts hold images of {[part.images.shape[1:] for part in parts]}")
    names = {part.classes for part in parts if part.classes or not classes}  # numbers are in the given order too
    if len(names) > 1:
        raise DatasetError(f"the parts name different classes: {[list(part.classes) for part in parts]!r:.200}")
    if len(parts) == 1:
        return parts[0]
    idx = np.concatenate([part.idx for part in parts])
    if len(np.unique(idx)) < len(idx):  # the parts count from 0 each
        idx = np.arange(len(idx))
    images, labels = np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts])
    return Dataset(images, labels, idx, next(iter(names), ()))


def _read_one(path: Path, split: str, geometry: Geometry | None, classes: Sequence[str]) -> Dataset:
    found = _read_folder(path, split) if path.is_dir() else _read_file(path)
    if found is None:
        tables = sorted(path.glob("*.csv"))
        if len(tables) == 1:
            return _read_images(path, tables[0], geometry, classes)
        raise DatasetError(
            f"{path}: expected the {split} images and labels as idx.gz files or CIFAR batches, or images with one "
            f"CSV file; there are {len(tables)} of those"
        )
    if geometry is not None and geometry.colour == "bgr" and found.images.shape[1] == 3:
        return Dataset(np.ascontiguousarray(found.images[:, ::-1]), found.labels, found.idx)
    return found


def _read_file(path: Path) -> Dataset:
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".bin":
        return _numbered(*_cifar_binary(path))
    return _numbered(*_cifar_python(path))


def _read_folder(folder: Path, split: str) -> Dataset | None:
    """The published arrays in a folder; None where it holds none."""
    stem = "train" if split == "train" else "t10k"
    for ending in (".gz", ""):
        files = [folder / f"{stem}-{kind}{ending}" for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
        if all(file.exists() for file in files):
            images, labels = (_idx(file) for file in files)
            return _numbered(images[:, None], labels)
    names = [f"data_batch_{k}" for k in range(1, 6)] if split == "train" else ["test_batch"]
    for ending, reader in ((".bin", _cifar_binary), ("", _cifar_python)):
        batches = [folder / f"{name}{ending}" for name in names]
        if all(batch.exists() for batch in batches):
            parts = [reader(batch) for batch in batches]
            return _numbered(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))
    return None


def _numbered(images: npt.NDArray[np.uint8], labels: npt.NDArray[Any]) -> Dataset:
    return Dataset(np.ascontiguousarray(images), labels.astype(np.int64), np.arange(len(images)))


def _read_npz(path: Path) -> Dataset:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = {"x", "y"} - set(arrays.files)
            if missing:
                raise DatasetError(f"{path}: expected the arrays x and y; {sorted(missing)} are missing")
            images, labels = arrays["x"], arrays["y"].astype(np.int64)
            idx = arrays["idx"].astype(np.int64) if "idx" in arrays.files else np.arange(len(images))
    except DatasetError:
        raise
    except (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, EOFError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: expected an .npz file: {error}") from error
    return Dataset(images[:, None] if images.ndim == 3 else images, labels, idx)


def _idx(path: Path) -> npt.NDArray[np.uint8]:
    """An idx file of unsigned bytes, in its own shape (LeCun's format: two zeros, type 8, rank, lengths)."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DatasetError(f"{path}: expected a gzip file: {error}") from error
    head = 4 + 4 * raw[3] if len(raw) >= 4 else 4
    if len(raw) < head or raw[:3] != b"\x00\x00\x08":
        raise DatasetError(f"{path}: expected an idx file of unsigned bytes")
    shape = struct.unpack(f">{raw[3]}I", raw[4:head])
    if len(raw) - head != int(np.prod(shape)):
        raise DatasetError(f"{path}: expected {shape} bytes after the header, found {len(raw) - head}")
    return np.frombuffer(raw, dtype=np.uint8, offset=head).reshape(shape)


def _cifar_binary(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """Records of one label byte and 3,072 pixels, red plane first."""
    raw = np.fromfile(path, dtype=np.uint8)
    if not raw.size or raw.size % (_CIFAR_RECORD + 1):
        raise DatasetError(f"{path}: expected records of {_CIFAR_RECORD + 1} bytes, found {raw.size} bytes")
    records = raw.reshape(-1, _CIFAR_RECORD + 1)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def _cifar_python(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="bytes").load()
        pixels, labels = batch[b"data"], batch[b"labels"]
        return pixels.reshape(-1, 3, 32, 32), np.asarray(labels, dtype=np.int64)
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise DatasetError(f"{path}: expected a CIFAR-10 batch, an .npz file or a folder: {error}") from error


class _ArraysOnly(pickle.Unpickler):
    """Refuses everything but what a pickled numpy array is made of."""

    def find_class(self, module: str, name: str) -> Any:
        known = {"_reconstruct": np.zeros(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in known:
            return known[name]
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no array")


def _read_images(folder: Path, table: Path, geometry: Geometry | None, classes: Sequence[str]) -> Dataset:
    """Images named by the CSV's column `file`, labelled by its column `label` (a number, or a class's name)."""
    with table.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines))
    if not rows or not {"file", "label"} <= set(rows[0]):
        raise DatasetError(f"{table}: expected the columns file and label")
    if not all(row["file"] for row in rows):
        raise DatasetError(f"{table}: expected an image's file name in every row")
    encoded = {row["file"]: EncodedImage((folder / row["file"]).read_bytes()) for row in rows}
    geometry = geometry or _common_geometry(folder, encoded)
    images = []
    for row in rows:
        try:
            images.append(decode(encoded[row["file"]], geometry, ImageFit.RESIZE_CROP, Limits()))
        except ImageError as error:
            raise DatasetError(f"{folder / row['file']}: {error}") from error
    texts = [(row["label"] or "").strip() for row in rows]
    for row, text in zip(rows, texts, strict=True):
        if not text:
            raise DatasetError(f"{folder / row['file']}: expected a label, a number or a class's name, not nothing")
    named = not classes and not all(map(_is_number, texts))
    names = tuple(sorted(set(texts))) if named else tuple(classes)
    labels = [_label(folder / row["file"], text, names) for row, text in zip(rows, texts, strict=True)]
    found = _numbered(np.stack(images), np.asarray(labels))
    return Dataset(found.images, found.labels, found.idx, names)


def _common_geometry(folder: Path, encoded: Mapping[str, EncodedImage]) -> Geometry:
    """The size that all the images have, grey if none of them has colours."""
    headers = {}
    for name, image in encoded.items():
        try:
            headers[name] = read_header(image.data)
        except ImageError as error:
            raise DatasetError(f"{folder / name}: {error}") from error
    sizes = {header.size: name for name, header in headers.items()}
    if len(sizes) > 1:
        some = ", ".join(f"{name} has {width}x{height} pixels" for (width, height), name in list(sizes.items())[:2])
        raise DatasetError(f"{folder}: the images are of {len(sizes)} sizes ({some}); say which they shall be "
                           "resized and cropped to (--shape channels,height,width)")  # fmt: skip
    (width, height), grey = next(iter(sizes)), all(header.mode in _GREY_MODES for header in headers.values())
    return Geometry(1, height, width, "grey") if grey else Geometry(3, height, width, "rgb")


def _label(image: Path, text: str, classes: Sequence[str]) -> int:
    if text in classes:
        return list(classes).index(text)
    if not _is_number(text):
        expected = f"one of {', '.join(classes)}" if classes else "a number"
        raise DatasetError(f"{image}: expected a label, {expected:.200}, not {text!r:.50}")
    return int(text)


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and len(text) < 19  # an int64
