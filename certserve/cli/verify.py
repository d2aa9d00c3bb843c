"""`certserve verify`: whether a certificate follows from its own numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from rich.markup import escape

from certserve.cli.output import fails_in_one_sentence, json_option, print_json, stdout
from certserve.endpoints.signatures import read_public_key
from certserve.endpoints.verification import verify as verify_outcome
from certserve.endpoints.verification import verify_by_drawing
from certserve.errors import VerificationFailed
from certserve.images import ImageFit
from certserve.noise.keystream import Secret
from certserve.smoothing.document import AnyOutcome, from_document

if TYPE_CHECKING:
    from certserve.endpoints.local import LocalModel

__all__ = ["verify"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_BESIDE = ("image", "seconds")


@click.command()
@click.argument("file", type=click.File(encoding="utf-8"))
@click.option("--secret-file", type=_FILE, help="The 64 hex digits that keyed the noise: draw it all again.")
@click.option("--image", type=_FILE, help="With --secret-file: the image that the outcome is about, as it was sent.")
@click.option("--model", help="With --secret-file: a bundle's directory or a packaged model's name.")
@click.option("--fit", type=click.Choice([fit.value for fit in ImageFit]), default="exact", help="As it was asked for.")
@click.option("--public-key", metavar="FILE|BASE64", help="Demand the signature of the server with this key.")
@json_option
@click.pass_context
@fails_in_one_sentence
def verify(
    ctx: click.Context,
    file: TextIO,
    secret_file: Path | None,
    image: Path | None,
    model: str | None,
    fit: str,
    public_key: str | None,
    as_json: bool,
) -> None:
    """Check the outcomes in FILE (`-`: standard input), as `certify --json` or `predict --json` wrote them.

    The bound, the radius and the votes are recomputed by interval arithmetic; that needs no model, and nothing is
    drawn again. With the secret that the noise was keyed with, the image and the bundle, it is: on a machine like the
    one that issued it, every vote must come out the same. With --public-key, every outcome must be signed by the
    server that has this key; without, signatures are not looked at. Exit code 1 if an outcome claims more than its
    numbers carry, or than the noise shows, or is not signed as demanded.

    \b
    Example: certserve certify photo.png --json | certserve verify -
             certserve verify certificate.json --secret-file secret.hex --image photo.png --model my-bundle
             certserve verify certificate.json --public-key public.txt
    """
    if (secret_file is None) != (image is None):
        raise click.UsageError("--secret-file and --image go together.")
    key = None if public_key is None else read_public_key(public_key)
    documents = _documents(file)
    if secret_file is not None and image is not None:
        with _opened(documents, secret_file, model) as opened:
            reports = [
                _report(document, key, lambda outcome: (verify_by_drawing(outcome, opened, image, ImageFit(fit)),))
                for document in documents
            ]
    else:
        reports = [_report(document, key, lambda outcome: ()) for document in documents]
    _print(reports, as_json)
    if not all(report["holds"] for report in reports):
        ctx.exit(1)


def _opened(documents: list[Any], secret_file: Path, model: str | None) -> LocalModel:
    """The model, with the execution that the first outcome names."""
    from certserve.endpoints.local import open_model

    execution = _outcome(documents[0]).origin.execution
    return open_model(model, execution=execution, key_source=Secret.from_file(secret_file))


def _print(reports: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(reports)
        return
    console = stdout()
    for report in reports:
        mark = "[green]holds[/green]" if report["holds"] else "[red]DOES NOT HOLD[/red]"
        console.print(f"{mark}: {escape(report['statement'])}", highlight=False)
        for line in report["discrepancies"]:
            console.print(f"  - fails: {line}", highlight=False, markup=False)
        for line in report["checked"]:
            console.print(f"  - {line}", highlight=False, markup=False)


def _documents(file: TextIO) -> list[Any]:
    try:
        document = json.load(file, parse_float=_real, parse_constant=_real, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name}: not JSON ({error}); expected what `certserve certify --json` prints") from error
    if document == []:
        raise ValueError(f"{file.name}: no outcome in it; expected what `certserve certify --json` prints")
    return document if isinstance(document, list) else [document]


def _real(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _integer(text: str) -> int:
    if len(text) > 19:  # the protocol's integers have 64 bits
        raise ValueError(f"{text[:19]}... is too large")
    return int(text)


def _outcome(document: Any) -> AnyOutcome:
    if isinstance(document, dict):
        document = {name: value for name, value in document.items() if name not in _BESIDE}
    return from_document(document)


def _report(
    document: Any, public_key: bytes | None, draw_again: Callable[[AnyOutcome], tuple[str, ...]]
) -> dict[str, Any]:
    outcome = _outcome(document)
    checked: tuple[str, ...] = ()
    discrepancies: list[str] = []
    try:
        checked = (*verify_outcome(outcome, public_key=public_key), *draw_again(outcome))
    except VerificationFailed as error:
        discrepancies += error.discrepancies
    if document.get("statement", outcome.statement) != outcome.statement:
        discrepancies.append("the statement in the file is not that of its numbers, or of another version's wording")
    return {
        "holds": not discrepancies,
        "statement": outcome.statement,
        "discrepancies": discrepancies,
        "checked": [] if discrepancies else list(checked),
    }
