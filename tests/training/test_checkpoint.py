"""A checkpoint is whole or not there; a damaged one is said to be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from certserve.training import checkpoint  # noqa: E402 (after the check that torch is there)
from certserve.training.recipe import RecipeError  # noqa: E402


def state(step: int) -> dict[str, Any]:
    """Something to keep."""
    return {"identity": "this one", "step": step, "network": {"w": torch.arange(64.0), "n": torch.tensor(3)}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint of step 1."""
    checkpoint.write(tmp_path / "checkpoint.pt", state(1))
    return tmp_path / "checkpoint.pt"


def read(path: Path) -> dict[str, Any]:
    """The checkpoint, which is there."""
    found = checkpoint.read(path)
    assert found is not None
    return found


def test_what_was_written_is_read(path: Path) -> None:
    found = read(path)
    assert (found["identity"], found["step"]) == ("this one", 1)
    assert torch.equal(found["network"]["w"], torch.arange(64.0))
    assert torch.equal(found["network"]["n"], torch.tensor(3))
    assert os.listdir(path.parent) == ["checkpoint.pt"]


def test_none_is_none(tmp_path: Path) -> None:
    assert checkpoint.read(tmp_path / "checkpoint.pt") is None


@pytest.mark.parametrize("failing", ["torch.save", "os.fsync", "pathlib.Path.replace"])
def test_a_failure_while_writing_leaves_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(failing, fail)
        with pytest.raises(OSError, match="no space left"):
            checkpoint.write(path, state(2))
    assert read(path)["step"] == 1
    checkpoint.write(path, state(3))
    assert read(path)["step"] == 3


def test_every_truncation_is_said_to_be_damage(path: Path) -> None:
    whole = path.read_bytes()
    for length in {*range(0, len(whole), 13), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(RecipeError, match=r"checkpoint\.pt: the checkpoint is damaged .*remove it to begin again"):
            checkpoint.read(path)


def test_a_changed_byte_of_the_weights_is_said_to_be_damage(path: Path) -> None:
    """Fails if a run could go on with other weights than it left."""
    whole = path.read_bytes()
    start = whole.index(torch.arange(64.0).numpy().tobytes())
    for position in range(start, start + 256):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(RecipeError, match="the checkpoint is damaged"):
            checkpoint.read(path)


def test_nothing_that_could_run_code_is_unpickled(path: Path, tmp_path: Path) -> None:
    class Command:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "it ran",)

    torch.save({"identity": Command()}, path)
    with pytest.raises(RecipeError, match="the checkpoint is damaged"):
        checkpoint.read(path)
    assert not (tmp_path / "it ran").exists()
