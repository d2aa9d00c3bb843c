"""The split, the batches and the statistics; every one of them a function of the seed."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")

from certserve.datasets import Dataset, DatasetError  # noqa: E402 (after the check that torch is there)
from certserve.training import examples  # noqa: E402
from certserve.training.examples import Examples, digest, mean_and_std, noisy_batch, order_of_epoch, split  # noqa: E402
from certserve.training.recipe import Recipe  # noqa: E402

Pixels = npt.NDArray[np.uint8]

CPU = torch.device("cpu")
NO_NOISE = Recipe(1e-6, shift=0, flip=False)  # far less than a level of a pixel


def pixels(count: int, channels: int = 2, side: int = 5) -> Pixels:
    """Images that differ in every pixel from their shifted and mirrored selves; no pixel is black."""
    shape = (count, channels, side, side)
    return (1 + 37 * np.arange(np.prod(shape)) ** 2 % 251).astype(np.uint8).reshape(shape)


def labelled(*counts: int) -> Dataset:
    """So many images of each class, in mixed order, under positions of their own."""
    labels = np.repeat(np.arange(len(counts)), counts)
    mixed = np.argsort(7 * np.arange(len(labels)) % 11, kind="stable")
    return Dataset(pixels(len(labels)), labels[mixed], 1000 - np.arange(len(labels)))


def levels(batch: Any) -> Pixels:
    """The pixels of a batch whose noise rounds to nothing."""
    found: Pixels = (batch * 255).round().to(torch.uint8).numpy()
    return found


@pytest.mark.parametrize(("share", "held"), [(0.1, [4, 2, 1]), (0.5, [20, 10, 2]), (0.001, [1, 1, 1])])
def test_each_class_gives_its_share_and_nothing_is_lost(share: float, held: list[int]) -> None:
    data = labelled(40, 20, 3)
    training, held_out = split(data, "abc", Recipe(0.25, held_out=share))
    assert [int((held_out.labels == label).sum()) for label in range(3)] == held
    assert sorted([*training.idx, *held_out.idx]) == sorted(data.idx)
    by_idx = {
        idx: (image.tobytes(), label) for idx, image, label in zip(data.idx, data.images, data.labels, strict=True)
    }
    for part in (training, held_out):
        for idx, image, label in zip(part.idx, part.images, part.labels, strict=True):
            assert by_idx[idx] == (image.tobytes(), label)


def test_the_split_is_the_seeds() -> None:
    data = labelled(40, 20, 3)
    held_out = [split(data, "abc", Recipe(0.25, seed=seed))[1].idx.tolist() for seed in (0, 0, 1)]
    assert held_out[0] == held_out[1] != held_out[2]
    assert held_out[0] == split(data, "abc", Recipe(0.5, epochs=1, batch=1))[1].idx.tolist()


def test_of_many_images_no_more_are_held_out_than_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "_LARGEST_HELD_OUT", 12)
    assert len(split(labelled(80, 40), "ab", Recipe(0.25, held_out=0.5))[1]) == 12
    assert len(split(labelled(16, 8), "ab", Recipe(0.25, held_out=0.25))[1]) == 6


@pytest.mark.parametrize("wrong", [-1, 2])
def test_a_label_out_of_range_is_refused_by_its_image(wrong: int) -> None:
    data = labelled(4, 4)
    data.labels[5] = wrong
    with pytest.raises(
        DatasetError,
        match=f"^image 995 has the label {wrong}, but labels go from 0 to 1; correct it",
    ):
        split(data, "ab", Recipe(0.25))


@pytest.mark.parametrize("count", [0, 1])
def test_a_class_without_an_image_for_each_part_is_refused_by_name(count: int) -> None:
    with pytest.raises(DatasetError, match=rf"^the class 1 \(owl\) has {count} images; two at least are needed"):
        split(labelled(4, count, 4), ("cat", "owl", "dog"), Recipe(0.25))
    split(labelled(4, 2, 4), ("cat", "owl", "dog"), Recipe(0.25))


def test_no_images_at_all_are_refused() -> None:
    with pytest.raises(DatasetError, match="there are none"):
        split(labelled(0, 0), "ab", Recipe(0.25))


def test_the_digest_is_of_images_labels_and_shape() -> None:
    data = labelled(4, 4)
    other = Dataset(data.images.copy(), data.labels.copy(), data.idx + 7, ("a", "b"))
    assert digest(data) == digest(other)
    other.images[3, 1, 4, 4] ^= 1
    relabelled = Dataset(data.images, 1 - data.labels, data.idx)
    reshaped = Dataset(data.images.reshape(8, 1, 10, 5), data.labels, data.idx)
    assert len({digest(one) for one in (data, other, relabelled, reshaped)}) == 4


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_std_are_those_of_the_pixels(channels: int) -> None:
    data = Dataset(pixels(9, channels), np.zeros(9, np.int64), np.arange(9))
    data.images[:, 0] //= 2
    mean, std = mean_and_std(data)
    scaled = data.images.astype(np.float64) / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)), abs=0.5001e-4)
    assert std == pytest.approx(scaled.std((0, 2, 3)), abs=0.5001e-4)


def test_the_std_of_images_of_one_colour_can_be_divided_by() -> None:
    data = Dataset(np.full((3, 1, 2, 2), 51, np.uint8), np.zeros(3, np.int64), np.arange(3))
    assert mean_and_std(data) == ((0.2,), (0.01,))


def test_an_epoch_takes_every_image_once_in_an_order_of_its_own() -> None:
    recipe = Recipe(0.25)
    orders = [order_of_epoch(50, recipe, epoch, CPU).tolist() for epoch in range(4)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders[3] == order_of_epoch(50, recipe, 3, CPU).tolist()
    assert orders[3] != order_of_epoch(50, Recipe(0.25, seed=1), 3, CPU).tolist()


def test_the_examples_are_the_data_set() -> None:
    data = labelled(3, 4)
    found = Examples.of(data, CPU)
    assert len(found) == 7
    assert np.array_equal(found.images.numpy(), data.images)
    assert np.array_equal(found.labels.numpy(), data.labels)


def test_a_step_has_its_noise_and_no_other_step_has_it() -> None:
    images, recipe = torch.from_numpy(pixels(6)), Recipe(0.25)
    steps = [noisy_batch(images, recipe, step) for step in (0, 1, 2, 1)]
    assert torch.equal(steps[1], steps[3])
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(steps[:3], 2))
    assert not torch.equal(steps[1], noisy_batch(images, dataclasses.replace(recipe, seed=1), 1))


@pytest.mark.parametrize("sigma", [0.25, 0.5, 2.0])
def test_the_noise_is_sigma_times_the_standard_normal_draws_of_the_step(sigma: float) -> None:
    """Exactly: a power of 2 times a float is rounded nowhere, and the images are black."""
    recipe = Recipe(sigma, copies=3, shift=0, flip=False)
    random = torch.Generator().manual_seed(recipe.seed_of("step", 5))
    torch.randint(0, 1, (2, 4, 1), generator=random)  # where the images are shifted to
    draws = torch.randn((12, 2, 5, 5), generator=random)
    batch = noisy_batch(torch.zeros((4, 2, 5, 5), dtype=torch.uint8), recipe, 5)
    assert batch.dtype == torch.float32
    assert torch.equal(batch, sigma * draws)
    assert len(set(map(bytes, batch.numpy()))) == 12


def test_the_noise_is_added_to_pixels_in_0_to_1_and_not_clipped() -> None:
    images, recipe = pixels(4), Recipe(0.5, copies=2, shift=0, flip=False)
    batch = noisy_batch(torch.from_numpy(images), recipe, 3)
    noise = noisy_batch(torch.zeros(images.shape, dtype=torch.uint8), recipe, 3)
    clean = np.concatenate([images, images]).astype(np.float64) / 255
    assert np.allclose(batch.numpy(), clean + noise.numpy(), rtol=0, atol=1e-6)
    assert batch.min() < -0.1
    assert batch.max() > 1.1


def test_without_shift_and_mirror_the_images_are_left_as_they_are() -> None:
    images = pixels(7)
    batch = noisy_batch(torch.from_numpy(images), dataclasses.replace(NO_NOISE, copies=3), 0)
    assert np.array_equal(levels(batch), np.concatenate([images] * 3))


def test_the_copies_of_an_image_are_shifted_and_mirrored_alike() -> None:
    images = torch.from_numpy(pixels(40))
    batch = levels(noisy_batch(images, Recipe(1e-6, copies=3, shift=2), 0))
    assert np.array_equal(batch[:40], batch[40:80])
    assert np.array_equal(batch[:40], batch[80:])
    assert not np.array_equal(batch[:40], images.numpy())


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [0, 1])
def test_every_shift_and_mirror_image_occurs_and_nothing_else(shift: int, flip: bool) -> None:
    """One image 600 times: what is missed at the edge is black."""
    image = pixels(1)[0]
    padded = np.pad(image, ((0, 0), (shift, shift), (shift, shift)))
    corners = itertools.product(range(2 * shift + 1), repeat=2)
    allowed = [padded[:, i : i + 5, j : j + 5] for i, j in corners]
    allowed += [moved[:, :, ::-1] for moved in allowed] if flip else []
    batch = noisy_batch(torch.from_numpy(np.stack([image] * 600)), Recipe(1e-6, copies=2, shift=shift, flip=flip), 0)
    assert {found.tobytes() for found in levels(batch)} == {one.tobytes() for one in allowed}
