"""`certserve evaluate magnet`: how far a bundle's MagNet can be trusted, and how an attack that knows of it fares."""

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
from certserve.cli.values import read_numbers
from certserve.images import Geometry

if TYPE_CHECKING:
    from certserve.evaluation.magnet.report import Report

__all__ = ["magnet"]

_PATH = click.Path(exists=True, path_type=Path)


@click.command()
@click.option("--data", "paths", multiple=True, required=True, type=_PATH, help="Where the images are; repeatable.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A folder, made or gone on with.")
@click.option("--model", help="A bundle's directory or a packaged model's name.")
@click.option("--trust", is_flag=True, help="Allow a bundle whose file can run code of its own (torch.export).")
@click.option("--split", type=click.Choice(["train", "test"]), default="test", show_default=True, help="Which part.")
@click.option("--images", type=int, default=200, show_default=True, help="How many are attacked.")
@click.option("--kappa", "kappas", default="0,10,20,40", show_default=True, help="Confidences, in logits.")
@click.option("--searches", type=int, default=5, show_default=True, help="Values of c that an image is tried with.")
@click.option("--steps", type=int, default=500, show_default=True, help="Of Carlini and Wagner's attack with each.")
@click.option("--first-c", "first", type=float, default=1e-3, show_default=True, help="The first; ten times it next.")
@click.option("--adaptive-kappa", type=float, default=0.0, show_default=True, help="Of the attack that knows MagNet.")
@click.option("--adaptive/--no-adaptive", default=True, show_default=True, help="Whether that attack is made.")
@click.option("--linf", type=float, default=0.1, show_default=True, help="Epsilon of FGSM and PGD in Linf.")
@click.option("--l2", type=float, default=1.5, show_default=True, help="Epsilon of PGD in L2.")
@click.option("--pgd-steps", type=int, default=40, show_default=True, help="Steps of PGD, at least 2.")
@click.option("--batch", type=int, default=100, show_default=True, help="Images attacked at once.")
@json_option
@fails_in_one_sentence
def magnet(
    paths: tuple[Path, ...],
    output: Path,
    model: str | None,
    trust: bool,
    split: str,
    kappas: str,
    adaptive: bool,
    adaptive_kappa: float,
    as_json: bool,
    **numbers: Any,
) -> None:
    """Attack a model and its MagNet, and report what detectors and reformer hold.

    Images are attacked that the classifier answers rightly: by FGSM, PGD and Carlini and Wagner, which know of the
    classifier alone, and by the last with knowledge of reformer, detectors and thresholds. The folder gets
    magnet.csv, .json, .png and .html. Attacked images are kept there, so that the same command goes on where it was
    interrupted. It needs a bundle with weights for torch.

    \b
    Example: certserve evaluate magnet --model mnist --data mnist -o made
             certserve evaluate magnet --model mnist --data mnist --images 20 --kappa 0 --steps 100 -o made
    """
    from certserve.evaluation.magnet import Question, evaluate_magnet
    from certserve.evaluation.magnet.report import document

    importlib.import_module("matplotlib")  # before the work, not after it
    chosen = tuple(read_numbers("--kappa", kappas) or ())
    question = Question(kappas=chosen, adaptive=adaptive_kappa if adaptive else None, **numbers)
    bundle = bundles.read(zoo.path_of(model))
    geometry = Geometry(*bundle.shape, bundle.colour, bundle.resize)
    data = datasets.read(paths, split=split, geometry=geometry, classes=bundle.labels)
    data.check(bundle.shape, bundle.labels)
    found = evaluate_magnet(bundle, data, question, output, trust=trust, say=lambda line: click.echo(line, err=True))
    if as_json:
        print_json(document(found))
        return
    _print(found, output)


def _print(report: Report, folder: Path) -> None:
    table = Table(header_style="bold")
    table.add_column("attack")
    for heading in ("pixels", "attained", "mean L2", "no defence", "detectors", "reformer", "both"):
        table.add_column(heading, justify="right")
    for line in report.lines:
        mean = "-" if line.mean_l2 is None else f"{line.mean_l2:.3f}"
        table.add_row(
            escape(line.attack), line.pixels, str(line.attained), mean, *(f"{share:.1%}" for share in line.shares)
        )
    clean, adaptive = report.clean, report.adaptive
    lines = [
        f"Right or flagged, of {report.images} images that the classifier answers rightly; those that an attack did "
        "not attain are counted too.",
        f"Images as they are: {clean.passed / clean.images:.2%} of {clean.images} right with everything on, "
        f"{clean.alone / clean.images:.2%} without; {clean.flagged / clean.images:.2%} flagged, nominally "
        f"{clean.rate:.2%} at most.",
        *(
            f"{alarm.detector} flags {alarm.flagged}, nominally {alarm.rate:.2%}: {alarm.low} to {alarm.high} are "
            "to be expected (95 %)."
            for alarm in clean.alarms
        ),
    ]
    if adaptive is not None and adaptive.ratio is not None:
        lines.append(
            f"The adaptive attack gets past on {adaptive.success:.1%} ({adaptive.success_8bit:.1%} in 8 bits), the "
            f"oblivious one on {adaptive.oblivious:.1%}; distortion {adaptive.ratio:.2f} times."
        )
    console = stdout()
    console.print(table)
    for said in (*lines, *report.statements, f"Table, picture and page: {folder}/magnet.html"):
        console.print(said, highlight=False, markup=False, soft_wrap=True)
