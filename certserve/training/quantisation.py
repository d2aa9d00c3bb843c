"""The int8 execution of a classifier: static, per channel, calibrated on noisy images, and compared with the float one.

Quantising changes f, not the soundness of its certificates: they are then about the int8 classifier. What it may
cost is certified accuracy, so an execution that loses it is refused.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from certserve import bundle as bundles
from certserve.backends import Backend
from certserve.backends.checks import check_rows
from certserve.backends.onnx import OnnxBackend
from certserve.backends.openvino import OpenVinoBackend
from certserve.backends.probes import probe_labels
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

_KEY = Key(bytes(32))  # public: nothing that is certified draws from it
_CALIBRATION_IMAGES = 640
_FEWEST = 20
_ROWS = 64
_COMPARED_IMAGES, _DRAWS, _ALPHA = 200, 500, 0.001
_PROBES, _PROBE_BYTES = 256, 64 << 20
_LARGEST_LOSS = 0.03  # of certified accuracy, at any of the radii compared
_SMALLEST_AGREEMENT = 0.95  # of the labels of single draws
_QUANTISED = ("Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool", "AveragePool", "MaxPool")


@dataclass(frozen=True, slots=True)
class Comparison:
    """A quantised classifier beside the float one: the same noisy copies of the same images.

    Attributes:
        agreement: share of draws with the same label.
        radii: at which certified accuracy is compared, in input units. exact, quantised: certified accuracy there.
    """

    agreement: float
    radii: tuple[float, ...]
    exact: tuple[float, ...]
    quantised: tuple[float, ...]

    @property
    def acceptable(self) -> bool:
        """Whether the quantised one may serve in place of the other."""
        losses = [a - b for a, b in zip(self.exact, self.quantised, strict=True)]
        return self.agreement >= _SMALLEST_AGREEMENT and max(losses) <= _LARGEST_LOSS


def add_int8(path: Path, data: Dataset) -> Comparison:
    """Give a bundle an int8 execution, in place, calibrated on the first images of the data and compared on the last.

    Raises:
        RecipeError: the bundle has no float32 ONNX file, the data are too few, or the int8 classifier is not as good
            as the float one.
        BundleError: as `certserve.bundle.read` and `extend`.
    """
    found = bundles.read(path)
    source = _float_file(found)
    if len(data) < _FEWEST:
        raise RecipeError(f"quantising needs {_FEWEST} images at least, to calibrate and to compare, not {len(data)}")
    sigma = max(found.sigmas)
    count = min(_CALIBRATION_IMAGES, len(data) // 2)
    contents = quantise(source, data.images[:count], sigma)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.int8.onnx"
        file.write_bytes(contents)
        int8 = OpenVinoBackend(file, "int8", found.shape)
        others = data.where(np.arange(len(data)) >= max(count, len(data) - _COMPARED_IMAGES))
        comparison = compare(OnnxBackend(source, "float32"), int8, others, sigma)
        if not comparison.acceptable:
            raise RecipeError(f"{path}: the int8 classifier is not as good as the float one: {_in_words(comparison)}")
        shapes = check_rows(int8, sigma).shapes
        probes = min(_PROBES, max(16, _PROBE_BYTES // (4 * data.images[0].size)))
        labels = probe_labels(int8, probes, sigma, shapes[-1])
    execution = Execution("int8", "model.int8.onnx", "openvino", "int8", labels)
    bundles.extend(path, {"model.int8.onnx": contents}, [execution], {"int8": _in_words(comparison)})
    return comparison


def quantise(model: Path, images: npt.NDArray[np.uint8], sigma: float) -> bytes:
    """An int8 ONNX file (QDQ, per channel) of a float32 one, calibrated on noisy copies of uint8 (count, c, h, w)."""
    logging.getLogger().addFilter(_silent)  # the quantiser writes to the root logger
    try:
        with tempfile.TemporaryDirectory() as folder:
            ready, done = Path(folder) / "ready.onnx", Path(folder) / "int8.onnx"
            quant_pre_process(model, ready, skip_symbolic_shape=True)
            quantize_static(
                ready,
                done,
                _Calibration(onnx.load(ready).graph.input[0].name, images, sigma),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTISED),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            return done.read_bytes()
    finally:
        logging.getLogger().removeFilter(_silent)


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
    return Comparison(same / (len(data) * _DRAWS), radii, accuracy[0], accuracy[1])


def _radius(count: int, sigma: float) -> float:
    return max(0.0, Gaussian(sigma).radius(clopper_pearson_lower(count, _DRAWS, _ALPHA)))


def _source(image: npt.NDArray[np.uint8], sigma: float, number: int) -> DrawSource:
    """The draws of one image, under a key of its own."""
    return DrawSource(Key(_KEY.domain(f"quantise/{number}") * 2), image, sigma, Arithmetic.GRID)


def _float_file(found: Bundle) -> Path:
    for execution in found.executions:
        if execution.precision == "float32" and execution.runtime in ("onnx", "openvino"):
            return found.file(execution.file)
    raise RecipeError(f"{found.path} has no float32 ONNX file, which quantising starts from")


def _in_words(comparison: Comparison) -> str:
    pairs = zip(comparison.radii, comparison.exact, comparison.quantised, strict=True)
    accuracies = ", ".join(f"{a:.3f} and {b:.3f} at {r:g}" for r, a, b in pairs)
    return (
        f"{comparison.agreement:.1%} of the draws get the same label; certified accuracy of float32 and int8 "
        f"(n = {_DRAWS}, alpha = {_ALPHA:g}) {accuracies}"
    )


def _silent(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Noisy copies, one an image, in batches."""

    def __init__(self, name: str, images: npt.NDArray[np.uint8], sigma: float) -> None:
        self._batches = self._read(name, images, sigma)

    def get_next(self) -> Mapping[str, npt.NDArray[np.float32]] | None:
        return next(self._batches, None)

    @staticmethod
    def _read(
        name: str, images: npt.NDArray[np.uint8], sigma: float
    ) -> Iterator[Mapping[str, npt.NDArray[np.float32]]]:
        for start in range(0, len(images), _ROWS):
            chosen = images[start : start + _ROWS]
            rows = np.empty((len(chosen), images[0].size), dtype=np.float32)
            for i, image in enumerate(chosen):
                _source(image, sigma, start + i).write(DrawSet.SELECTION, 0, rows[i : i + 1])
            yield {name: rows.reshape(chosen.shape)}
