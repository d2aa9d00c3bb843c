"""What every command prints, and how it fails: tables, JSON, progress, one sentence for an error."""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import click
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from certserve.errors import CertserveError, InvalidRequest
from certserve.smoothing.document import AnyOutcome, to_document
from certserve.smoothing.outcomes import Abstention, Certificate, Prediction, Rejected, Undecided, Votes, round_down

__all__ = [
    "Answer",
    "fails_in_one_sentence",
    "json_option",
    "live_answer",
    "print_answers",
    "print_json",
    "progress_bar",
    "result_table",
    "stdout",
]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Answer = tuple[str, AnyOutcome, float]
"""The image's name, the outcome, and the seconds it took."""

_PATIENCE_SECONDS = 2.0
_EXTRAS = {"matplotlib": "evaluate", "safetensors": "train", "torch": "train"}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def stdout() -> Console:
    """A console on standard output; where that is no terminal, wide enough for any table."""
    return Console(width=None if sys.stdout.isatty() else 120)


def print_json(document: Any) -> None:
    """A JSON document on standard output, floats with all their digits."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_answers(answers: list[Answer], as_json: bool) -> None:
    """The outcomes: as a table and a sentence about each, or as JSON (an object, or a list for several)."""
    if as_json:
        documents = [{"image": name, "seconds": seconds, **to_document(outcome)} for name, outcome, seconds in answers]
        print_json(documents[0] if len(documents) == 1 else documents)
        return
    console = stdout()
    console.print(result_table(answers))
    for name, outcome, _ in answers:
        console.print(f"{Path(name).name}: {outcome.statement}", highlight=False, markup=False)
    spaces = sorted({outcome.origin.space.description for _, outcome, _ in answers})
    console.print(f"The pixels spoken of are {'; '.join(spaces)}.", highlight=False, markup=False)


def result_table(answers: list[Answer]) -> Table:
    """A row an image: answer, certified radius (rounded down), votes, time."""
    table = Table(header_style="bold")
    for heading, justify in _HEADINGS:
        table.add_column(heading, justify=justify)
    for name, outcome, seconds in answers:
        table.add_row(*map(escape, (Path(name).name, *_cells(outcome), f"{seconds:.2f} s")))
    return table


_HEADINGS: tuple[tuple[str, Any], ...] = (
    ("image", "left"),
    ("answer", "left"),
    ("certified L2 radius", "right"),
    ("votes for it", "right"),
    ("time", "right"),
)


def _cells(outcome: AnyOutcome) -> tuple[str, str, str]:
    if isinstance(outcome, Certificate):
        votes = outcome.estimation[-1]
        return outcome.label_name, round_down(outcome.radius), _share(votes, outcome.label)
    if isinstance(outcome, Prediction):
        return outcome.label_name, "not asked for", _share(outcome.votes, outcome.label)
    if isinstance(outcome, Abstention):
        return f"abstains (leading: {outcome.candidate_name})", "-", _share(outcome.estimation[-1], outcome.candidate)
    if isinstance(outcome, Rejected):
        flagging = ", ".join(detector.name for detector in outcome.detectors if detector.flagged)
        return f"rejected (flagged by {flagging})", "-", "none drawn"
    assert isinstance(outcome, Undecided)
    return "undecided", "-", "-"


def _share(votes: Votes, label: int) -> str:
    return f"{votes.counts[label]:,} of {votes.total:,}"


@contextmanager
def live_answer(image: str) -> Iterator[Callable[[AnyOutcome], None]]:
    """Shows the latest of an image's outcomes on standard error: a line in place on a terminal, else a line each."""
    console = Console(stderr=True)
    start = time.perf_counter()

    def line(outcome: AnyOutcome) -> str:
        answer, radius, votes = _cells(outcome)
        return f"{Path(image).name}: {answer}, radius {radius}, {votes}, {time.perf_counter() - start:.2f} s"

    if not console.is_terminal:
        yield lambda outcome: console.print(line(outcome), highlight=False, markup=False, soft_wrap=True)
        return
    with Live(console=console, transient=True) as live:
        yield lambda outcome: live.update(Text(line(outcome)))


@contextmanager
def progress_bar(
    description: str, total: float | None = None, *, shown: bool = True
) -> Iterator[Callable[[float, float | None], None]]:
    """A bar on standard error, shown when the work takes over two seconds; call with (done, total)."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )
    task = bar.add_task(description, total=total)
    timer = threading.Timer(_PATIENCE_SECONDS, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda done, of: bar.update(task, completed=done, total=of)
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


def fails_in_one_sentence(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Errors that a user can act on become one sentence on standard error, and exit code 1 (2: a wrong request)."""

    @functools.wraps(command)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return command(*args, **kwargs)
        except InvalidRequest as error:
            _fail(str(error), 2)
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get(error.name or "", "server")
            _fail(f"{error.name} is not installed; this command needs `pip install 'certserve[{extra}]'`.", 1)
        except (CertserveError, OSError, ValueError) as error:
            _fail(str(error), 1)

    return wrapped


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"certserve: {message}", err=True)
    sys.exit(code)
