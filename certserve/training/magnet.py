"""One run of `certserve train magnet`: a bundle and labelled images in, the same bundle with a MagNet out.

The images are split in three: those that the autoencoders learn from, a few that choose the best epoch, and those that
the detectors are calibrated with, which nothing before depended on: not the autoencoders, and not the classifier, where
`certserve train classifier` made it from the same images.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from certserve import bundle as bundles
from certserve import datasets
from certserve.backends.autoencoders import AutoencoderDesign, AutoencoderNetwork, save
from certserve.backends.choice import ranked
from certserve.backends.probes import probe_pixels
from certserve.backends.reconstruction import LoadedAutoencoder, read_autoencoder
from certserve.bundle import Autoencoder, Bundle, Detector, Magnet
from certserve.datasets import Dataset, DatasetError
from certserve.defences.calibration import smallest_validation
from certserve.defences.magnet import classifier_of, scores
from certserve.errors import BundleError
from certserve.images import Geometry
from certserve.training import log
from certserve.training.autoencoder import train
from certserve.training.examples import digest, divide, split
from certserve.training.export import autoencoder_to_onnx
from certserve.training.plan import Held, MagnetPlan
from certserve.training.recipe import RecipeError
from certserve.training.run import Progress, alone

__all__ = ["MagnetJob", "run"]

_log = logging.getLogger(__name__)
_TOLERANCE = 1e-4
_PROBES = 64
_ROWS_AT_ONCE = 512
_EXACT = ("float32", "float64")

OnProgress = Callable[[str, Progress], None]


@dataclass(frozen=True, slots=True)
class MagnetJob:
    """What is asked for.

    Attributes:
        bundle: which gets the MagNet, in place of one it has. paths: the images, as `datasets.read` takes them.
        folder: logs, plots and checkpoints.
        held_out: the share of the images that is; None: as for the bundle's classifier, 0.1 where that is unknown.
        trust: as in `certserve.backends.load`.
    """

    bundle: Path
    paths: tuple[Path, ...]
    folder: Path
    plan: MagnetPlan
    held_out: float | None = None
    trust: bool = False


@dataclass(frozen=True, slots=True)
class _Parts:
    """The images that are trained on, those that choose the epoch, and those that calibrate."""

    training: Dataset
    validation: Dataset
    calibration: Dataset


def run(job: MagnetJob, *, on_progress: OnProgress | None = None) -> Bundle:
    """Train the autoencoders, calibrate the detectors, and write both into the bundle; what was begun is gone on with.

    Args:
        on_progress: told after every step which autoencoder it was of.

    Raises:
        RecipeError, DatasetError, BundleError: what was asked for cannot be had, or another training is at work in the
            folder; one sentence.
        ModelRefused, BackendFailed: the classifier or an autoencoder does not run.
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib  # noqa: F401 (before the work, not after it)

    found = bundles.read(job.bundle)
    designs = [_design(found, name, job.plan.width) for name in job.plan.designs]
    parts = _parts(job, found)
    _check_counts(job.plan.detectors, len(parts.calibration))
    with alone(job.folder):
        return _make(job, found, designs, parts, on_progress)


def _make(
    job: MagnetJob,
    found: Bundle,
    designs: Sequence[AutoencoderDesign],
    parts: _Parts,
    on_progress: OnProgress | None,
) -> Bundle:
    networks = {design.name: _train(job, design, parts, on_progress) for design in designs}
    files = {name: contents for design in networks for name, contents in _files(design, networks[design]).items()}
    loaded = {name: _load(job.folder, name, files[f"magnet-{name}.onnx"], networks[name], found) for name in networks}
    precision = _precision(found)
    for detector, values in zip(job.plan.detectors, _calibrate(job, found, loaded, precision, parts), strict=True):
        files[detector.scores] = _npy(np.sort(values))
    autoencoders = tuple(Autoencoder(n, f"magnet-{n}.onnx", f"magnet-{n}.safetensors") for n in networks)
    reformer = job.plan.designs[0] if job.plan.reformer else ""
    magnet = Magnet(autoencoders, job.plan.detectors, reformer, precision)
    return bundles.extend(job.bundle, files, (), _provenance(job, parts), magnet=magnet)


def _design(found: Bundle, name: str, width: int) -> AutoencoderDesign:
    try:
        return AutoencoderDesign(found.shape, name, width)
    except BundleError as error:
        raise RecipeError(f"{error}; choose another plan: --plan cifar has autoencoder II alone") from error


