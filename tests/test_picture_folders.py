"""Folders of pictures with a table: sizes, colours, labels that are numbers or names, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from certserve.datasets import Dataset, DatasetError, read
from certserve.images import Geometry

LABELS = np.array([3, 0, 9], np.uint8)
GREY = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)


def holds(found: Dataset, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> bool:
    """Whether the data set is these arrays, numbered from 0."""
    assert [str(array.dtype) for array in (found.images, found.labels, found.idx)] == ["uint8", "int64", "int64"]
    assert found.idx.tolist() == list(range(len(images)))
    return np.array_equal(found.images, images) and np.array_equal(found.labels, labels)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of three PNG files, one of another size, with a table."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, image in enumerate(GREY):
        Image.fromarray(image).save(folder / f"{i}.png")
    Image.new("L", (10, 8), 77).save(folder / "2.png")
    (folder / "labels.csv").write_text("who,file,label\nme,2.png,5\nme,0.png,1\n", encoding="utf-8")
    return folder


def table(folder: Path, *rows: str) -> None:
    """Write the folder's table of files and labels."""
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows]), encoding="utf-8")


def test_a_folder_of_pictures_is_its_table_in_order(pictures: Path) -> None:
    found = read([pictures], geometry=Geometry(1, 4, 5, "grey"))
    assert holds(found, np.stack([np.full((1, 4, 5), 77), GREY[:1]]), np.array([5, 1]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,class\n0.png,1\n", "columns file and label"),
        ("file,label\n", "columns file and label"),
        ("", "columns file and label"),
        ("file,label\n0.png,\n", "0.png: expected a label, a number or a class's name, not nothing"),
        ("file,label\n0.png\n", "0.png: expected a label"),
        ("file,label\n0.png,shoe\n2.png, \n", "2.png: expected a label"),
        ("label,file\n7,0.png\n7\n", "an image's file name in every row"),
        ("label,file\n7,\n", "an image's file name in every row"),
        ("file,label\nlabels.csv,1\n", "labels.csv: "),
    ],
)
def test_a_folder_of_pictures_needs_a_whole_table(pictures: Path, text: str, said: str) -> None:
    (pictures / "labels.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=said):
        read([pictures], geometry=Geometry(1, 4, 5, "grey"))


def test_a_folder_of_pictures_needs_one_table(pictures: Path) -> None:
    (pictures / "other.csv").write_text("file,label\n0.png,1\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="images with one CSV file"):
        read([pictures], geometry=Geometry(1, 4, 5, "grey"))


def test_pictures_of_several_sizes_need_a_geometry(pictures: Path) -> None:
    with pytest.raises(DatasetError, match=r"of 2 sizes \(2.png has 10x8 pixels, 0.png has 5x4 pixels\).*--shape"):
        read([pictures])


@pytest.mark.parametrize(("mode", "shape"), [("L", (1, 4, 5)), ("1", (1, 4, 5)), ("LA", (1, 4, 5)), ("P", (3, 4, 5))])
def test_pictures_of_one_size_need_no_geometry(pictures: Path, mode: str, shape: tuple[int, ...]) -> None:
    """They are grey where none of them has colours."""
    for i in (0, 1):
        Image.open(pictures / f"{i}.png").convert(mode).save(pictures / f"{i}.png")
    table(pictures, "0.png,1", "1.png,0")
    found = read([pictures])
    assert found.images.shape == (2, *shape)
    if mode == "L":
        assert np.array_equal(found.images, GREY[:2, None])


def test_one_picture_with_colours_makes_all_of_them_rgb(pictures: Path) -> None:
    red = np.zeros((4, 5, 3), np.uint8)
    red[..., 0] = 200
    Image.fromarray(red).save(pictures / "1.png")
    table(pictures, "0.png,1", "1.png,0")
    assert holds(read([pictures]), np.stack([GREY[:1].repeat(3, 0), red.transpose(2, 0, 1)]), np.array([1, 0]))


def test_a_picture_that_is_none_is_named_without_a_geometry_too(pictures: Path) -> None:
    table(pictures, "0.png,1", "labels.csv,0")
    with pytest.raises(DatasetError, match=r"labels\.csv: "):
        read([pictures])


@pytest.mark.parametrize(
    ("labels", "classes", "numbers", "named"),
    [
        ("shoe bag shoe", (), [1, 0, 1], ("bag", "shoe")),
        ("10 9 x", (), [0, 1, 2], ("10", "9", "x")),
        ("10 9 -1", (), [10, 9, -1], ()),
        ("shoe bag shoe", ("shoe", "coat", "bag"), [0, 2, 0], ("shoe", "coat", "bag")),
        ("shoe 1 -1", ("shoe", "coat"), [0, 1, -1], ("shoe", "coat")),
        ("7 3 7", ("7", "5", "3"), [0, 2, 0], ("7", "5", "3")),
    ],
)
def test_labels_are_numbers_or_names(
    pictures: Path, labels: str, classes: tuple[str, ...], numbers: list[int], named: tuple[str, ...]
) -> None:
    """Names are numbered in alphabetical order, or in the order that is given; a class's name comes first."""
    table(pictures, *(f"{i}.png, {label} " for i, label in zip((0, 1, 0), labels.split(), strict=True)))
    found = read([pictures], classes=classes)
    assert holds(found, GREY[[0, 1, 0], None], np.array(numbers))
    assert found.classes == named
    assert found.where(found.labels == numbers[1]).classes == named


@pytest.mark.parametrize("label", ["boot", "1.5", "--1", "9" * 30])
def test_a_label_that_is_no_class_is_refused_with_those_there_are(pictures: Path, label: str) -> None:
    table(pictures, "0.png,shoe", f"1.png,{label}")
    with pytest.raises(DatasetError, match=f"1.png: expected a label, one of shoe, bag, not '{label}'"):
        read([pictures], classes=("shoe", "bag"))


def test_names_are_put_together_with_the_same_names_only(pictures: Path, tmp_path: Path) -> None:
    table(pictures, "0.png,shoe", "1.png,bag")
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(GREY[2]).save(other / "2.png")
    table(other, "2.png,bag")
    np.savez(tmp_path / "data.npz", x=GREY, y=LABELS)
    for second in (other, tmp_path / "data.npz"):
        with pytest.raises(DatasetError, match=r"the parts name different classes: .*\['bag', 'shoe'\]"):
            read([pictures, second])
    both = read([pictures, other, tmp_path / "data.npz"], classes=("bag", "shoe"))
    assert both.labels.tolist() == [1, 0, 0, *LABELS.tolist()]
    assert both.classes == ("bag", "shoe")
    table(other, "2.png,shoe", "2.png,bag")
    assert read([pictures, other]).labels.tolist() == [1, 0, 1, 0]


def test_a_picture_that_is_not_there_is_an_os_error(pictures: Path) -> None:
    (pictures / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"0\.png"):
        read([pictures], geometry=Geometry(1, 4, 5, "grey"))
