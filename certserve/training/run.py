"""The steps of any training run, and its state on disk: what was killed is gone on with, and ends in the same weights.

For that, a run's steps must be functions of its state and of the step's number alone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from certserve.training import checkpoint, log
from certserve.training.examples import order_of_epoch
from certserve.training.log import Row
from certserve.training.recipe import RecipeError, Seeded

__all__ = ["OnProgress", "Progress", "alone", "finish", "reproducible"]

_SECONDS_BETWEEN_CHECKPOINTS = 60.0

OnProgress = Callable[["Progress"], None]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: steps done, of how many; the last step's loss; the epochs completed."""

    step: int
    steps: int
    loss: float
    epochs: tuple[Row, ...]


class _Recipe(Seeded, Protocol):
    """What says how many images a step takes."""

    @property
    def batch(self) -> int: ...

    def steps_per_epoch(self, images: int) -> int: ...


class _Run(Protocol):
    """The state of a run: steps taken, of how many; seconds they took; epochs that ended."""

    step: int
    seconds: float

    @property
    def steps(self) -> int: ...

    @property
    def epochs(self) -> Sequence[Row]: ...

    def take_step(self, chosen: Tensor) -> float: ...

    def end_epoch(self, epoch: int) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, saved: Mapping[str, Any]) -> None: ...


def finish(
    run: _Run,
    recipe: _Recipe,
    images: Tensor,
    folder: Path,
    *,
    identity: dict[str, str],
    rows: type[Row],
    on_progress: OnProgress | None,
) -> None:
    """Take the steps that are left of a new run, or of the one in the folder, which must be of the same identity.

    Args:
        images: those it is trained on, of which each step is told which to take.
        rows: the class of its epochs, which log.tsv holds.

    Raises:
        RecipeError: the folder's run is of another identity, or its checkpoint is damaged.
    """
    saved = checkpoint.read(folder / "checkpoint.pt")
    if saved is not None:
        _check_identity(saved.get("identity"), identity, folder)
        run.restore(saved)
    began = time.monotonic() - run.seconds
    saved_at = time.monotonic()
    count, batch, per_epoch = len(images), recipe.batch, recipe.steps_per_epoch(len(images))
    order = order_of_epoch(count, recipe, run.step // per_epoch, images.device)
    while run.step < run.steps:
        epoch, position = divmod(run.step, per_epoch)
        if position == 0:
            order = order_of_epoch(count, recipe, epoch, images.device)
        loss = run.take_step(order[position * batch : (position + 1) * batch])
        run.seconds = time.monotonic() - began
        if position + 1 == per_epoch:
            run.end_epoch(epoch + 1)
            log.write(folder / "log.tsv", run.epochs, rows)
        if position + 1 == per_epoch or time.monotonic() - saved_at > _SECONDS_BETWEEN_CHECKPOINTS:
            checkpoint.write(folder / "checkpoint.pt", {"identity": identity, **run.state()})
            saved_at = time.monotonic()
        if on_progress:
            on_progress(Progress(run.step, run.steps, loss, tuple(run.epochs)))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other jobs out of a folder, which is made if need be, where its file system can.

    The lock ends with the process at the latest.

    Raises:
        RecipeError: another job is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                told = "another training is at work there; wait for it, or name another folder"
                raise RecipeError(f"{folder}: {told}") from None
        yield
    finally:
        os.close(lock)


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Deterministic algorithms and a fixed number of threads, for the length of a run."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what PyTorch asks for on CUDA
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.set_rng_state(before[2])


def _check_identity(saved: object, asked: Mapping[str, str], folder: Path) -> None:
    known = saved if isinstance(saved, dict) else {}
    others = [name for name, value in asked.items() if known.get(name) != value]
    if others:
        raise RecipeError(f"{folder}: holds a run with another {', '.join(others)}; name another folder, or remove it")
