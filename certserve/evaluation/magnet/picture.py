"""What is held of Carlini-Wagner's attacks against their confidence, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from certserve.evaluation.magnet.lines import FLOAT, Line

__all__ = ["curves", "draw"]

_NAMES = ("no defence", "detectors only", "reformer only", "detectors and reformer")
_STYLES = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."))


def curves(lines: Sequence[Line]) -> dict[str, list[tuple[float, float]]]:
    """For each way of holding, (kappa, share in percent) of the oblivious attacks, by kappa; of float32 images."""
    chosen = sorted(
        ((line.kappa, line.shares) for line in lines if line.kappa is not None and _plotted(line, adaptive=False)),
    )
    return {name: [(kappa, 100 * shares[i]) for kappa, shares in chosen] for i, name in enumerate(_NAMES)}


def draw(lines: Sequence[Line], path: Path, name: str) -> None:
    """Write a PNG: four lines, and the adaptive attack as a cross.

    Raises:
        ModuleNotFoundError: matplotlib is not installed (`pip install 'certserve[evaluate]'`).
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.4), layout="constrained")
    for (label, points), (marker, style) in zip(curves(lines).items(), _STYLES, strict=True):
        axes.plot(*zip(*points, strict=True) if points else ([], []), marker=marker, linestyle=style, label=label)
    known = [(line.kappa, 100 * line.shares[3]) for line in lines if _plotted(line, adaptive=True)]
    if known:
        label = "both, against the attack that knows of them"
        axes.plot(*zip(*known, strict=True), "x", color="black", markersize=10, markeredgewidth=2, label=label)
    ticks = {line.kappa: _tick(line) for line in lines if line.kappa is not None and _plotted(line, adaptive=False)}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set(xlabel="confidence kappa (logits)", ylabel="right or flagged (%)", ylim=(-4.0, 104.0))
    axes.set_title(f"{name}: Carlini-Wagner L2")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=150, format="png")
    pyplot.close(figure)


def _tick(line: Line) -> str:
    """The confidence, and how many images were given it where that is not all."""
    attained = "" if line.attained == line.images else f"\n({line.attained} of {line.images}\nattained)"
    return f"{line.kappa:g}{attained}"


def _plotted(line: Line, *, adaptive: bool) -> bool:
    return line.kappa is not None and line.pixels == FLOAT and line.adaptive == adaptive
