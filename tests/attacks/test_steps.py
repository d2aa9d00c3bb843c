"""Steepest directions, projections and uniform starts, against the definitions of the two norms."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor  # noqa: E402 (after the check that torch is there)

from certserve.attacks.norms import Norm  # noqa: E402
from certserve.attacks.steps import lengths, project, steepest, uniform  # noqa: E402

CHANGE = torch.tensor([[[3.0, -4.0]], [[0.0, 0.0]], [[1e-200, -1e-200]]], dtype=torch.float64)


def test_lengths() -> None:
    assert lengths(CHANGE, Norm.L2).tolist()[:2] == [5.0, 0.0]
    assert lengths(CHANGE, Norm.LINF).tolist() == [4.0, 0.0, 1e-200]


def test_the_steepest_direction_has_norm_1_however_small_the_gradient() -> None:
    assert steepest(CHANGE, Norm.LINF).tolist() == [[[1.0, -1.0]], [[0.0, 0.0]], [[1.0, -1.0]]]
    root = 0.5**0.5
    expected = torch.tensor([[[0.6, -0.8]], [[0.0, 0.0]], [[root, -root]]], dtype=torch.float64)
    torch.testing.assert_close(steepest(CHANGE, Norm.L2), expected)


@pytest.mark.parametrize(
    ("norm", "limit", "expected"),
    [
        (Norm.L2, 2.5, [1.5, -2.0]),
        (Norm.L2, 6.0, [3.0, -4.0]),
        (Norm.L2, 0.0, [0.0, 0.0]),
        (Norm.LINF, 3.5, [3.0, -3.5]),
        (Norm.LINF, 0.0, [0.0, 0.0]),
    ],
)
def test_the_nearest_change_within_the_ball(norm: Norm, limit: float, expected: list[float]) -> None:
    found = project(CHANGE[:1], norm, torch.tensor([limit], dtype=torch.float64))
    torch.testing.assert_close(found[0, 0], torch.tensor(expected, dtype=torch.float64))


def test_each_image_has_its_own_limit() -> None:
    both = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    assert project(both, Norm.L2, torch.tensor([1.0, 3.0])).tolist() == [[1.0, 0.0], [2.0, 0.0]]


@pytest.mark.parametrize(("norm", "inner"), [(Norm.L2, 0.5**3), (Norm.LINF, 0.5**3)])
def test_a_uniform_start_fills_the_ball(norm: Norm, inner: float) -> None:
    limit = torch.full((20_000,), 2.0, dtype=torch.float64)
    found: Tensor = uniform(torch.Size([20_000, 3]), norm, limit, torch.Generator().manual_seed(1))
    lengths_found = lengths(found, norm)
    assert float(lengths_found.max()) <= 2.0
    assert abs(float((lengths_found <= 1.0).double().mean()) - inner) < 0.01  # the volume's share, in 3 dimensions
    assert float(found.mean(0).abs().max()) < 0.04
