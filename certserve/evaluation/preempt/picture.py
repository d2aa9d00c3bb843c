"""Certified accuracy before and after, and radii after against radii before, as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from certserve.evaluation.preempt.figures import name_of

__all__ = ["Point", "curve", "draw"]

Point = tuple[float, float, bool]
"""An image: its radius before and after, for the label predicted before, and whether that label is right."""

_STYLES = ("-", "-", ":", "-.", (0, (5, 1)))


def curve(radii: Sequence[float], images: int) -> tuple[list[float], list[float]]:
    """Radii from 0 up, and the share of the images certified there in percent: a step down at each.

    Args:
        radii: of the images certified for their true label.
    """
    ordered = sorted(radii)
    return [0.0, *ordered], [100 * (len(ordered) - k) / images for k in range(len(ordered) + 1)]


def draw(
    radii: Mapping[str, Sequence[float]], images: int, points: Sequence[Point], delta: float, cap: float, title: str
) -> bytes:
    """A PNG: a curve a kind of image, and a point an image beside it.

    Args:
        radii: of the images certified for their true label, by kind.

    Raises:
        ModuleNotFoundError: matplotlib is not installed (`pip install 'certserve[evaluate]'`).
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10.4, 4.6), layout="constrained")
    _curves(left, radii, images)
    _points(right, points, delta, cap)
    figure.suptitle(title)
    file = io.BytesIO()
    figure.savefig(file, dpi=130, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return file.getvalue()


def _curves(axes: Any, radii: Mapping[str, Sequence[float]], images: int) -> None:
    for style, (kind, found) in zip(_STYLES * len(radii), radii.items(), strict=False):
        axes.step(*curve(found, images), where="post", linestyle=style, label=name_of(kind))
    axes.set(xlabel="L2 radius (pixels in [0, 1])", ylabel="certified accuracy (%)", ylim=(0, 100))
    axes.set_xlim(left=0)
    axes.set_title(f"{images} images")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize="small")


def _points(axes: Any, points: Sequence[Point], delta: float, cap: float) -> None:
    for right, colour, marker, name in ((True, "tab:blue", "o", "right"), (False, "tab:red", "x", "wrong")):
        chosen = np.array([point[:2] for point in points if point[2] == right]).reshape(-1, 2)
        axes.scatter(*chosen.T, s=14, c=colour, marker=marker, alpha=0.6, label=f"label {name} ({len(chosen)})")
    ends = np.array([0.0, cap * 1.03])
    axes.plot(ends, ends, color="grey", linewidth=1, label="nothing gained")
    axes.plot(ends, ends + delta, color="grey", linewidth=1, linestyle="--", label="delta gained")
    axes.axhline(cap, color="black", linewidth=0.8, linestyle=":", label="most that n draws show")
    axes.set(xlabel="certified radius as it came", ylabel="certified radius, robustified")
    axes.set_xlim(-0.02, cap * 1.05)
    axes.set_ylim(-0.02, cap * 1.05)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
