"""`certserve robustify`: images of one's own, moved to where adversaries reach less, before anyone else gets them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.markup import escape
from rich.table import Table

from certserve.cli.ask import connection_options, model_to_ask
from certserve.cli.output import fails_in_one_sentence, json_option, print_json, progress_bar, stdout
from certserve.cli.values import read_qualities
from certserve.defences.preemptive.methods import CertMargin
from certserve.errors import InvalidRequest
from certserve.images import ImageError, ImageFit, read_header
from certserve.smoothing.document import to_document
from certserve.smoothing.outcomes import (
    Abstention,
    Bound,
    Certificate,
    CertifyOutcome,
    Prediction,
    PredictOutcome,
    round_down,
)

if TYPE_CHECKING:
    from certserve.endpoints.answers import Robustified

__all__ = ["robustify"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_L2_DELTA = 0.5
_QUESTION = ("epsilon", "norm", "sigma", "n0", "n", "alpha", "fit", "bound")
_HEADINGS = ("image", "label", "radius before", "radius after", "moved", "efficiency", "judged safe", "time")


class _Done(NamedTuple):
    """An image that was moved: where it came from, where it went (None: it was not written), and what is known."""

    source: Path
    target: Path | None
    resized_from: tuple[int, int] | None
    result: Robustified
    seconds: float


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A .png file; for a folder, one.")
@click.option(
    "--model",
    help="A bundle's directory or a packaged model's name, with weights for torch; with --server, a served model's.",
)
@click.option("--delta", type=float, help="How far an image may be moved, pixels in [0, 1]; default: 0.5 for L2.")
@click.option("--epsilon", type=float, help="How far an adversary may move it afterwards; default: delta.")
@click.option("--norm", type=click.Choice(["L2", "Linf"]), default="L2", show_default=True, help="That bounds both.")
@click.option(
    "--method",
    type=click.Choice(["cert-margin", "bilevel", "fast"]),
    default="cert-margin",
    show_default=True,
    help="How to search.",
)
@click.option("--jpeg", help="LOWEST-HIGHEST, as 75-95: also for files that will be made JPEG of such a quality.")
@click.option("--sigma", type=float, help="Noise level in units of pixels in [0, 1]; one of the model's.")
@click.option("--n0", type=int, help="Selection draws of each certificate.")
@click.option("--n", type=int, help="Estimation draws of each certificate.")
@click.option("--alpha", type=float, help="Probability of a false certificate, in (0, 1), for each.")
@click.option(
    "--bound", type=click.Choice([bound.value for bound in Bound]), default=Bound.BINARY.value, help="On the runner-up."
)
@click.option(
    "--fit",
    type=click.Choice([fit.value for fit in ImageFit]),
    default=ImageFit.EXACT.value,
    show_default=True,
    help="What to do with an image of another size than the model's; the file then has the model's size.",
)
@click.option("--execution", help="Which of a bundle's executions, by name; default: see `certserve doctor`.")
@click.option("--trust", is_flag=True, help="Allow a bundle whose file can run code of its own (torch.export).")
@click.option("--secret-file", type=click.Path(exists=True, dir_okay=False), help="64 hex digits that key the noise.")
@click.option("--force", is_flag=True, help="Write images again that are there already.")
@connection_options
@json_option
@fails_in_one_sentence
def robustify(source: Path, output: Path, force: bool, as_json: bool, **options: Any) -> None:
    """Move SOURCE, an image or a folder of images, a little, to where its certified radius is larger.

    The search maximises an estimate; what holds of the file that is written is its own certificate, shown beside the
    one of the image as it came. The file is an upright, opaque PNG at the model's size, without metadata: shown at
    another size, cropped or encoded as JPEG, it is another image, and no certificate is about that.

    Of a folder, images that are in the output already are left alone, so that what was interrupted can be gone on
    with. An image whose label is not certified afterwards is not written.

    The search runs here, with a bundle on disk. `certserve bundle fetch` makes one of a served model's weights, where
    its server hands them out. With --server the images go to that server, which searches.

    \b
    Example: certserve robustify photo.png -o safe.png --model cifar10 --fit resize-crop
             certserve robustify photos -o made --model cifar10 --fit resize-crop
             certserve robustify photos -o made --server localhost:8700 --fit resize-crop
    """
    pairs = _pairs(source, output)
    missing = pairs if force else [pair for pair in pairs if not pair[1].exists()]
    question = _question(options)
    if source.is_dir():
        output.mkdir(parents=True, exist_ok=True)
    done, refused = _move(missing, question, options) if missing else ([], [])
    if as_json:
        print_json([_document(each) for each in done])
    elif done:
        _print(done)
    if len(missing) < len(pairs):
        count = len(pairs) - len(missing)
        click.echo(f"certserve: {count} of {len(pairs)} written before; --force writes them again.", err=True)
    for sentence in refused:
        click.echo(f"certserve: {sentence}", err=True)
    if refused:
        sys.exit(2)
    if any(each.target is None for each in done):
        sys.exit(1)


def _pairs(source: Path, output: Path) -> list[tuple[Path, Path]]:
    """Each image and where it is to go.

    Raises:
        ValueError: there is no image, an image would be written over, or two would go to one file.
    """
    if not source.is_dir():
        if output.suffix.lower() != ".png":
            raise ValueError(f"{output}: expected the name of a .png file, as any other format would change the pixels")
        pairs = [(source, output)]
    else:
        found = sorted(path for path in source.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
        if not found:
            raise ValueError(f"{source}: expected a folder with PNG, JPEG or WebP files")
        pairs = [(path, output / f"{path.stem}.png") for path in found]
    if len({target for _, target in pairs}) < len(pairs):
        raise ValueError(f"{source}: two images differ in their suffix only and would go to one file; rename one")
    for path, target in pairs:
        if target.exists() and target.samefile(path):
            raise ValueError(f"{path} would be written over; choose another output")
    return pairs


def _question(options: dict[str, Any]) -> dict[str, Any]:
    """What is asked about each image."""
    delta = options["delta"]
    if delta is None:
        if options["norm"] != "L2":
            raise click.UsageError("--norm Linf needs --delta, as 0.0314 (8 levels of 255).")
        delta = _L2_DELTA
    method = _method(options["method"], options["jpeg"])
    return {"delta": delta, **{name: options[name] for name in _QUESTION}, "method": method}


def _method(name: str, jpeg: str | None) -> str | CertMargin:
    """The method of that name, with the qualities that are given."""
    if jpeg is None:
        return name
    if name != "cert-margin":
        raise click.UsageError("--jpeg is for --method cert-margin.")
    return CertMargin(jpeg=read_qualities(jpeg))


def _move(
    missing: list[tuple[Path, Path]], question: dict[str, Any], options: dict[str, Any]
) -> tuple[list[_Done], list[str]]:
    """What became of each image, and a sentence about every one that was refused."""
    done: list[_Done] = []
    refused: list[str] = []
    title = f"moving {len(missing)} image{'s' * (len(missing) > 1)}"
    with progress_bar(title, len(missing)) as report, model_to_ask(options) as (model, name):
        asked = {**question, "model": name}
        for position, (source, target) in enumerate(missing):
            try:
                done.append(_one(model, source, target, asked, _shown(report, position, len(missing))))
            except InvalidRequest as error:
                refused.append(f"{source.name}: {error}")
            report(position + 1, len(missing))
    return done, refused


def _shown(report: Callable[[float, float | None], None], position: int, total: int) -> Callable[[int, int], None]:
    return lambda done, of: report(position + done / of, total)


def _one(model: Any, source: Path, target: Path, question: dict[str, Any], on_progress: Any) -> _Done:
    start = time.perf_counter()
    data = source.read_bytes()
    result = model.robustify(data, **question, on_progress=on_progress)
    if result.label_kept:
        _write(target, result.png)
    size = _size(data)
    came = size if size != result.pixels.shape[:0:-1] else None
    return _Done(source, target if result.label_kept else None, came, result, time.perf_counter() - start)


def _size(data: bytes) -> tuple[int, int] | None:
    try:
        return read_header(data).size
    except ImageError:
        return None


def _write(target: Path, data: bytes) -> None:
    """The whole file or none of it, so that an interrupted run takes no half image for a done one."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    unfinished.write_bytes(data)
    os.replace(unfinished, target)