def _parts(job: MagnetJob, found: Bundle) -> _Parts:
    geometry = Geometry(*found.shape, found.colour, found.resize)
    data = datasets.read(job.paths, split="train", geometry=geometry, classes=found.labels)
    data.check(found.shape, found.labels)
    training, held_out = split(data, found.labels, _held(job, found))
    if digest(held_out) not in found.provenance.get("held_out_images", ""):
        _log.warning(
            "the bundle's classifier is not known to have been trained without the images that are held out here; if "
            "it has seen them, detectors of the kind jsd will flag more of the new images than their rate says"
        )
    return _Parts(training, *divide(held_out, job.plan.recipe))


def _held(job: MagnetJob, found: Bundle) -> Held:
    """The classifier's own split, where its recipe is known."""
    try:
        recipe = json.loads(found.provenance.get("recipe", "{}"))
        known = Held(float(recipe["held_out"]), int(recipe["seed"]))
    except (ValueError, LookupError, TypeError):
        known = Held(0.1, job.plan.recipe.seed)
    return known if job.held_out is None else Held(job.held_out, known.seed)


def _check_counts(detectors: Sequence[Detector], count: int) -> None:
    """Refuse a rate that the calibration images are too few for, before the work."""
    rate = min(detector.rate for detector in detectors)
    least = smallest_validation(rate)
    if count < least:
        raise RecipeError(
            f"a false-positive rate of {rate:g} needs {least} images to calibrate with, and there are {count} (nine "
            "tenths of those held out, which are 5,000 at most): give more images, hold out a larger share of them "
            f"(--held-out), or ask for a rate of {1 / (count + 1):.2g} or more (--rate, --jsd-rate)"
        )


def _train(
    job: MagnetJob, design: AutoencoderDesign, parts: _Parts, on_progress: OnProgress | None
) -> AutoencoderNetwork:
    folder = job.folder / f"autoencoder-{design.name}"
    told = (lambda progress: on_progress(design.name, progress)) if on_progress else None
    network = train(parts.training, parts.validation, design, job.plan.recipe, folder, on_progress=told)
    log.plot_fit(log.read_fit(folder / "log.tsv"), folder / "log.png")
    return network


def _files(name: str, network: AutoencoderNetwork) -> dict[str, bytes]:
    return {f"magnet-{name}.onnx": autoencoder_to_onnx(network, name), f"magnet-{name}.safetensors": save(network)}


@torch.no_grad()
def _load(folder: Path, name: str, graph: bytes, network: AutoencoderNetwork, found: Bundle) -> LoadedAutoencoder:
    """The autoencoder as it will serve, once its images were found equal to torch's."""
    path = folder / f"autoencoder-{name}" / "model.onnx"
    path.write_bytes(graph)
    loaded = read_autoencoder(path, name, found.shape, max(found.sigmas))
    pixels = probe_pixels(found.shape, _PROBES, max(found.sigmas))
    difference = float(np.abs(loaded.reconstruct(pixels) - network(torch.from_numpy(pixels)).numpy()).max())
    if not difference < _TOLERANCE:
        raise RecipeError(
            f"the images of the ONNX file of autoencoder {name} differ from torch's by {difference:.2g}; this is an "
            "error in certserve"
        )
    return loaded


def _precision(found: Bundle) -> str:
    """Of the classifier that divergences compare: an exact one where there is one, as they are small."""
    there = [execution.precision for execution in ranked(found)]
    return next((precision for precision in there if precision in _EXACT), there[0])


def _calibrate(
    job: MagnetJob, found: Bundle, loaded: dict[str, LoadedAutoencoder], precision: str, parts: _Parts
) -> list[npt.NDArray[np.float32]]:
    """Each detector's scores of the calibration images."""
    classifier = classifier_of(found, precision, trust=job.trust) if job.plan.temperatures else None
    batches = []
    for start in range(0, len(parts.calibration), _ROWS_AT_ONCE):
        pixels = parts.calibration.images[start : start + _ROWS_AT_ONCE].astype(np.float32) / np.float32(255)
        batches.append(scores(job.plan.detectors, loaded, classifier, pixels))
    columns = [np.concatenate(column) for column in zip(*batches, strict=True)]
    for detector, values in zip(job.plan.detectors, columns, strict=True):
        if not np.isfinite(values).all():
            raise DatasetError(f"the scores of {detector.name} are not all finite: the classifier's logits are not")
    return columns


def _npy(values: npt.NDArray[np.float32]) -> bytes:
    contents = io.BytesIO()
    np.save(contents, values, allow_pickle=False)
    return contents.getvalue()


def _provenance(job: MagnetJob, parts: _Parts) -> dict[str, str]:
    """What the MagNet came from, in words."""
    named = {"training": parts.training, "validation": parts.validation, "calibration": parts.calibration}
    counts = {f"magnet_{name}_images": f"{len(part)}, SHA-256 {digest(part)}" for name, part in named.items()}
    return {"magnet_plan": json.dumps(asdict(job.plan)), **counts, "magnet_torch": torch.__version__}
