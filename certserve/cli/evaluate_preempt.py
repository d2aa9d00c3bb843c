"""`certserve evaluate preempt`: what it is worth to move images before an adversary gets them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from certserve import bundle as bundles
from certserve import datasets, zoo
from certserve.cli.output import fails_in_one_sentence, json_option, print_json, stdout
from certserve.cli.values import read_numbers, read_qualities
from certserve.images import Geometry

if TYPE_CHECKING:
    from certserve.evaluation.preempt.report import Report

__all__ = ["preempt"]

_PATH = click.Path(exists=True, path_type=Path)


@click.command()
@click.option("--data", "paths", multiple=True, required=True, type=_PATH, help="Where the images are; repeatable.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A folder, made or gone on with.")
@click.option("--model", help="A bundle's directory or a packaged model's name; it needs weights for torch.")
@click.option("--execution", help="Which of the bundle's executions, by name; default: see `certserve doctor`.")
@click.option("--trust", is_flag=True, help="Allow a bundle whose file can run code of its own (torch.export).")
@click.option("--split", type=click.Choice(["train", "test"]), default="test", show_default=True, help="Which part.")
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Only idx divisible by this.")
@click.option("--delta", type=float, default=0.5, show_default=True, help="How far an image may be moved, L2.")
@click.option("--epsilon", type=float, help="How far an adversary may move it afterwards; default: delta.")
@click.option("--sigma", type=float, help="Noise level; default: the model's.")
@click.option("--n0", type=int, help="Selection draws of each certificate; default: the model's.")
@click.option("--n", type=int, help="Estimation draws of each certificate; default: the model's.")
@click.option("--alpha", type=float, help="Probability of a false certificate; default: the model's.")
@click.option("--steps", type=int, default=20, show_default=True, help="Of the randomized PGD.")
@click.option("--draws", type=int, default=50, show_default=True, help="Of noise in each of its steps.")
@click.option("--bfloat16", is_flag=True, help="Attack in bfloat16, faster where processors have it.")
@click.option("--quality", "qualities", default="95,85", show_default=True, help="JPEG qualities, 1 to 100.")
@click.option("--radius", "radii", default="0,0.25,0.5,0.75", show_default=True, help="Radii of certified accuracy.")
@click.option("--jpeg", help="LOWEST-HIGHEST, as 75-95: search with JPEG in mind too, as `robustify --jpeg`.")
@click.option("--compare-every", type=click.IntRange(0), default=0, show_default=True,
              help="Slower searches too, where idx is divisible by this; 0: none.")  # fmt: skip
@click.option("--ensemble", is_flag=True, help="Attack with APGD-CE and APGD-DLR too, 4,000 passes an image.")
@click.option("--report", "only_report", is_flag=True, help="Make nothing more; report what there is.")
@json_option
@fails_in_one_sentence
def preempt(
    paths: tuple[Path, ...],
    output: Path,
    model: str | None,
    execution: str | None,
    trust: bool,
    split: str,
    every: int,
    only_report: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Move images as `certserve robustify` does, and report how much better they withstand.

    Accuracy under attack (randomized PGD) and certified accuracy before and after, what PNG and JPEG leave of it, and
    what an adversary reaches who knows the method: it runs the method backwards to guess the original. The folder
    gets preempt.csv, .json, .png and .html, the rows they are made of and the moved images, so that the same command
    goes on where it was interrupted; one with a smaller --every adds images.

    \b
    Example: certserve evaluate preempt --model cifar10 --data cifar10_test.npz --every 80 -o made
             certserve evaluate preempt --model cifar10 --data cifar10_test.npz --every 20 --bfloat16 -o made
    """
    from certserve.endpoints.local import open_model
    from certserve.evaluation.certify import secret_of
    from certserve.evaluation.preempt import evaluate_preempt
    from certserve.evaluation.preempt.report import document

    importlib.import_module("matplotlib")  # before the work, not after it
    question = _question(options)
    bundle = bundles.read(zoo.path_of(model))
    geometry = Geometry(*bundle.shape, bundle.colour, bundle.resize)
    data = datasets.read(paths, split=split, geometry=geometry, classes=bundle.labels)
    data.check(bundle.shape, bundle.labels)
    data = data.where(data.idx % every == 0)
    output.mkdir(parents=True, exist_ok=True)
    with open_model(model, execution=execution, trust=trust, key_source=secret_of(output / "rows")) as opened:
        found = evaluate_preempt(
            opened, bundle, data, question, output, only_report=only_report, say=lambda line: click.echo(line, err=True)
        )
    if as_json:
        print_json(document(found))
        return
    _print(found, output)


def _question(options: dict[str, Any]) -> Any:
    from certserve.attacks.smoothed import Precision
    from certserve.evaluation.preempt import Question

    names = ("delta", "sigma", "n0", "n", "alpha", "steps", "draws", "compare_every", "ensemble")
    delta, epsilon = options["delta"], options["epsilon"]
    return Question(
        **{name: options[name] for name in names},
        epsilon=delta if epsilon is None else epsilon,
        precision=Precision.BFLOAT16 if options["bfloat16"] else Precision.FLOAT32,
        qualities=tuple(int(number) for number in read_numbers("--quality", options["qualities"]) or ()),
        aware=read_qualities(options["jpeg"]),
        radii=tuple(read_numbers("--radius", options["radii"]) or ()),
    )


def _print(report: Report, folder: Path) -> None:
    from certserve.evaluation.preempt.report import NO_GUARANTEE, certified_table, summary

    console = stdout()
    headings, rows = certified_table(report)
    certified = Table(header_style="bold")
    for heading in headings:
        certified.add_column(heading)
    for row in rows:
        certified.add_row(*map(escape, row))
    console.print(certified)
    table = Table(header_style="bold")
    for heading, justify in (("", "left"), (f"{report.figures.images} images", "right"), ("95 % interval", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for line in summary(report):
        table.add_row(*map(escape, line))
    console.print(table)
    for said in (NO_GUARANTEE, f"Table, picture and page: {folder}/preempt.html"):
        console.print(said, highlight=False, markup=False, soft_wrap=True)
