"""`certserve evaluate`: how robust a model is, over a data set."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from certserve import datasets
from certserve.cli.coverage import coverage
from certserve.cli.evaluate_magnet import magnet
from certserve.cli.evaluate_preempt import preempt
from certserve.cli.output import fails_in_one_sentence, json_option, print_json, progress_bar, stdout
from certserve.cli.plans import certify_plan, dataset_plan_options
from certserve.datasets import Dataset
from certserve.evaluation.accuracy import Comparison, Share, certified_accuracy, compare
from certserve.evaluation.tables import Row, read_table
from certserve.images import Geometry
from certserve.smoothing.outcomes import Bound

if TYPE_CHECKING:
    from certserve.endpoints.local import LocalModel
    from certserve.evaluation.certify import Question

__all__ = ["evaluate"]

_PATH = click.Path(exists=True, path_type=Path)


@click.group()
def evaluate() -> None:
    """Measure a model over a data set.

    \b
    Example: certserve evaluate certify --data fashion-mnist --every 100 -o table.tsv
    """


@evaluate.command()
@click.option("--data", "paths", multiple=True, required=True, type=_PATH, help="Where the images are; repeatable.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The table to write or resume.")
@click.option("--model", help="A bundle's directory or a packaged model's name.")
@click.option("--execution", help="Which of the bundle's executions, by name; default: see `certserve doctor`.")
@click.option("--trust", is_flag=True, help="Allow a bundle whose file can run code of its own (torch.export).")
@click.option("--split", type=click.Choice(["train", "test"]), default="test", show_default=True, help="Which part.")
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Only idx divisible by this.")
@click.option("--sigma", type=float, help="Noise level; default: the model's.")
@click.option("--n0", type=int, help="Selection draws; default: the model's.")
@click.option("--n", type=int, help="Estimation draws; default: the model's.")
@click.option("--alpha", type=float, help="Probability of a false certificate; default: the model's.")
@dataset_plan_options
@click.option("--radius", "radii", type=float, multiple=True, help="Report accuracy here; repeatable.")
@click.option("--compare", "others", multiple=True, type=_PATH, help="Another table of the same images; repeatable.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a PNG of certified accuracy against radius.")
@json_option
@fails_in_one_sentence
def certify(
    paths: tuple[Path, ...],
    output: Path,
    model: str | None,
    execution: str | None,
    trust: bool,
    split: str,
    every: int,
    radii: tuple[float, ...],
    others: tuple[Path, ...],
    plot: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Certify a data set into a table, and report certified accuracy with exact intervals.

    The data are .npz files with x and y, folders with the original idx.gz or CIFAR files, or a folder of images
    with a CSV file (columns file, label). A table that is there already is gone on with.

    \b
    Example: certserve evaluate certify --data cifar10_test.npz --every 20 --n 10000 -o table.tsv
                 --compare published.tsv --plot curve.png
             certserve evaluate certify --data cifar10_test.npz --n 100000 --target-radius 0.5 -o half.tsv
    """
    from certserve.endpoints.local import open_model
    from certserve.evaluation.certify import Question, secret_of

    if plot:
        importlib.import_module("matplotlib")  # before the work, not after it
    names = _names([output, *others])
    tables = {names[path]: read_table(path) for path in others}
    with open_model(model, execution=execution, trust=trust, key_source=secret_of(output)) as opened:
        numbers = {name: options[name] for name in ("sigma", "n0", "n", "alpha")}
        question = Question(**numbers, plan=certify_plan(options), bound=Bound(options["bound"]))
        rows = _rows(opened, _read(opened, paths, split, every), question, output)
        alpha = question.alpha or opened.get_model().defaults.alpha
    wanted = radii or (0.0, 0.25, 0.5, 0.75)
    shares = [certified_accuracy(rows, radius, alpha=alpha) for radius in wanted]
    comparisons = {name: [compare(rows, table, radius) for radius in wanted] for name, table in tables.items()}
    if plot:
        from certserve.evaluation.plots import plot_certified_accuracy

        plot_certified_accuracy({names[output]: rows, **_of_the_same_images(tables, rows)}, plot)
    if as_json:
        compared = {name: [asdict(found) for found in table] for name, table in comparisons.items()}
        print_json({"certified_accuracy": [asdict(share) for share in shares], "compared_with": compared})
        return
    _print(shares, comparisons)


evaluate.add_command(coverage)
evaluate.add_command(magnet)
evaluate.add_command(preempt)


def _read(model: LocalModel, paths: Sequence[Path], split: str, every: int) -> Dataset:
    """The data set as the model takes it, thinned out."""
    info = model.get_model()
    channels, height, width = info.shape
    geometry = Geometry(channels, height, width, info.colour, info.resize or None)
    data = datasets.read(paths, split=split, geometry=geometry, classes=info.labels)
    data.check((channels, height, width), info.labels)
    return data.where(data.idx % every == 0)


def _rows(model: LocalModel, data: Dataset, question: Question, output: Path) -> list[Row]:
    """The table's rows, asked of the model where they are missing."""
    from certserve.evaluation.certify import certify_dataset

    with progress_bar(f"certifying {len(data)} images", len(data)) as report:
        return certify_dataset(model, data, question, output, report)


def _of_the_same_images(tables: Mapping[str, Sequence[Row]], rows: Sequence[Row]) -> dict[str, Sequence[Row]]:
    """The tables without the images that ours has not; curves of other images are not to be compared."""
    ours = {row.idx for row in rows}
    return {name: [row for row in table if row.idx in ours] for name, table in tables.items()}


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """What each table is called: its file's name where no other has the same, else its path."""
    stems = [path.stem for path in dict.fromkeys(paths)]
    return {path: path.stem if stems.count(path.stem) == 1 else str(path) for path in paths}


def _print(shares: Sequence[Share], comparisons: dict[str, list[Comparison]]) -> None:
    table = Table(header_style="bold")
    for heading in ("radius", "certified accuracy", "95 % interval", *(f"less {escape(name)}" for name in comparisons)):
        table.add_column(heading, justify="right")
    for i, share in enumerate(shares):
        cells = [f"{share.radius:g}", f"{share.value:.3f} ({share.count} of {share.total})"]
        cells.append(f"{share.low:.3f} to {share.high:.3f}")
        for found in (rows[i] for rows in comparisons.values()):
            cells.append(f"{found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})")
        table.add_row(*cells)
    console = stdout()
    console.print(table)
    console.print(
        "Abstentions and wrong labels count as failures. The lower ends allow for false certificates; differences "
        "are paired, on the images that both tables hold.",
        highlight=False,
    )
