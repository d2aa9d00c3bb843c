"""The int8 executions of a classifier: static, per channel, calibrated on noisy images, compared with the float one.

Quantising changes f, not the soundness of its certificates: they are then about the int8 classifier. What it may
cost is certified accuracy: an execution that loses more than 3 points of it, or gives another label to more than 5 %
of the draws, is refused.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from certserve import bundle as bundles
from certserve.backends import Backend, quantiser
from certserve.backends.checks import check_rows
from certserve.backends.openvino import OpenVinoBackend
from certserve.backends.probes import patterned_pixels, probe_labels
from certserve.backends.processor import cores, multiplies_int8
from certserve.bundle import Bundle, Execution
from certserve.datasets import Dataset
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.keystream import Key
from certserve.sampling.sampler import Sampler
from certserve.sampling.slices import DrawSet, Slice
from certserve.sampling.source import DrawSource
from certserve.smoothing.bounds import clopper_pearson_lower
from certserve.smoothing.distribution import Gaussian
from certserve.training.recipe import RecipeError

__all__ = ["Comparison", "add_int8", "compare", "quantise"]

_log = logging.getLogger(__name__)

_WEIGHT_BITS = {"int8": 8, "int8-7bit": 7}
_KEY = Key(bytes(32))  # public: nothing that is certified draws from it
_CALIBRATION_IMAGES = 640
_FEWEST = 20
_ROWS = 64
_COMPARED_IMAGES, _DRAWS, _ALPHA = 200, 500, 0.001
_PROBES, _PROBE_BYTES = 256, 64 << 20
_TIMED, _SLOW = 10, 0.9  # batches; times the float one's speed, below which it is told
_LARGEST_LOSS = 0.03  # of certified accuracy, at any of the radii compared; one image may always be lost
_SMALLEST_AGREEMENT = 0.95  # of the labels of single draws


@dataclass(frozen=True, slots=True)
class Comparison:
    """A quantised classifier beside the float one: the same noisy copies of the same images.

    Attributes:
        agreement: share of draws with the same label.
        images: how many. radii: at which certified accuracy is compared, in input units.
        exact, quantised: certified accuracy there.
    """

    agreement: float
    images: int
    radii: tuple[float, ...]
    exact: tuple[float, ...]
    quantised: tuple[float, ...]

    @property
    def acceptable(self) -> bool:
        """Whether the quantised one may serve in place of the other."""
        losses = [a - b for a, b in zip(self.exact, self.quantised, strict=True)]
        return self.agreement >= _SMALLEST_AGREEMENT and max(losses) <= max(_LARGEST_LOSS, 1.5 / self.images)


def add_int8(path: Path, data: Dataset) -> dict[str, Comparison]:
    """Give a bundle its int8 executions, in place, calibrated on some images of the data and compared on others.

    `int8` where this processor multiplies bytes; and everywhere `int8-7bit`, whose weights have 7 bits, for those that
    have AVX2 only.

    Returns:
        How each compares with the float one, by its name.

    Raises:
        RecipeError: the bundle has no float32 ONNX file, the data are too few, or no int8 classifier is as good as
            the float one; one that is not is left out, with a warning where another is.
        DatasetError: the data do not fit the bundle. BackendFailed: the quantiser cannot do it.
        BundleError, ModelRefused: as `certserve.bundle.read` and `extend`, and as `certserve.backends.load`.
    """
    found = bundles.read(path)
    data.check(found.shape, found.labels)
    exact = _float_execution(found)
    source = found.file(exact.file)
    if len(data) < _FEWEST:
        raise RecipeError(f"quantising needs {_FEWEST} images at least, to calibrate and to compare, not {len(data)}")
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(data))  # the data may be in the classes' order
    count = min(_CALIBRATION_IMAGES, len(data) // 2)
    others = data.where(np.isin(np.arange(len(data)), order[count : count + _COMPARED_IMAGES]))
    made = [_quantised(found, source, name, data.images[order[:count]], others) for name in _precisions()]
    worse = [each for each in made if not each.comparison.acceptable]
    made = [each for each in made if each.comparison.acceptable]
    for each in worse:
        told = f"{path}: the {each.name} classifier is not as good as the float one: {each.words}"
        if not made:
            raise RecipeError(told)
        _log.warning(told)
    for each in made:
        if each.speed < _SLOW:
            _log.warning(
                "%s: the %s classifier, which is chosen before the float one, runs at %.2g times its speed here; serve "
                "the other by its name (--execution %s)",
                path,
                each.name,
                each.speed,
                exact.name,
            )
    files = {each.execution.file: each.contents for each in made}
    bundles.extend(path, files, [each.execution for each in made], {each.name: each.words for each in made})
    return {each.name: each.comparison for each in made}


class _Quantised(NamedTuple):
    """An execution, its file's contents, and how it compares with the float one: in answers, and in rows a second."""

    execution: Execution
    contents: bytes
    comparison: Comparison
    speed: float

    @property
    def name(self) -> str:
        return self.execution.name

    @property
    def words(self) -> str:
        return _in_words(self.comparison, self.name)


