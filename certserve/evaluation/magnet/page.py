"""A report -> one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby

import numpy as np
import numpy.typing as npt
from PIL import Image

from certserve.evaluation.magnet.lines import Line
from certserve.evaluation.magnet.report import Adaptive, Report, Triple

__all__ = ["page"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { vertical-align: bottom; }
.warning { border-left: .4rem solid #c00; background: #fee; padding: .7rem 1rem; font-weight: 600; }
.triples { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .8rem; max-width: 15rem; }
figure.triple img { width: 5rem; height: 5rem; object-fit: contain; image-rendering: pixelated; }
img.plot { max-width: 100%; width: 44rem; }
"""
_HEADINGS = (
    "attack", "pixels", "attained", "mean L2", "success, undefended", "no defence", "detectors only", "reformer only",
    "both", "both, 95 % interval", "both, of the attained",
)  # fmt: skip


def page(report: Report, plot: bytes) -> str:
    """The page, with the plot, a PNG, inside."""
    title = f"MagNet of {report.bundle.name}"
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p{_mark(said)}>{escape(said)}</p>" for said in report.statements),
        *_attacks(report),
        *_adaptive(report.adaptive),
        "<h2>Carlini-Wagner by confidence</h2>",
        f'<img class="plot" alt="share held by kappa" src="{_source(plot)}">',
        *_clean(report),
        *_triples(report),
        *_made(report),
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def _mark(said: str) -> str:
    return ' class="warning"' if said.startswith("WARNING") else ""


def _attacks(report: Report) -> Iterable[str]:
    yield "<h2>Attacks</h2>"
    yield (
        f"<p>{report.images} images that the classifier answers rightly, each attacked. The last columns count what is "
        "held: answered rightly, or flagged by a detector. The adaptive attack knows of reformer, detectors and "
        "thresholds, the others of the classifier alone. Each attack stands twice: its images as float32 numbers, and "
        "rounded to the 8 bits that a client sends. Attained are the images on which the attack did what it was "
        "to; Carlini and Wagner's leaves the others as they are, which counts as held. Mean L2 is over the attained, "
        "in units of pixels in [0, 1].</p>"
    )
    yield _table(_HEADINGS, map(_cells, report.lines))


def _cells(line: Line) -> list[str]:
    mean = "none" if line.mean_l2 is None else f"{line.mean_l2:.3f}"
    low, high = line.interval
    shares = [f"{share:.1%}" for share in (line.undefended_success, *line.shares)]
    of_attained = "none" if line.both_of_attained is None else f"{line.both_of_attained:.1%}"
    told = [line.attack, line.pixels, str(line.attained), mean]
    return [*told, *shares, f"{low:.1%} to {high:.1%}", of_attained]


def _adaptive(adaptive: Adaptive | None) -> Iterable[str]:
    if adaptive is None:
        return
    yield "<h2>The attack that knows of MagNet</h2>"
    headings = ("", "gets past MagNet", "mean L2, same images")
    means = ["none" if mean is None else f"{mean:.3f}" for mean in (adaptive.l2, adaptive.oblivious_l2)]
    rows = [["adaptive", f"{adaptive.success:.1%} ({adaptive.success_8bit:.1%} in 8 bits)", means[0]],
            [f"oblivious: {adaptive.beside}", f"{adaptive.oblivious:.1%}", means[1]]]  # fmt: skip
    yield _table(headings, rows)
    if adaptive.ratio is not None:
        yield f"<p>Distortion: {adaptive.ratio:.3f} times, over the {adaptive.both} images that both attained.</p>"


def _clean(report: Report) -> Iterable[str]:
    clean = report.clean
    alone, reformed, passed, flagged = (
        f"{count} ({count / clean.images:.2%})" for count in (clean.alone, clean.reformed, clean.passed, clean.flagged)
    )
    yield "<h2>Images as they are</h2>"
    yield (
        f"<p>Of {clean.images} images {alone} are answered rightly by the classifier alone, {reformed} after the "
        f"reformer, and {passed} rightly after it and not flagged. Flagged are {flagged}; nominally {clean.rate:.2%} "
        "at most.</p>"
    )
    headings = ("detector", "flagged", "rate", "nominal rate", "95 % predictive interval", "calibration images")
    yield _table(headings, (
        [alarm.detector, str(alarm.flagged), f"{alarm.flagged / clean.images:.2%}", f"{alarm.rate:.2%}",
         f"{alarm.low} to {alarm.high}" + ("" if alarm.low <= alarm.flagged <= alarm.high else " (outside)"),
         str(alarm.validation_images)]
        for alarm in clean.alarms
    ))  # fmt: skip


def _triples(report: Report) -> Iterable[str]:
    yield "<h2>Original, attacked, reformed</h2>"
    yield "<p>The first images of each attack, as they come.</p>"
    for attack, group in groupby(report.triples, key=lambda triple: triple.attack):
        yield f"<h3>{escape(attack)}</h3>"
        yield '<div class="triples">' + "\n".join(_figure(triple, report) for triple in group) + "</div>"


def _figure(triple: Triple, report: Report) -> str:
    names, bgr = report.bundle.labels, report.bundle.colour == "bgr"
    shown = (triple.original, *(np.rint(255 * image).astype(np.uint8) for image in (triple.attacked, triple.reformed)))
    images = "".join(f'<img alt="" src="{_source(_png(image, bgr))}">' for image in shown)
    told = (
        f"{names[triple.label]}; attacked: {names[triple.answer]}; reformed: {names[triple.reformed_answer]}; "
        f"{'flagged' if triple.flagged else 'not flagged'}; L2 {triple.distance:.2f}"
    )
    return f'<figure class="triple">{images}<figcaption>{escape(told)}</figcaption></figure>'


def _made(report: Report) -> Iterable[str]:
    yield "<h2>How it was measured</h2>"
    yield (
        "<p>Gradients are those of the bundle's float32 networks in torch; every figure is what the runtime that "
        "serves says of the images, the classifier alone and without noise.</p>"
    )
    facts = [*report.identity.items(), *((key, str(value)) for key, value in report.question.items())]
    yield _table(("", ""), ([name.replace("_", " "), value] for name, value in facts))


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"


def _png(image: npt.NDArray[np.uint8], bgr: bool) -> bytes:
    """(channels, height, width), one or three."""
    pixels = image[0] if len(image) == 1 else np.moveaxis(image[::-1] if bgr else image, 0, 2)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()


def _source(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
