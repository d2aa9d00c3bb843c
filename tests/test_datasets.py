"""Every kind of data set, from files made here; what does not fit is refused in a sentence, and no pickle runs code."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from certserve.datasets import Dataset, DatasetError, read
from certserve.images import Geometry

Bytes = npt.NDArray[np.uint8]
LABELS = np.array([3, 0, 9], np.uint8)
GREY = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
COLOUR = (np.arange(3 * 3072) % 251).astype(np.uint8).reshape(3, 3, 32, 32)


def idx_bytes(array: Bytes) -> bytes:
    """The array as an idx file."""
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, stem: str, images: Bytes, labels: Bytes, ending: str = "") -> None:
    """The two files of one split."""
    for name, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
        raw = idx_bytes(array)
        (folder / f"{stem}-{name}{ending}").write_bytes(gzip.compress(raw) if ending else raw)


def write_binary(path: Path, images: Bytes, labels: Bytes) -> None:
    """A CIFAR batch in the binary version."""
    path.write_bytes(np.concatenate([labels[:, None], images.reshape(-1, 3072)], axis=1).tobytes())


def write_pickle(path: Path, content: Any, protocol: int = 4) -> Path:
    """A pickle."""
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def batch(images: Bytes, labels: Bytes) -> dict[bytes, Any]:
    """What a CIFAR batch in the Python version holds."""
    return {b"data": images.reshape(-1, 3072), b"labels": labels.tolist(), b"batch_label": b"one"}


def python_2_pickle(pixels: bytes, label: int) -> bytes:
    """A batch of one image as Python 2 pickled it in 2009: protocol 2, byte strings, numpy.core."""

    def string(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    dtype = b"cnumpy\ndtype\n(" + string(b"u1") + b"K\0K\x01tR(K\x03" + string(b"|") + b"NNN" + 2 * b"J\xff\xff\xff\xff"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85" + string(b"b") + b"tR"
    data = string(b"data") + array + b"(K\x01K\x01M\0\x0c\x86" + dtype + b"K\0tb\x89" + string(pixels) + b"tb"
    return b"\x80\x02}(" + data + string(b"labels") + b"](K" + bytes([label]) + b"eu."


def holds(found: Dataset, images: npt.NDArray[Any], labels: npt.NDArray[Any], idx: list[int] | None = None) -> bool:
    """Whether the data set is these arrays."""
    assert [str(array.dtype) for array in (found.images, found.labels, found.idx)] == ["uint8", "int64", "int64"]
    assert found.images.flags.c_contiguous
    assert len(found) == len(images)
    return (
        np.array_equal(found.images, images)
        and np.array_equal(found.labels, labels)
        and found.idx.tolist() == (list(range(len(images))) if idx is None else idx)
    )


@pytest.mark.parametrize("ending", [".gz", ""])
def test_a_folder_of_idx_files_has_two_splits(tmp_path: Path, ending: str) -> None:
    write_idx(tmp_path, "t10k", GREY, LABELS, ending)
    write_idx(tmp_path, "train", GREY[:2] + 7, LABELS[:2], ending)
    assert holds(read([tmp_path]), GREY[:, None], LABELS)
    assert holds(read([tmp_path], split="train"), GREY[:2, None] + 7, LABELS[:2])


def test_a_cifar_batch_in_the_binary_version(tmp_path: Path) -> None:
    write_binary(tmp_path / "test_batch.bin", COLOUR, LABELS)
    assert holds(read([tmp_path / "test_batch.bin"]), COLOUR, LABELS)
    assert holds(read([tmp_path]), COLOUR, LABELS)


@pytest.mark.parametrize("binary", [True, False])
def test_the_five_training_batches_follow_each_other(tmp_path: Path, binary: bool) -> None:
    for k in range(1, 6):
        images, labels = COLOUR[:2] + np.uint8(k), np.array([k, 9 - k], np.uint8)
        if binary:
            write_binary(tmp_path / f"data_batch_{k}.bin", images, labels)
        else:
            write_pickle(tmp_path / f"data_batch_{k}", batch(images, labels))
    found = read([tmp_path], split="train")
    expected = np.concatenate([COLOUR[:2] + np.uint8(k) for k in range(1, 6)])
    assert holds(found, expected, np.array([1, 8, 2, 7, 3, 6, 4, 5, 5, 4]))


def test_a_cifar_batch_in_the_python_version(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "test_batch", batch(COLOUR, LABELS))
    assert holds(read([path]), COLOUR, LABELS)
    assert holds(read([tmp_path]), COLOUR, LABELS)


def test_a_cifar_batch_as_python_2_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "test_batch"
    path.write_bytes(python_2_pickle(COLOUR[1].tobytes(), 7))
    assert holds(read([path]), COLOUR[1:2], np.array([7]))


class Runs:
    """Pickled, it asks to be unpickled by a call of its choice."""

    def __init__(self, call: Callable[..., Any], argument: str) -> None:
        self.made = (call, (argument,))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return self.made


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("call", [os.system, eval, exec, open, np.load, np.fromfile, pickle.loads])
def test_a_pickle_of_anything_but_arrays_is_refused_and_runs_nothing(
    tmp_path: Path, call: Callable[..., Any], protocol: int
) -> None:
    mark = tmp_path / "mark"
    words = {os.system: f"touch {mark}", eval: f"open({str(mark)!r}, 'w')", exec: f"open({str(mark)!r}, 'w')"}
    content = {**batch(COLOUR, LABELS), b"more": Runs(call, words.get(call, str(mark)))}
    with pytest.raises(DatasetError, match="which is no array"):
        read([write_pickle(tmp_path / "test_batch", content, protocol)])
    assert not mark.exists()


def test_an_npz_archive_with_and_without_positions(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=COLOUR, y=LABELS)
    assert holds(read([path]), COLOUR, LABELS)
    np.savez_compressed(path, x=COLOUR, y=LABELS, idx=np.array([20, 0, 7], np.int32))
    assert holds(read([path]), COLOUR, LABELS, [20, 0, 7])
    np.savez(path, x=GREY, y=LABELS)
    assert holds(read([path]), GREY[:, None], LABELS)


def test_parts_follow_each_other(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=COLOUR, y=LABELS, idx=[4, 0, 2])
    np.savez(tmp_path / "b.npz", x=COLOUR[:2] + 1, y=LABELS[:2], idx=[1, 3])
    write_binary(tmp_path / "c.bin", COLOUR[:1], LABELS[:1])
    both = np.concatenate([COLOUR, COLOUR[:2] + 1])
    labels = np.concatenate([LABELS, LABELS[:2]])
    found = read([tmp_path / "a.npz", tmp_path / "b.npz"])
    assert holds(found, both, labels, [4, 0, 2, 1, 3])
    assert holds(found.where(found.idx % 2 == 0), COLOUR, LABELS, [4, 0, 2])
    renumbered = read([tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "c.bin"])
    assert renumbered.idx.tolist() == [0, 1, 2, 3, 4, 5]


def test_parts_of_different_shapes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=COLOUR, y=LABELS)
    np.savez(tmp_path / "b.npz", x=GREY, y=LABELS)
    with pytest.raises(DatasetError, match=r"\(1, 4, 5\)"):
        read([tmp_path / "a.npz", tmp_path / "b.npz"])


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "expected an idx file"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "expected an idx file"),
        (b"\0\0\x08\x03\0\0", "expected an idx file"),
        (idx_bytes(GREY)[:-1], "bytes after the header, found 59"),
        (idx_bytes(GREY) + b"\0", "bytes after the header, found 61"),
        (idx_bytes(GREY[:2]), "2 images, 3 labels"),
        (idx_bytes(LABELS), "expected uint8 images"),
    ],
)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_an_idx_file_that_is_none_is_refused(tmp_path: Path, raw: bytes, said: str, ending: str) -> None:
    write_idx(tmp_path, "t10k", GREY, LABELS, ending)
    (tmp_path / f"t10k-images-idx3-ubyte{ending}").write_bytes(gzip.compress(raw) if ending else raw)
    with pytest.raises(DatasetError, match=said):
        read([tmp_path])


@pytest.mark.parametrize(
    "raw",
    [b"no gzip", gzip.compress(idx_bytes(GREY))[:-9], gzip.compress(b"")[:5]],
    ids=["no gzip", "cut short", "header cut short"],
)
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, raw: bytes) -> None:
    write_idx(tmp_path, "t10k", GREY, LABELS, ".gz")
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(raw)
    with pytest.raises(DatasetError, match="expected a gzip file"):
        read([tmp_path])


def test_labels_of_another_rank_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, "t10k", GREY, GREY)
    with pytest.raises(DatasetError, match="one label and one position an image"):
        read([tmp_path])


def test_a_folder_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, "t10k", GREY, LABELS)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    for split in ("train", "test"):
        with pytest.raises(DatasetError, match=f"expected the {split} images and labels"):
            read([tmp_path], split=split)


@pytest.mark.parametrize("length", [0, 3072, 3074])
def test_a_binary_batch_of_broken_records_is_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "batch.bin").write_bytes(bytes(length))
    with pytest.raises(DatasetError, match=f"records of 3073 bytes, found {length}"):
        read([tmp_path / "batch.bin"])


@pytest.mark.parametrize(
    "content",
    [
        {b"data": COLOUR.reshape(-1, 3072)},
        {b"data": COLOUR.reshape(-1, 3072), b"labels": [1, 2]},
        {b"data": COLOUR.reshape(-1, 3072).astype(np.float64), b"labels": [1, 2, 3]},
        {b"data": COLOUR.reshape(-1, 3072)[:, 1:], b"labels": [1, 2, 3]},
        {b"data": [1, 2], b"labels": [1, 2]},
        {b"data": COLOUR.reshape(-1, 3072), b"labels": "abc"},
        {b"data": COLOUR.reshape(-1, 3072), b"labels": 7},
        [1, 2],
        7,
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DatasetError, match="expected"):
        read([write_pickle(tmp_path / "batch", content)])


@pytest.mark.parametrize("raw", [b"", b"hello", pickle.dumps(batch(COLOUR, LABELS), 4)[:-40]])
def test_a_file_of_no_kind_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "thing").write_bytes(raw)
    with pytest.raises(DatasetError, match=r"expected a CIFAR-10 batch, an \.npz file or a folder"):
        read([tmp_path / "thing"])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": COLOUR}, r"\['y'\] are missing"),
        ({"x": COLOUR, "y": LABELS[:2]}, "3 images, 2 labels, 3 positions"),
        ({"x": COLOUR, "y": LABELS, "idx": [1, 2]}, "3 images, 3 labels, 2 positions"),
        ({"x": COLOUR, "y": LABELS, "idx": [1, 2, 1]}, "positions that occur once each"),
        ({"x": COLOUR, "y": np.eye(3, dtype=np.uint8)}, "one label and one position an image"),
        ({"x": COLOUR / 255.0, "y": LABELS}, "expected uint8 images .* float64"),
        ({"x": np.array(7, np.uint8), "y": LABELS}, "expected an .npz file"),
        ({"x": COLOUR, "y": np.array([1, None, "a"], object)}, "expected an .npz file"),
    ],
)
def test_an_npz_archive_of_something_else_is_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(DatasetError, match=said):
        read([tmp_path / "data.npz"])


@pytest.mark.parametrize("kept", [0, 1, 2, 500])
def test_a_damaged_npz_archive_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=COLOUR, y=LABELS)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DatasetError, match=r"expected an \.npz file"):
        read([path])


def test_what_is_not_there_and_what_is_not_asked_for(tmp_path: Path) -> None:
    for name in ("none", "none.npz", "none.bin"):
        with pytest.raises(FileNotFoundError, match=name):
            read([tmp_path / name])
    with pytest.raises(DatasetError, match="train or test, not 'validation'"):
        read([tmp_path], split="validation")
    with pytest.raises(DatasetError, match="at least one path"):
        read([])


def test_the_real_fashion_mnist(shared_data: Path) -> None:
    found = read([shared_data / "fashion-mnist"])
    assert found.images.shape == (10_000, 1, 28, 28)
    assert found.labels[0] == 9
    assert np.bincount(found.labels).tolist() == [1000] * 10


def test_the_real_cifar10(shared_data: Path) -> None:
    found = read([shared_data / "cifar10" / "cifar10_test_a.npz"])
    assert found.images.shape == (5_000, 3, 32, 32)
    assert len(np.unique(found.idx)) == 5_000
    assert 0 <= found.idx.min() <= found.idx.max() < 10_000


def test_arrays_are_turned_round_for_models_that_take_blue_first(tmp_path: Path) -> None:
    """Fails if a bgr model is shown RGB arrays: published data sets have red first."""
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    np.savez(tmp_path / "data.npz", x=images, y=np.array([0, 1]))
    rgb = read([tmp_path / "data.npz"], geometry=Geometry(3, 4, 4, "rgb"))
    bgr = read([tmp_path / "data.npz"], geometry=Geometry(3, 4, 4, "bgr"))
    assert np.array_equal(rgb.images, images)
    assert np.array_equal(bgr.images, images[:, ::-1])
