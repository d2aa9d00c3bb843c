"""What a model must show before it serves, on classifiers whose faults are known exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from certserve.backends.checks import LADDER, RowCheck, check_rows, fingerprint
from certserve.backends.probes import probe_pixels
from certserve.errors import ModelRefused, OutOfMemory

SHAPE = (1, 4, 4)
SIGMA = 0.25

Pixels = npt.NDArray[np.float32]
Logits = npt.NDArray[np.float32]


class Faulty:
    """An exact classifier (integer sums), then a fault applied to the logits of the whole batch."""

    shape = SHAPE

    def __init__(self, fault: Callable[[Logits, Pixels], Logits]) -> None:
        self._fault = fault
        self.rows: set[int] = set()

    def logits(self, pixels: Pixels) -> Logits:
        self.rows.add(len(pixels))
        steps = np.rint(pixels.reshape(len(pixels), -1)[:, :16] * 255).astype(np.float32)
        return self._fault(np.stack([steps.sum(axis=1), steps @ np.arange(16, dtype=np.float32)], axis=1), pixels)


def _bumped(logits: Logits, rows: slice | npt.NDArray[np.bool_] = slice(None)) -> Logits:
    """The next float32 in the given rows."""
    changed = logits.copy()
    changed[rows] = np.nextafter(changed[rows], np.float32(np.inf))
    return changed


def test_a_sound_model_keeps_every_shape_of_the_ladder() -> None:
    model = Faulty(lambda logits, _: logits)
    assert check_rows(model, SIGMA).shapes == LADDER
    assert model.rows == set(LADDER)


def test_reports_the_logits_of_the_probes() -> None:
    model = Faulty(lambda logits, _: logits)
    expected = model.logits(probe_pixels(SHAPE, 16, SIGMA))
    np.testing.assert_array_equal(check_rows(model, SIGMA).logits, expected)


def test_shapes_too_large_for_memory_are_not_tried() -> None:
    model = Faulty(lambda logits, _: logits)
    assert check_rows(model, SIGMA, (1, 2, 1 << 21)).shapes == (1, 2)  # 2^21 rows of 64 bytes are 128 MiB
    assert model.rows == {1, 2}


def test_shapes_beyond_one_that_finds_no_memory_are_not_tried() -> None:
    def fault(logits: Logits, _: Pixels) -> Logits:
        if len(logits) >= 32:
            raise OutOfMemory("no")
        return logits

    model = Faulty(fault)
    assert check_rows(model, SIGMA, (1, 8, 32, 64)).shapes == (1, 8)
    assert 64 not in model.rows
    with pytest.raises(OutOfMemory):
        check_rows(model, SIGMA, (32, 64))


@pytest.mark.parametrize("different", [1, 8, 32])
def test_a_shape_that_differs_in_the_last_bit_is_dropped(different: int) -> None:
    model = Faulty(lambda logits, _: _bumped(logits) if len(logits) == different else logits)
    assert check_rows(model, SIGMA).shapes == tuple(rows for rows in LADDER if rows != different)


def test_the_largest_shape_decides_which_logits_count() -> None:
    model = Faulty(lambda logits, _: _bumped(logits) if len(logits) == LADDER[-1] else logits)
    found = check_rows(model, SIGMA)
    assert found.shapes == LADDER[-1:]
    np.testing.assert_array_equal(found.logits, _bumped(model.logits(probe_pixels(SHAPE, 16, SIGMA))))


@pytest.mark.parametrize("position", [1, 5, 6, 31, 100])
def test_a_shape_whose_last_bit_depends_on_the_place_is_dropped(position: int) -> None:
    def fault(logits: Logits, _: Pixels) -> Logits:
        return _bumped(logits, slice(position, position + 1))

    assert check_rows(Faulty(fault), SIGMA).shapes == tuple(rows for rows in LADDER if rows <= position)


def test_a_shape_whose_last_bit_depends_on_a_mate_is_dropped() -> None:
    def fault(logits: Logits, pixels: Pixels) -> Logits:
        white = (pixels == 1.0).all(axis=(1, 2, 3)).any()
        return _bumped(logits) if white else logits

    assert check_rows(Faulty(fault), SIGMA).shapes == (1,)


@pytest.mark.parametrize("probe", range(16))
def test_every_probe_is_checked_in_another_place(probe: int) -> None:
    """One probe that changes where the probes do not stand in order is enough to drop a shape."""
    probes = probe_pixels(SHAPE, 16, SIGMA)

    def fault(logits: Logits, pixels: Pixels) -> Logits:
        orders = [(start + np.arange(len(pixels))) % 16 for start in range(16)]
        if any(np.array_equal(pixels, probes[order]) for order in orders):
            return logits
        return _bumped(logits, (pixels == probes[probe]).all(axis=(1, 2, 3)))

    assert check_rows(Faulty(fault), SIGMA).shapes == (1,)


@pytest.mark.parametrize("probe", range(16))
def test_every_probe_must_be_finite(probe: int) -> None:
    marked = probe_pixels(SHAPE, 16, SIGMA)[probe]

    def fault(logits: Logits, pixels: Pixels) -> Logits:
        return np.where((pixels == marked).all(axis=(1, 2, 3))[:, None], np.float32(np.inf), logits)

    with pytest.raises(ModelRefused, match="not finite"):
        check_rows(Faulty(fault), SIGMA)


COUPLED: dict[str, Callable[[Logits, Pixels], Logits]] = {
    "mean of the batch": lambda logits, _: logits - logits.mean(axis=0),
    "largest of the batch": lambda logits, _: logits / np.abs(logits).max(),
    "the row before": lambda logits, _: logits + np.roll(logits, 1, axis=0),
    "the row after": lambda logits, _: logits + np.roll(logits, -1, axis=0),
    "rank in the batch": lambda logits, _: logits.argsort(axis=0).astype(np.float32),
    "finite mates only": lambda logits, pixels: logits if np.abs(pixels).max() < 40 else np.full_like(logits, np.nan),
}


@pytest.mark.parametrize("fault", COUPLED.values(), ids=COUPLED.keys())
def test_rows_that_influence_each_other_are_refused(fault: Callable[[Logits, Pixels], Logits]) -> None:
    with pytest.raises(ModelRefused, match="rows are not independent"):
        check_rows(Faulty(fault), SIGMA)


def test_logits_that_change_from_run_to_run_are_refused() -> None:
    runs = iter(range(10_000))
    with pytest.raises(ModelRefused, match="from run to run"):
        check_rows(Faulty(lambda logits, _: logits + 1000.0 * next(runs)), SIGMA)


def test_logits_whose_last_bit_changes_from_run_to_run_are_refused() -> None:
    """A shape that is not repeatable may not serve, and here no shape is left."""
    runs = iter(range(10_000))
    with pytest.raises(ModelRefused, match="not repeatable"):
        check_rows(Faulty(lambda logits, _: logits * np.float32(1.0 + next(runs) * 2.0**-20)), SIGMA)


def test_no_shape_is_invented_where_the_ladder_has_none_that_is_steady() -> None:
    with pytest.raises(ModelRefused, match="not repeatable"):
        check_rows(Faulty(lambda logits, _: _bumped(logits, slice(1, None))), SIGMA, (8, 32))


@pytest.mark.parametrize("spoil", [lambda found: found[:, 0], lambda found: found[:-1], lambda found: found[None]])
def test_logits_of_another_shape_are_refused(spoil: Callable[[Logits], Logits]) -> None:
    with pytest.raises(ModelRefused, match="expected logits of shape"):
        check_rows(Faulty(lambda logits, _: spoil(logits)), SIGMA)


def test_probes_are_noisy_8_bit_pixels() -> None:
    probes = probe_pixels((3, 8, 8), 16, SIGMA)
    assert probes.shape == (16, 3, 8, 8)
    assert probes.dtype == np.float32
    steps = np.rint(probes * 255)
    np.testing.assert_array_equal((steps / np.float32(255)).astype(np.float32), probes)
    assert len({probe.tobytes() for probe in probes}) == 16
    assert probes.min() < 0.0 < 1.0 < probes.max()


ROWS = RowCheck((1, 8), np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32))
IDENTITY = {"runtime": "r", "version": "1", "precision": "float32", "device": "cpu"}
ONE_BIT = np.nextafter(ROWS.logits, np.float32(np.inf))


def test_equal_executions_have_equal_fingerprints() -> None:
    again = RowCheck((1, 8, 32), ROWS.logits.copy())  # shapes that give the same logits make no other f
    assert fingerprint("f" * 64, IDENTITY, ROWS) == fingerprint("f" * 64, dict(reversed(IDENTITY.items())), again)
    assert len(bytes.fromhex(fingerprint("f" * 64, IDENTITY, ROWS))) == 32


@pytest.mark.parametrize(
    ("digest", "identity", "rows"),
    [
        ("e" * 64, IDENTITY, ROWS),
        *[("f" * 64, IDENTITY | {name: "another"}, ROWS) for name in IDENTITY],
        ("f" * 64, IDENTITY | {"threads": "2"}, ROWS),
        ("f" * 64, IDENTITY, replace(ROWS, logits=ONE_BIT)),
    ],
)
def test_whatever_labels_depend_on_changes_the_fingerprint(
    digest: str, identity: dict[str, str], rows: RowCheck
) -> None:
    assert fingerprint(digest, identity, rows) != fingerprint("f" * 64, IDENTITY, ROWS)
