"""The linear classifier: its file, and the closed form that makes it an oracle."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from certserve.backends.linear import LinearBackend
from certserve.errors import BundleError

SHAPE = (1, 2, 2)


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    weights, bias = np.arange(12.0).reshape(3, 4), np.array([0.5, 1.5, 2.5])
    np.savez(tmp_path / "model.npz", weights=weights, bias=bias)
    backend = LinearBackend.read(tmp_path / "model.npz", SHAPE)
    pixels = np.array([[1.0, 0.0, 0.5, 2.0]], np.float32)
    np.testing.assert_array_equal(backend.logits(pixels.reshape(1, *SHAPE)), pixels @ weights.T + bias)


@pytest.mark.parametrize(
    "arrays",
    [
        {"weights": np.zeros((3, 4))},
        {"bias": np.zeros(3)},
        {"weights": np.zeros((3, 5)), "bias": np.zeros(3)},
        {"weights": np.zeros((2, 4)), "bias": np.zeros(3)},
        {"weights": np.zeros((3, 4)), "bias": np.zeros((3, 1))},
        {"weights": np.array([[object()] * 4] * 3), "bias": np.zeros(3)},
    ],
    ids=["no bias", "no weights", "other input", "other classes", "bias of rank 2", "pickled objects"],
)
def test_arrays_that_do_not_fit_are_a_damaged_bundle(arrays: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", **arrays)
    with pytest.raises(BundleError, match=r"model\.npz"):
        LinearBackend.read(tmp_path / "model.npz", SHAPE)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_archive_is_a_damaged_bundle(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.npz").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.npz"):
        LinearBackend.read(tmp_path / "model.npz", SHAPE)


def test_a_single_array_is_a_damaged_bundle(tmp_path: Path) -> None:
    with (tmp_path / "model.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(BundleError, match=r"model\.npz"):
        LinearBackend.read(tmp_path / "model.npz", SHAPE)


@pytest.mark.parametrize("rows", [2, 3, 8, 33])
def test_sums_that_cancel_round_alike_in_every_batch(rows: int) -> None:
    """What is left of them is rounding alone, which a matrix product orders by the number of rows."""
    large = np.sin(np.arange(1.0, 769.0)) * 1e15
    backend = LinearBackend(np.stack([large - large.mean(), large[::-1] - large.mean()]), np.zeros(2), (3, 16, 16))
    pixels = np.repeat(np.linspace(0.1, 1.0, rows, dtype=np.float32), 768).reshape(rows, 3, 16, 16)
    alone = np.concatenate([backend.logits(row[None]) for row in pixels])
    assert alone.any()
    np.testing.assert_array_equal(backend.logits(pixels), alone)


def test_a_half_space_changes_its_answer_exactly_half_a_step_above_its_threshold(models: ModuleType) -> None:
    backend = models.half_space(SHAPE, {0: 1, 3: -2}, 7)
    steps = np.array([[k, 99, 99, j] for k in range(-50, 51) for j in range(-30, 31)], np.int64)
    pixels = (steps / np.float32(255)).astype(np.float32).reshape(-1, *SHAPE)
    above = steps[:, 0] - 2 * steps[:, 3] > 7
    np.testing.assert_array_equal(backend.logits(pixels).argmax(axis=1), above)
