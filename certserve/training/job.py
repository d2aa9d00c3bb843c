"""One run of `certserve train classifier`: labelled images in, a bundle out."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from certserve import bundle as bundles
from certserve import datasets
from certserve.backends.architectures import Residual, ResidualNetwork, Stage, save
from certserve.backends.processor import cores, instruction_set, multiplies_bfloat16
from certserve.backends.torch import differentiable
from certserve.bundle import Bundle
from certserve.datasets import Dataset, DatasetError
from certserve.errors import BundleError, CertserveError
from certserve.images import Geometry
from certserve.noise.grid import LARGEST_SIGMA
from certserve.training import log
from certserve.training.bundle import make_bundle
from certserve.training.classifier import train
from certserve.training.examples import digest, mean_and_std, split
from certserve.training.quantisation import add_int8
from certserve.training.recipe import Recipe, RecipeError
from certserve.training.run import OnProgress, alone

__all__ = ["Job", "fill_recipe", "run"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked for.

    Attributes:
        paths: the images, as `datasets.read` takes them. shape: what image files are resized and cropped to.
        output: the bundle to make. folder: log, plot, checkpoint and held-out images.
        labels: class names in order; empty: as the data names them, or else their numbers.
        name: the model's. description: a sentence about it.
        start_from: a bundle whose weights to begin with. recipe: how it is trained.
    """

    paths: tuple[Path, ...]
    output: Path
    folder: Path
    labels: tuple[str, ...]
    name: str
    description: str
    shape: tuple[int, int, int] | None
    start_from: Path | None
    recipe: Recipe


def fill_recipe(*, precision: str | None = None, threads: int | None = None, **values: Any) -> Recipe:
    """A recipe whose precision and threads, where left out, are what is fast on this machine."""
    fast = torch.cuda.is_available() or multiplies_bfloat16()
    threads = cores() if threads is None else threads
    return Recipe(precision=precision or ("bfloat16" if fast else "float32"), threads=threads, **values)


def run(job: Job, *, on_progress: OnProgress | None = None) -> Bundle:
    """Train, and make the bundle; a run found in the job's folder is gone on with.

    Raises:
        RecipeError, DatasetError, BundleError: what was asked for cannot be had, or another training is at work in the
            folder; one sentence.
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib  # noqa: F401 (before the work, not after it)

    if job.output.exists() and any(job.output.iterdir()):
        raise BundleError(f"{job.output} is not empty; choose another directory, or remove it first")
    data = _read(job)
    _check(data, job.recipe)
    labels = job.labels or data.classes or _numbers(data)
    training, held_out = split(data, labels, job.recipe)
    start = _start(job, data, labels)
    architecture = start.description if start else _architecture(training, len(labels), job.recipe)
    with alone(job.folder):
        network = train(training, held_out, architecture, job.recipe, job.folder, start=start, on_progress=on_progress)
        np.savez(job.folder / "held_out.npz", x=held_out.images, y=held_out.labels, idx=held_out.idx)
        log.plot(log.read(job.folder / "log.tsv"), job.folder / "log.png")
        return _make(job, network, labels, _provenance(job, network, training, held_out), held_out)


def _make(
    job: Job, network: ResidualNetwork, labels: Sequence[str], provenance: Mapping[str, str], held_out: Dataset
) -> Bundle:
    """The bundle, with the int8 executions that are good enough; under its own name when it is complete."""
    staging = job.output.resolve().with_name(f".{job.output.resolve().name}.new")
    shutil.rmtree(staging, ignore_errors=True)  # left by a run that was killed
    make_bundle(
        network,
        staging,
        name=job.name,
        labels=labels,
        sigma=job.recipe.sigma,
        description=job.description or f"trained with Gaussian noise at sigma {job.recipe.sigma:g}",
        provenance=provenance,
    )
    try:
        add_int8(staging, held_out)
    except (RecipeError, CertserveError) as error:
        _log.warning("no int8 execution was made: %s", error)
    staging.rename(job.output)
    return bundles.read(job.output)


def _provenance(job: Job, network: ResidualNetwork, training: Dataset, held_out: Dataset) -> dict[str, str]:
    """What the bundle came from, in words."""
    accuracy = log.read(job.folder / "log.tsv")[-1].noisy_accuracy
    return {
        "recipe": json.dumps(asdict(job.recipe)),
        "training_images": f"{len(training)}, SHA-256 {digest(training)}",
        "held_out_images": f"{len(held_out)}, SHA-256 {digest(held_out)}",
        "held_out_accuracy_under_noise": f"{accuracy:.4f}",
        "started_from": _digest_of_start(job),
        "weights": str(sum(parameter.numel() for parameter in network.parameters())),
        "torch": torch.__version__,
        "processor": instruction_set(),
    }


def _check(data: Dataset, recipe: Recipe) -> None:
    """Refuse before training what no bundle could hold."""
    channels = data.images.shape[1]
    if channels not in (1, 3):
        raise DatasetError(f"images have 1 (grey) or 3 (rgb) channels, not {channels}")
    if recipe.sigma == 0:
        raise RecipeError("a bundle's classifier is smoothed: sigma must be positive")
    if recipe.sigma > LARGEST_SIGMA:
        raise RecipeError(f"sigma is in units of pixels in [0, 1], at most {LARGEST_SIGMA:g}, not {recipe.sigma:g}")


def _read(job: Job) -> Dataset:
    if job.shape is None:
        return datasets.read(job.paths, split="train", classes=job.labels)
    colour = "grey" if job.shape[0] == 1 else "rgb"
    geometry = Geometry(*job.shape, colour, None)
    return datasets.read(job.paths, split="train", geometry=geometry, classes=job.labels)


def _numbers(data: Dataset) -> tuple[str, ...]:
    """The numbers of the classes, which serve as their names."""
    largest = int(data.labels.max(initial=-1))
    if largest >= len(data):
        raise DatasetError(
            f"the largest label is {largest}, but there are only {len(data)} images; number the classes from 0, or "
            "name every class with --labels"
        )
    return tuple(map(str, range(largest + 1)))


def _architecture(data: Dataset, classes: int, recipe: Recipe) -> Residual:
    """The recipe's network for such images; larger ones are made smaller at once, by the stem."""
    channels, height, width = data.images.shape[1:]
    mean, std = mean_and_std(data)
    stride = 4 if min(height, width) > 48 else 2 if min(height, width) > 16 else 1
    stages = tuple(Stage(width, recipe.blocks) for width in recipe.widths)
    return Residual((channels, height, width), classes, mean, std, stride, stages)


def _start(job: Job, data: Dataset, labels: tuple[str, ...]) -> ResidualNetwork | None:
    """The network to begin with, if it is one for these images and classes."""
    if job.start_from is None:
        return None
    network = differentiable(bundles.read(job.start_from))
    if network.description.shape != data.images.shape[1:] or network.description.classes != len(labels):
        raise RecipeError(
            f"{job.start_from} is a model of {network.description.classes} classes and images of "
            f"{network.description.shape}, the data have {len(labels)} and {data.images.shape[1:]}"
        )
    return network


def _digest_of_start(job: Job) -> str:
    if job.start_from is None:
        return "random weights"
    return f"weights with SHA-256 {hashlib.sha256(save(differentiable(bundles.read(job.start_from)))).hexdigest()}"