def _precisions() -> list[str]:
    return ["int8", "int8-7bit"] if multiplies_int8() else ["int8-7bit"]


def _quantised(
    found: Bundle, source: Path, name: str, calibration: npt.NDArray[np.uint8], others: Dataset
) -> _Quantised:
    """The execution of that name and precision."""
    sigma = max(found.sigmas)
    contents = quantise(source, calibration, sigma, weight_bits=_WEIGHT_BITS[name])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"model.{name}.onnx"
        file.write_bytes(contents)
        quantised = OpenVinoBackend(file, name, found.shape, parallel=1, threads=cores())
        exact = OpenVinoBackend(source, "float32", found.shape, parallel=1, threads=cores())
        comparison = compare(exact, quantised, others, sigma)
        shapes = check_rows(quantised, sigma).shapes
        probes = min(_PROBES, max(16, _PROBE_BYTES // (4 * calibration[0].size)))
        labels = probe_labels(quantised, probes, sigma, shapes[-1])
        speed = _speed(quantised, exact, patterned_pixels(found.shape, shapes[-1], sigma))
    return _Quantised(Execution(name, file.name, "openvino", name, labels), contents, comparison, speed)


def _speed(one: Backend, other: Backend, pixels: npt.NDArray[np.float32]) -> float:
    """How many times as many rows a second the one takes as the other, each at its best of a few batches in turn."""
    best = [math.inf, math.inf]
    for _ in range(_TIMED):
        for i, backend in enumerate((one, other)):
            start = time.perf_counter()
            backend.logits(pixels)
            best[i] = min(best[i], time.perf_counter() - start)
    return best[1] / best[0]


def quantise(model: Path, images: npt.NDArray[np.uint8], sigma: float, *, weight_bits: int = 8) -> bytes:
    """An int8 ONNX file of a float32 one, calibrated on a noisy copy of each of uint8 (count, c, h, w)."""
    return quantiser.quantise(model, _noisy(images, sigma), weight_bits=weight_bits)


def compare(exact: Backend, quantised: Backend, data: Dataset, sigma: float) -> Comparison:
    """Both classifiers on the same draws of the same images.

    The radius is that of Clopper-Pearson for the true class, 0 where it does not win.
    """
    radii = (0.0, sigma / 2, sigma, 2 * sigma)
    samplers = [Sampler(backend, check_rows(backend, sigma).shapes) for backend in (exact, quantised)]
    same, certified = 0, np.zeros((2, len(data)))
    for i, (image, truth) in enumerate(zip(data.images, data.labels, strict=True)):
        source = _source(image, sigma, i)
        labels = [s.labels([(source, Slice(i, DrawSet.ESTIMATION, 0, _DRAWS))])[0] for s in samplers]
        same += int((labels[0] == labels[1]).sum())
        certified[:, i] = [_radius(int((found == truth).sum()), sigma) for found in labels]
    accuracy = [tuple(float(((row >= r) & (row > 0)).mean()) for r in radii) for row in certified]
    return Comparison(same / (len(data) * _DRAWS), len(data), radii, accuracy[0], accuracy[1])


def _radius(count: int, sigma: float) -> float:
    return Gaussian(sigma).radius(clopper_pearson_lower(count, _DRAWS, _ALPHA))


def _source(image: npt.NDArray[np.uint8], sigma: float, number: int) -> DrawSource:
    """The draws of one image, under a key of its own."""
    return DrawSource(Key(_KEY.domain(f"quantise/{number}") * 2), image, sigma, Arithmetic.GRID)


def _float_execution(found: Bundle) -> Execution:
    for execution in found.executions:
        if execution.precision == "float32" and execution.runtime in ("onnx", "openvino"):
            return execution
    raise RecipeError(f"{found.path} has no float32 ONNX file, which quantising starts from")


def _in_words(comparison: Comparison, name: str) -> str:
    pairs = zip(comparison.radii, comparison.exact, comparison.quantised, strict=True)
    accuracies = ", ".join(f"{a:.3f} and {b:.3f} at {r:g}" for r, a, b in pairs)
    return (
        f"{comparison.agreement:.1%} of the draws get the same label; certified accuracy of float32 and {name} "
        f"(n = {_DRAWS}, alpha = {_ALPHA:g}) {accuracies}"
    )


def _noisy(images: npt.NDArray[np.uint8], sigma: float) -> Iterator[npt.NDArray[np.float32]]:
    """Noisy copies, one an image, in batches."""
    for start in range(0, len(images), _ROWS):
        chosen = images[start : start + _ROWS]
        rows = np.empty((len(chosen), images[0].size), dtype=np.float32)
        for i, image in enumerate(chosen):
            _source(image, sigma, start + i).write(DrawSet.SELECTION, 0, rows[i : i + 1])
        yield rows.reshape(chosen.shape)
