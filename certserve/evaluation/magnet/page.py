"""A report -> one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from itertools import groupby

import numpy as np

from certserve.evaluation.html import document, image_source, png_source, table
from certserve.evaluation.magnet.lines import Line
from certserve.evaluation.magnet.report import Adaptive, Report, Triple

__all__ = ["page"]

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
        f'<img class="plot" alt="share held by kappa" src="{png_source(plot)}">',
        *_clean(report),
        *_triples(report),
        *_made(report),
    ]
    return document(title, body)


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
    yield table(_HEADINGS, map(_cells, report.lines))


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
    yield table(headings, rows)
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
    yield table(headings, (
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
    names, colour = report.bundle.labels, report.bundle.colour
    shown = (triple.original, *(np.rint(255 * image).astype(np.uint8) for image in (triple.attacked, triple.reformed)))
    images = "".join(f'<img alt="" src="{image_source(image, colour)}">' for image in shown)
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
    yield table(("", ""), ([name.replace("_", " "), value] for name, value in facts))
