"""Certified accuracy against radius, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from certserve.evaluation.tables import Row

__all__ = ["plot_certified_accuracy"]


def plot_certified_accuracy(tables: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Write a PNG: a curve a table, named by its key; the share of its images certified at each radius.

    Raises:
        ModuleNotFoundError: matplotlib is not installed (`pip install 'certserve[evaluate]'`).
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    farthest = max(row.radius for rows in tables.values() for row in rows) or 1.0
    for style, (name, rows) in zip(("-", "--", ":", "-.") * len(tables), tables.items(), strict=False):
        axes.step(*_curve(rows), where="post", linestyle=style, label=f"{name} ({len(rows)})")
    axes.set(xlabel="L2 radius (pixels in [0, 1])", ylabel="certified accuracy", xlim=(0.0, farthest * 1.05))
    axes.set_ylim(0.0, 1.0)
    axes.grid(alpha=0.3)
    axes.legend(title="table (images)")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _curve(rows: Sequence[Row]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Radii from 0 up, and the share of the images certified from just after each to the next (that one included)."""
    radii = np.sort(np.array([row.radius for row in rows if row.correct], dtype=np.float64))
    return np.concatenate([[0.0], radii]), np.arange(len(radii), -1, -1) / len(rows)
