"""`certserve train`: from a user's labelled images to a bundle that can be served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from certserve.cli.output import fails_in_one_sentence, json_option, print_json, progress_bar, stdout
from certserve.cli.values import read_labels, read_shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from certserve.training.classifier import OnProgress, Progress

__all__ = ["train"]

_PATH = click.Path(exists=True, path_type=Path)
_NEW = click.Path(path_type=Path)


@click.group()
def train() -> None:
    """Train a model on your own images.

    \b
    Example: certserve train classifier --data photos --sigma 0.25 -o my-bundle
    """


@train.command()
@click.option("--data", "paths", multiple=True, required=True, type=_PATH, help="Where the images are; repeatable.")
@click.option("-o", "--output", required=True, type=_NEW, help="The bundle to make, a directory.")
@click.option("--run", "folder", type=_NEW, help="Log and checkpoint; default: the output's name and .training.")
@click.option("--labels", help="Class names in order: a file as for `bundle create`, or a,b,c.")
@click.option("--name", help="The model's name; default: the output's.")
@click.option("--description", default="", help="A sentence about it.")
@click.option("--shape", help="channels,height,width that image files are resized and cropped to: 3,64,64.")
@click.option("--start-from", type=_PATH, help="A bundle to begin with the weights of.")
@click.option("--sigma", type=float, default=0.25, show_default=True, help="Noise, in units of pixels in [0, 1].")
@click.option("--epochs", type=int, default=40, show_default=True, help="Passes over the images.")
@click.option("--consistency", type=float, default=2.0, show_default=True, help="lambda of the consistency loss.")
@click.option("--entropy", type=float, default=0.5, show_default=True, help="eta of the consistency loss.")
@click.option("--ramp", type=float, default=0.5, show_default=True, help="Share of the steps over which both rise.")
@click.option("--copies", type=int, default=2, show_default=True, help="Noisy copies of an image in a step.")
@click.option("--batch", type=int, default=128, show_default=True, help="Images in a step.")
@click.option("--learning-rate", type=float, default=0.1, show_default=True, help="Its largest value.")
@click.option("--widths", default="64,128", show_default=True, help="Channels of each stage of the network.")
@click.option("--blocks", type=int, default=2, show_default=True, help="Residual blocks in each stage.")
@click.option("--shift", type=int, default=4, show_default=True, help="Images are moved by up to this many pixels.")
@click.option("--flip/--no-flip", default=True, show_default=True, help="Mirror half of them (not letters or digits).")
@click.option("--held-out", type=float, default=0.1, show_default=True, help="Share no step sees; at most 5,000.")
@click.option("--precision", type=click.Choice(["bfloat16", "float32"]), help="Default: bfloat16 where it is fast.")
@click.option("--threads", type=int, help="On a CPU; default: all cores.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides all that is random.")
@json_option
@fails_in_one_sentence
def classifier(
    paths: tuple[Path, ...],
    output: Path,
    folder: Path | None,
    labels: str | None,
    name: str | None,
    description: str,
    shape: str | None,
    start_from: Path | None,
    widths: str,
    as_json: bool,
    **recipe: Any,
) -> None:
    """Train a classifier with Gaussian noise and consistency regularisation, and make a bundle of it.

    The data are .npz files with x and y, folders with the original idx.gz or CIFAR files, or a folder of images
    with a CSV file (columns file, label). A run that was interrupted is gone on with: give the same command again.
    Plain noise augmentation (Cohen et al. 2019) is --copies 1 --consistency 0 --entropy 0.

    \b
    Example: certserve train classifier --data photos --shape 3,64,64 --sigma 0.25 -o my-bundle
    """
    from certserve.training.job import Job, fill_recipe, run

    chosen = Job(
        paths=paths,
        output=output,
        folder=folder or output.with_name(output.name + ".training"),
        labels=tuple(read_labels(labels)) if labels else (),
        name=name or output.resolve().name,
        description=description,
        shape=read_shape(shape),
        start_from=start_from,
        recipe=fill_recipe(widths=_widths(widths), **recipe),
    )
    with progress_bar(f"training {chosen.name}") as report:
        made = run(chosen, on_progress=_reporter(report, chosen.recipe.epochs))
    if as_json:
        print_json({"path": str(output), "run": str(chosen.folder), "provenance": dict(made.provenance)})
        return
    stdout().print(
        f"Made {output}; log, plot and the held-out images are in {chosen.folder}.\n"
        f"Measure: certserve evaluate certify --data {chosen.folder}/held_out.npz --model {output} "
        f"-o {output.name}.tsv\n"
        f"Serve: certserve serve --model {output}",
        highlight=False,
        markup=False,
        soft_wrap=True,  # commands to copy stay on one line
    )


def _reporter(report: Callable[[float, float | None], None], epochs: int) -> OnProgress:
    """Moves the bar at every step, and prints a line on standard error at the end of an epoch."""
    printed = 0

    def told(progress: Progress) -> None:
        nonlocal printed
        report(progress.step, progress.steps)
        for epoch in progress.epochs[printed:]:
            left = epoch.seconds / epoch.epoch * (epochs - epoch.epoch)
            click.echo(
                f"epoch {epoch.epoch} of {epochs}: loss {epoch.loss:.3f}, held-out accuracy under noise "
                f"{epoch.noisy_accuracy:.3f}, {left / 60:.0f} min left",
                err=True,
            )
        printed = len(progress.epochs)

    return told


def _widths(text: str) -> tuple[int, ...]:
    if not all(width.strip().isdigit() for width in text.split(",")):
        raise click.BadParameter(f"expected whole numbers separated by commas, not {text!r}", param_hint="--widths")
    return tuple(int(width) for width in text.split(","))
