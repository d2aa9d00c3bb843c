"""What a run has come to, epoch by epoch: a TSV file and a picture of it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Protocol, TypeVar

__all__ = ["Epoch", "Fitted", "Row", "plot", "plot_fit", "read", "read_fit", "write"]


class Row(Protocol):
    """An epoch's row: a frozen data class whose first field is the epoch, from 1, and whose last the seconds.

    Its text says what the epoch came to.
    """

    @property
    def epoch(self) -> int: ...

    @property
    def seconds(self) -> float: ...


_Row = TypeVar("_Row", bound=Row)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch.

    Attributes:
        epoch: from 1. loss: mean over its steps, in nats. noisy_accuracy: of the averaged base classifier on held-out
            images, one noisy copy each. learning_rate: of its last step. seconds: since the run began.
    """

    epoch: int
    loss: float
    noisy_accuracy: float
    learning_rate: float
    seconds: float

    def __str__(self) -> str:
        return f"loss {self.loss:.3f}, held-out accuracy under noise {self.noisy_accuracy:.3f}"


@dataclass(frozen=True, slots=True)
class Fitted:
    """One epoch of an autoencoder.

    Attributes:
        epoch: from 1. loss: mean squared error over its steps, of noisy images against clean ones.
        validation_loss: mean squared error of clean validation images. learning_rate: of its last step.
        seconds: since the run began.
    """

    epoch: int
    loss: float
    validation_loss: float
    learning_rate: float
    seconds: float

    def __str__(self) -> str:
        return f"mean squared error {self.loss:.5f}, of validation images {self.validation_loss:.5f}"


def write(path: Path, epochs: Sequence[Row], kind: type[Row] = Epoch) -> None:
    """Write the whole log, whose rows are of the given class."""
    beside = path.with_name(path.name + ".new")
    with beside.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow([field.name for field in fields(kind)])  # type: ignore[arg-type]
        for epoch in epochs:
            middle = astuple(epoch)[1:-1]  # type: ignore[call-overload]
            rows.writerow([epoch.epoch, *(f"{value:.6g}" for value in middle), f"{epoch.seconds:.0f}"])
    beside.replace(path)


def read(path: Path) -> list[Epoch]:
    """The epochs of a classifier's log."""
    return _read(path, Epoch)


def read_fit(path: Path) -> list[Fitted]:
    """The epochs of an autoencoder's log."""
    return _read(path, Fitted)


def _read(path: Path, kind: Callable[..., _Row]) -> list[_Row]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [kind(int(row.pop("epoch")), **{name: float(value) for name, value in row.items()}) for row in rows]


def plot(epochs: Sequence[Epoch], path: Path) -> None:
    """Write a PNG of loss and held-out accuracy against the epoch.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(6.4, 5.6), sharex=True, layout="constrained")
    numbers = [epoch.epoch for epoch in epochs]
    upper.plot(numbers, [epoch.loss for epoch in epochs], marker=".")
    upper.set_ylabel("training loss (nats)")
    lower.plot(numbers, [epoch.noisy_accuracy for epoch in epochs], marker=".", color="tab:green")
    lower.set(xlabel="epoch", ylabel="accuracy under noise,\nheld-out images")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def plot_fit(epochs: Sequence[Fitted], path: Path) -> None:
    """Write a PNG of both errors of an autoencoder against the epoch.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    numbers = [epoch.epoch for epoch in epochs]
    axes.semilogy(numbers, [epoch.loss for epoch in epochs], marker=".", label="training, noisy images")
    axes.semilogy(numbers, [epoch.validation_loss for epoch in epochs], marker=".", label="validation, clean images")
    axes.set(xlabel="epoch", ylabel="mean squared error")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
