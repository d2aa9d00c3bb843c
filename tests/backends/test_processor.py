"""How the cores are shared out."""

from __future__ import annotations

import pytest

from certserve.backends import processor


@pytest.mark.parametrize(
    ("cores", "expected"),
    [(1, (1, 1)), (2, (2, 1)), (7, (7, 1)), (8, (8, 1)), (9, (4, 2)), (12, (6, 2)), (16, (8, 2)), (64, (8, 8))],
)
def test_one_core_a_batch_up_to_eight_and_then_as_many_as_go_round(
    monkeypatch: pytest.MonkeyPatch, cores: int, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(processor, "cores", lambda: cores)
    assert processor.cores_each() == expected


def test_at_most_eight_batches_and_few_cores_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores in range(1, 257):
        monkeypatch.setattr(processor, "cores", lambda cores=cores: cores)
        parallel, each = processor.cores_each()
        assert 1 <= parallel <= 8
        assert cores - each < parallel * each <= cores
