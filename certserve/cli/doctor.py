"""`certserve doctor`: what this machine has, and which execution it would serve."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from certserve.cli.output import fails_in_one_sentence, json_option, print_json, stdout
from certserve.errors import BundleError

__all__ = ["doctor"]


@click.command()
@click.option("--model", "models", multiple=True, help="A bundle's directory or a packaged model's name; repeatable.")
@json_option
@fails_in_one_sentence
def doctor(models: tuple[str, ...], as_json: bool) -> None:
    """Say what the hardware can do, which runtimes are installed, and what each model would be served by.

    Models are the packaged ones, unless others are named; none is loaded.

    \b
    Example: certserve doctor --model my-bundle
    """
    from certserve.backends.machine import hardware, runtimes, warnings
    from certserve.zoo import packaged

    report = {
        "hardware": hardware(),
        "runtimes": runtimes(),
        "models": {name: _executions(name) for name in models or packaged()},
        "warnings": warnings(),
    }
    if as_json:
        print_json(report)
        return
    _print(report)


def _executions(name: str) -> list[str]:
    """The executions of a model that can run here, the one that would serve first."""
    from certserve import bundle
    from certserve.backends.choice import ranked
    from certserve.zoo import path_of

    try:
        return [f"{e.name} ({e.runtime}, {e.precision})" for e in ranked(bundle.read(path_of(name)))]
    except BundleError as error:
        return [str(error)]


def _print(report: dict[str, Any]) -> None:
    console = stdout()
    for heading in ("hardware", "runtimes"):
        table = Table(title=heading, show_header=False, title_justify="left")
        for name, value in report[heading].items():
            table.add_row(name, value)
        console.print(table)
    table = Table("model", "would be served by", "could be", title="models", title_justify="left")
    for name, (first, *others) in report["models"].items():
        table.add_row(name, first, ", ".join(others) or "-")
    console.print(table)
    for warning in report["warnings"]:
        console.print(f"Warning: {warning}.", markup=False, highlight=False)
