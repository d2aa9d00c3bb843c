"""`certserve verify`: whether a certificate follows from its own numbers."""

from __future__ import annotations

import json
import math
from typing import Any, TextIO

import click
from rich.markup import escape

from certserve.cli.output import fails_in_one_sentence, json_option, print_json, stdout
from certserve.endpoints.verification import verify as verify_outcome
from certserve.errors import VerificationFailed
from certserve.smoothing.document import from_document

__all__ = ["verify"]

_BESIDE = ("image", "seconds")


@click.command()
@click.argument("file", type=click.File(encoding="utf-8"))
@json_option
@click.pass_context
@fails_in_one_sentence
def verify(ctx: click.Context, file: TextIO, as_json: bool) -> None:
    """Check the outcomes in FILE (`-`: standard input), as `certify --json` or `predict --json` wrote them.

    The bound, the radius and the votes are recomputed by interval arithmetic; no model is needed and nothing is
    drawn again. Exit code 1 if one of them claims more than its numbers carry.

    \b
    Example: certserve certify photo.png --json | certserve verify -
    """
    reports = [_report(document) for document in _documents(file)]
    if as_json:
        print_json(reports)
    else:
        console = stdout()
        for report in reports:
            mark = "[green]holds[/green]" if report["holds"] else "[red]DOES NOT HOLD[/red]"
            console.print(f"{mark}: {escape(report['statement'])}", highlight=False)
            for line in report["discrepancies"]:
                console.print(f"  - claims too much: {line}", highlight=False, markup=False)
            for line in report["checked"]:
                console.print(f"  - {line}", highlight=False, markup=False)
    if not all(report["holds"] for report in reports):
        ctx.exit(1)


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


def _report(document: Any) -> dict[str, Any]:
    if isinstance(document, dict):
        document = {name: value for name, value in document.items() if name not in _BESIDE}
    outcome = from_document(document)
    try:
        checked = verify_outcome(outcome)
    except VerificationFailed as error:
        return {
            "holds": False,
            "statement": outcome.statement,
            "discrepancies": list(error.discrepancies),
            "checked": [],
        }
    return {"holds": True, "statement": outcome.statement, "discrepancies": [], "checked": list(checked)}