def _print(done: list[_Done]) -> None:
    """The table, and a sentence about each image."""
    table = Table(header_style="bold")
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in ("image", "label") else "right")
    for each in done:
        table.add_row(*map(escape, _row(each)))
    console = stdout()
    console.print(table)
    for each in done:
        console.print(f"{each.source.name}: {_sentence(each)}", highlight=False, markup=False)


def _row(each: _Done) -> tuple[str, ...]:
    result = each.result
    efficiency = result.uplift_efficiency
    distance = result.l2 if result.budget.norm == "L2" else result.linf
    return (
        each.source.name,
        _name(result.predicted_before),
        _radius(result.before),
        _radius(result.after),
        f"{distance:.4f} {result.budget.norm}",
        "-" if efficiency is None else f"{efficiency:.2f}",
        "yes" if result.judged_safe else "no",
        f"{each.seconds:.1f} s",
    )


def _name(predicted: PredictOutcome) -> str:
    if isinstance(predicted, Prediction):
        return predicted.label_name
    return f"abstains (leading: {predicted.candidate_name})" if isinstance(predicted, Abstention) else "undecided"


def _radius(outcome: CertifyOutcome) -> str:
    return f"{round_down(outcome.radius)} ({outcome.label_name})" if isinstance(outcome, Certificate) else "abstains"


