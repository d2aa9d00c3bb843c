"""A report -> one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from certserve.datasets import Dataset
from certserve.evaluation.html import document, image_source, png_source, table
from certserve.evaluation.preempt.report import NO_GUARANTEE, Report, certified_table, summary
from certserve.evaluation.preempt.rows import Rows

if TYPE_CHECKING:
    from certserve.evaluation.preempt.stages import Stages

__all__ = ["Triple", "page", "triples_of"]

_TRIPLES = 12
_MIDDLE, _STRETCH = 128, 8  # the difference is shown so many times as large, around grey

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Triple:
    """An image as it came and robustified, and what is certified of each.

    Attributes:
        label: the true one. before, after: (answer, radius); None where there is no certificate.
    """

    idx: int
    original: Pixels
    robustified: Pixels
    label: int
    before: tuple[int, float] | None
    after: tuple[int, float] | None

    @property
    def difference(self) -> Pixels:
        """Grey where nothing changed; where a pixel became lighter, lighter, eight times as much."""
        change = self.robustified.astype(np.int64) - self.original
        shown: Pixels = np.clip(_MIDDLE + _STRETCH * change, 0, 255).astype(np.uint8)
        return shown


def triples_of(rows: Mapping[str, Rows], data: Dataset, stages: Stages) -> list[Triple]:
    """The first images that have been moved, none of them chosen."""
    found: list[Triple] = []
    for i, idx in enumerate(data.idx.tolist()):
        if idx in rows["robustified-default"] and len(found) < _TRIPLES:
            certain = [_certificate(rows[stage], idx) for stage in ("certified-before", "certified-default")]
            found.append(Triple(idx, data.images[i], stages.read(i), int(data.labels[i]), *certain))
    return found


def _certificate(rows: Rows, idx: int) -> tuple[int, float] | None:
    if idx not in rows or rows[idx]["abstained"]:
        return None
    return rows[idx]["answer"], rows[idx]["radius"]


def page(report: Report, plot: bytes, triples: Sequence[Triple]) -> str:
    """The page, with the plot, a PNG, inside."""
    title = f"Preemptive robustification with {report.bundle.name}"
    question = report.question
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{report.figures.images} images, each moved by at most {question.delta:g} (L2, pixels in [0, 1]) before an "
        f"adversary who may move it by {question.epsilon:g} gets it. {escape(NO_GUARANTEE)}</p>",
        table(("", "", "95 % interval"), summary(report)),
        "<h2>Certified accuracy</h2>",
        table(*certified_table(report)),
        f'<img class="plot" alt="certified accuracy by radius, and radii gained" src="{png_source(plot)}">',
        *_adversary(report),
        *_triples(report, triples),
        *_made(report),
    ]
    return document(title, body)


def _adversary(report: Report) -> Iterable[str]:
    told = report.figures.adversary
    if not told:
        return
    yield "<h2>The adversary who knows the method</h2>"
    yield (
        "<p>It runs the method backwards from the robustified image to guess the image as it came, and attacks the "
        "guess by randomized PGD within a share of epsilon. What it makes counts where it is within epsilon of the "
        f"image as it came and is not answered rightly. Attacked are the {told['attacked']} images that were answered "
        "rightly before and after.</p>"
    )
    headings = ("share of epsilon", "within epsilon of the original", "reached a wrong answer")
    yield table(headings, ((f"{at['share']:g}", str(at["within"]), str(at["reached"])) for at in told["by_share"]))


def _triples(report: Report, triples: Sequence[Triple]) -> Iterable[str]:
    yield "<h2>Original, robustified, difference</h2>"
    yield (
        f"<p>The first images, as they come. The difference is {_STRETCH} times as large as it is, around grey; the "
        "radii are certified.</p>"
    )
    yield '<div class="triples">' + "\n".join(_figure(triple, report) for triple in triples) + "</div>"


def _figure(triple: Triple, report: Report) -> str:
    shown = (triple.original, triple.robustified, triple.difference)
    pictures = "".join(f'<img alt="" src="{image_source(each, report.bundle.colour)}">' for each in shown)
    names = report.bundle.labels
    told = [
        "abstains" if certain is None else f"{names[certain[0]]}, radius {certain[1]:.3f}"
        for certain in (triple.before, triple.after)
    ]
    caption = f"{triple.idx}, in truth {names[triple.label]}: {told[0]}; robustified: {told[1]}"
    return f'<figure class="triple">{pictures}<figcaption>{escape(caption)}</figcaption></figure>'


def _made(report: Report) -> Iterable[str]:
    yield "<h2>How it was measured</h2>"
    yield (
        "<p>Gradients are those of the bundle's float32 weights in torch; every answer and every certificate is the "
        "execution's. An image that is answered wrongly before an attack counts as wrong and is not attacked. PNG "
        "files are written and read back before anything is asked of them; JPEG has colours at half the resolution. "
        "Intervals are Clopper and Pearson's, were the images drawn independently.</p>"
    )
    execution, facts = report.execution, report.facts
    told = {"execution": execution.name, "runtime": execution.runtime, "fingerprint": execution.fingerprint}
    asked = {name: value for name, value in asdict(report.question).items() if value is not None}
    every = {**told, **asked, **asdict(facts)}
    yield table(("", ""), ([name.replace("_", " "), str(value)] for name, value in every.items()))
