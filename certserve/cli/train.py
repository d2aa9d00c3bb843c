"""`certserve train`: from a user's labelled images to a bundle that can be served."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from certserve.cli.output import fails_in_one_sentence, json_option, print_json, progress_bar, stdout
from certserve.cli.values import read_labels, read_numbers, read_shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from certserve.training.plan import MagnetPlan
    from certserve.training.recipe import Adversary
    from certserve.training.run import OnProgress, Progress

__all__ = ["train"]

_PATH = click.Path(exists=True, path_type=Path)
_NEW = click.Path(path_type=Path)
_RECIPE = ("noise", "epochs", "batch", "learning_rate", "threads", "seed")


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
@click.option("--adversary", type=click.Choice(["L2", "Linf"]), help="Train against one: the norm that bounds it.")
@click.option("--epsilon", type=float, help="How far the adversary moves an image, in input units.")
@click.option("--delta", type=float, default=0.0, show_default=True, help="How far a defender moved it before.")
@click.option("--attack-steps", type=int, default=10, show_default=True, help="Of the adversary, for each image.")
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
    adversary: str | None,
    epsilon: float | None,
    delta: float,
    attack_steps: int,
    as_json: bool,
    **recipe: Any,
) -> None:
    """Train a classifier with Gaussian noise and consistency regularisation, and make a bundle of it.

    The data are .npz files with x and y, folders with the original idx.gz or CIFAR files, or a folder of images
    with a CSV file (columns file, label). A run that was interrupted is gone on with: give the same command again.
    Plain noise augmentation (Cohen et al. 2019) is --copies 1 --consistency 0 --entropy 0. With --adversary each
    copy is moved before its noise is added (Salman et al. 2019); --delta lets a defender move it first (Moon, An and
    Song 2022). Both make a step as many times slower as they take passes.

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
        recipe=fill_recipe(
            widths=_widths(widths),
            adversary=_adversary(adversary, epsilon, delta, attack_steps),
            **recipe,
        ),
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


@train.command()
@click.option("--bundle", required=True, type=_PATH, help="The bundle that gets the MagNet, a directory.")
@click.option("--data", "paths", multiple=True, required=True, type=_PATH, help="The classifier's training images.")
@click.option("--run", "folder", type=_NEW, help="Logs and checkpoints; default: the bundle's name and .magnet.")
@click.option("--plan", help="mnist, cifar or cifar-bn; default: mnist for grey images, else cifar-bn.")
@click.option("--noise", type=float, help="Standard deviation, pixels in [0, 1]; default: .1 for mnist, else .025.")
@click.option("--epochs", type=int, help="Passes over the images; default: 10, for cifar-bn 5.")
@click.option("--batch", type=int, help="Images in a step; default: 32, for cifar-bn 64.")
@click.option("--learning-rate", type=float, help="Its largest value; default: .03, for cifar-bn .003.")
@click.option("--width", type=int, help="Channels of the inner layers; default: 3, for cifar-bn 32.")
@click.option("--temperatures", help="Of the jsd detectors: 10,40 by default, or none.")
@click.option("--rate", type=float, help="False-positive rate of each l1 or l2 detector; default: .001 or .005.")
@click.option("--jsd-rate", type=float, help="False-positive rate of each jsd detector; default: .001 or .01.")
@click.option("--reformer/--no-reformer", default=True, show_default=True, help="Whether the bundle gets one.")
@click.option("--held-out", type=float, help="Share of the images no step sees; default: the classifier's, or .1.")
@click.option("--threads", type=int, help="On a CPU; default: all cores.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides all that is random.")
@click.option("--trust", is_flag=True, help="Load a bundle whose file can run code of its own (.pt2).")
@json_option
@fails_in_one_sentence
def magnet(
    bundle: Path,
    paths: tuple[Path, ...],
    folder: Path | None,
    plan: str | None,
    held_out: float | None,
    trust: bool,
    as_json: bool,
    **changes: Any,
) -> None:
    """Train MagNet's autoencoders, calibrate its detectors, and put both into a bundle.

    Give the images that the classifier was trained with: those that its training held out calibrate the detectors. A
    run that was interrupted is gone on with: give the same command again. MagNet guarantees nothing; an attack that
    knows of it breaks it.

    \b
    Example: certserve train magnet --bundle my-bundle --data photos
    """
    from certserve.training.magnet import MagnetJob, run

    folder = folder or bundle.resolve().with_name(bundle.resolve().name + ".magnet")
    job = MagnetJob(bundle, paths, folder, _plan(bundle, plan, changes), held_out, trust)
    reporters: dict[str, OnProgress] = {}
    with progress_bar(f"training MagNet of {bundle}") as report:
        made = run(
            job,
            on_progress=lambda name, progress: reporters.setdefault(
                name, _reporter(report, job.plan.recipe.epochs, f"autoencoder {name}, ")
            )(progress),
        )
    assert made.magnet is not None
    if as_json:
        print_json({"path": str(bundle), "run": str(folder), "provenance": dict(made.provenance)})
        return
    detectors = ", ".join(f"{detector.name} ({detector.rate:g})" for detector in made.magnet.detectors)
    stdout().print(
        f"{bundle} has a MagNet now; logs and plots are in {folder}.\n"
        f"Detectors and their nominal false-positive rates: {detectors}; together at most {made.magnet.rate:g}.\n"
        f"Reformer: {'autoencoder ' + made.magnet.reformer if made.magnet.reformer else 'none'}.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _plan(bundle: Path, name: str | None, changes: dict[str, Any]) -> MagnetPlan:
    """The plan that fits the bundle's images, with what the options change."""
    from certserve import bundle as bundles
    from certserve.backends.processor import cores
    from certserve.training.plan import fill_plan

    plan = fill_plan(name, bundles.read(bundle).shape[0])
    given = {name: value for name, value in changes.items() if value is not None}
    given.setdefault("threads", cores())
    recipe = {name: given.pop(name) for name in _RECIPE if name in given}
    if "temperatures" in given:
        given["temperatures"] = _temperatures(given["temperatures"])
    return dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, **recipe), **given)


def _temperatures(text: str) -> tuple[float, ...]:
    return () if text.strip() == "none" else tuple(read_numbers("--temperatures", text) or ())


def _reporter(report: Callable[[float, float | None], None], epochs: int, whose: str = "") -> OnProgress:
    """Moves the bar at every step, and prints a line on standard error at the end of an epoch."""
    printed = 0

    def told(progress: Progress) -> None:
        nonlocal printed
        report(progress.step, progress.steps)
        for epoch in progress.epochs[printed:]:
            left = epoch.seconds / epoch.epoch * (epochs - epoch.epoch)
            said = f"{whose}epoch {epoch.epoch} of {epochs}: {epoch}, {left / 60:.0f} min left"
            click.echo(said, err=True)
        printed = len(progress.epochs)

    return told


def _adversary(norm: str | None, epsilon: float | None, delta: float, steps: int) -> Adversary | None:
    from certserve.attacks.norms import Norm
    from certserve.training.recipe import Adversary

    if (norm is None) != (epsilon is None) or (delta and not norm):
        raise click.UsageError("--adversary needs --epsilon, and --epsilon and --delta need --adversary.")
    return Adversary(Norm(norm), epsilon, delta, steps) if norm and epsilon is not None else None


def _widths(text: str) -> tuple[int, ...]:
    if not all(width.strip().isdigit() for width in text.split(",")):
        raise click.BadParameter(f"expected whole numbers separated by commas, not {text!r}", param_hint="--widths")
    return tuple(int(width) for width in text.split(","))