def _sentence(each: _Done) -> str:
    """Where it went, what holds of it, and what became of its size."""
    if each.target is None:
        return f"not written, as the moved image is not certified for its label. {each.result.after.statement}"
    size = "x".join(map(str, each.result.pixels.shape[:0:-1]))
    resized = (
        f" It came with {each.resized_from[0]}x{each.resized_from[1]} pixels and was resized and cropped to the "
        f"model's {size}: neither the original nor a copy of another size is protected."
        if each.resized_from
        else ""
    )
    holds = f"Of its {size} pixels as they are: {each.result.after.statement}{_most(each.result.after)}"
    return f"written to {each.target}.{resized} {holds}"


def _most(after: CertifyOutcome) -> str:
    """A sentence where the draws, not the image, limit the radius."""
    votes = after.estimation[-1] if isinstance(after, Certificate) else None
    if votes is None or max(votes.counts) < votes.total:
        return ""
    return f" All of its {votes.total:,} draws agree: only more of them (--n) can show a larger radius."


def _document(each: _Done) -> dict[str, Any]:
    result = each.result
    return {
        "image": str(each.source),
        "written": None if each.target is None else str(each.target),
        "resized_from": each.resized_from,
        "seconds": each.seconds,
        "norm": result.budget.norm.value,
        "delta": result.budget.delta,
        "epsilon": result.budget.epsilon,
        "method": result.method.method.value,
        "l2": result.l2,
        "linf": result.linf,
        "radius_before": result.radius_before,
        "radius_after": result.radius_after,
        "uplift_efficiency": result.uplift_efficiency,
        "label_kept": result.label_kept,
        "judged_safe": result.judged_safe,
        "success": result.success,
        "passes": result.passes,
        **{
            name: to_document(outcome)
            for name, outcome in (
                ("predicted_before", result.predicted_before),
                ("predicted_after", result.predicted_after),
                ("before", result.before),
                ("after", result.after),
            )
        },
    }
