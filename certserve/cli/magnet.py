"""`certserve detect` and `certserve reform`: of a bundle in this process, or of a server."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from certserve.cli.ask import bundle_options, connection_options, model_to_ask
from certserve.cli.output import fails_in_one_sentence, json_option, print_json, stdout
from certserve.endpoints.answers import Reformation
from certserve.images import ImageFit
from certserve.smoothing.verdicts import Verdict

__all__ = ["detect", "reform"]

_AT_ONCE = 256
_IMAGE = click.Path(exists=True, dir_okay=False)
_PICTURE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("images", nargs=-1, required=True, type=_IMAGE)
@bundle_options
@connection_options
@json_option
@fails_in_one_sentence
def detect(images: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """How unusual IMAGES are beside those that the model's detectors were calibrated with.

    An image is flagged where a score exceeds its detector's threshold. A p-value is the share of images, this one and
    the calibration's, that score as high or higher. No guarantee follows: an attack that knows of the detectors can
    pass them.

    \b
    Example: certserve detect photo.png --model my-bundle
    """
    with model_to_ask(options) as (model, name):
        verdicts = [
            verdict
            for start in range(0, len(images), _AT_ONCE)
            for verdict in model.detect(images[start : start + _AT_ONCE], model=name, fit=ImageFit(options["fit"]))
        ]
    if as_json:
        print_json([_document(image, verdict) for image, verdict in zip(images, verdicts, strict=True)])
        return
    _print_verdicts(images, verdicts)


@click.command()
@click.argument("image", type=_IMAGE)
@click.option("-o", "--out", required=True, type=_PICTURE, help="The PNG file to write: the reformed image, 8 bits.")
@click.option("--compare", type=_PICTURE, help="A PNG file with the image before and after, and the difference.")
@bundle_options
@connection_options
@json_option
@fails_in_one_sentence
def reform(image: str, out: Path, compare: Path | None, as_json: bool, **options: Any) -> None:
    """IMAGE, moved towards those that the model's reformer was trained on, and the classifier's answers.

    The answers are the base classifier's own, without noise: nothing is certified about them.

    \b
    Example: certserve reform photo.png -o reformed.png --compare compared.png --model my-bundle
    """
    from certserve.cli.pictures import comparison

    with model_to_ask(options) as (model, name):
        (found,) = model.reform([image], model=name, fit=ImageFit(options["fit"]), png=True)
        info = model.get_model(name)
    out.write_bytes(found.png)
    magnified = None
    if compare is not None:
        magnified = comparison(image, found.image.pixels, info, ImageFit(options["fit"]), compare)
    if as_json:
        print_json(_reform_document(image, out, compare, magnified, found))
        return
    _print_reformation(image, out, compare, magnified, found)


def _document(image: str, verdict: Verdict) -> dict[str, Any]:
    together = {"flagged": verdict.flagged, "p_value": verdict.p_value, "rate": verdict.rate}
    return {"image": image, **together, "statement": verdict.statement, **asdict(verdict)}


def _print_verdicts(images: tuple[str, ...], verdicts: list[Verdict]) -> None:
    table = Table(header_style="bold")
    for heading in ("image", "detector", "score", "threshold", "p-value", "flagged"):
        table.add_column(heading, justify="left" if heading in ("image", "detector", "flagged") else "right")
    for image, verdict in zip(images, verdicts, strict=True):
        name = escape(Path(image).name)
        for found in verdict.detectors:
            numbers = (f"{found.score:.4g}", f"{found.threshold:.4g}", f"{found.p_value:.3g}")
            table.add_row(name, escape(found.name), *numbers, _mark(found.flagged))
            name = ""
        table.add_row(
            "", "all", "", "", f"{verdict.p_value:.3g}", _mark(verdict.flagged), style="bold", end_section=True
        )
    console = stdout()
    console.print(table)
    flagged = sum(verdict.flagged for verdict in verdicts)
    first = verdicts[0]
    calibrated = " or ".join(sorted({f"{found.validation_images:,}" for found in first.detectors}))
    console.print(
        f"{flagged} of {len(verdicts)} flagged. The nominal false-positive rate is {first.rate:g}, calibrated with "
        f"{calibrated} images: it is for images like those, and an attack that knows of the detectors can pass them.",
        highlight=False,
    )


def _mark(flagged: bool) -> str:
    return "[red]yes[/red]" if flagged else "no"


def _reform_document(
    image: str, out: Path, compare: Path | None, magnified: float | None, found: Reformation
) -> dict[str, Any]:
    return {
        "image": image,
        "out": str(out),
        "compare": None if compare is None else str(compare),
        "difference_magnified": magnified,
        "before": asdict(found.before),
        "after": asdict(found.after),
        "l2": found.l2,
        "linf": found.linf,
    }


def _print_reformation(
    image: str, out: Path, compare: Path | None, magnified: float | None, found: Reformation
) -> None:
    lines = [
        f"{Path(image).name}: the base classifier says {found.before.label_name!r} before and "
        f"{found.after.label_name!r} after; nothing is certified about either.",
        f"The change: L2 {found.l2:.4g}, largest {found.linf:.4g} of a pixel's range of 1.",
        f"{out}: the reformed image.",
    ]
    if compare is not None:
        size = "as it is" if magnified == 1.0 else f"{magnified:g} times as large"
        lines.append(f"{compare}: before, after, and the difference {size} (grey: none).")
    for line in lines:
        stdout().print(line, highlight=False, markup=False)
