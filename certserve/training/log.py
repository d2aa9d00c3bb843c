"""What a run has come to, epoch by epoch: a TSV file and a picture of it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

__all__ = ["Epoch", "plot", "read", "write"]


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


def write(path: Path, epochs: Sequence[Epoch]) -> None:
    """Write the whole log."""
    beside = path.with_name(path.name + ".new")
    with beside.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow([field.name for field in fields(Epoch)])
        for epoch in epochs:
            rows.writerow([epoch.epoch, *(f"{value:.6g}" for value in astuple(epoch)[1:4]), f"{epoch.seconds:.0f}"])
    beside.replace(path)


def read(path: Path) -> list[Epoch]:
    """The epochs of a log."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [Epoch(int(row.pop("epoch")), **{name: float(value) for name, value in row.items()}) for row in rows]


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
