"""New bundles: from a user's ONNX classifier, or from the weights of a linear one.

What either needs of a model is settled here; what a bundle is, in `description`, and how it is stored, in `storage`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from certserve.bundle import graph
from certserve.bundle.description import Bundle, Defaults, Execution, onnx_executions
from certserve.bundle.storage import write
from certserve.errors import BundleError

__all__ = ["create", "create_program", "write_linear"]


def create(
    model: Path,
    directory: Path,
    *,
    name: str,
    labels: Sequence[str],
    sigmas: Sequence[float],
    colour: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    shape: tuple[int, int, int] | None = None,
    resize: int | None = None,
    version: str = "1",
    description: str = "",
    defaults: Defaults | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Bundle:
    """A bundle from a float32 ONNX classifier with one input [batch, channels, height, width], batch axis free.

    Args:
        model: the ONNX file; external data beside it is folded in.
        mean, std: per channel, in units of [0, 1] pixels; (x - mean) / std becomes the graph's first step, so that
            the stored file takes [0, 1] pixels. None: the graph already takes them.
        shape: (channels, height, width), needed where the graph leaves them symbolic.
        The rest as in `write`; `provenance` also gets the model file's SHA-256 and the normalisation.

    Raises:
        BundleError: the file is no such classifier, or as `write`; one sentence that says what to do.
    """
    try:
        proto, digest = graph.load(model)
        found = graph.settle_shape(proto, shape)
        graph.check_output(proto, len(labels))
        recorded = {"source": model.name, "source_sha256": digest}
        if mean is not None or std is not None:
            means, stds = _normalisation(mean, std, found[0])
            graph.bake(proto, means, stds)
            recorded |= {"mean": repr(means), "std": repr(stds)}
        precision = graph.precision(proto)
        contents = graph.serialised(proto)
    except BundleError as error:
        raise BundleError(f"{model} {error}") from error.__cause__
    return write(
        directory,
        {"model.onnx": contents},
        name=name,
        labels=labels,
        shape=found,
        sigmas=sigmas,
        executions=onnx_executions("model.onnx", precision),
        colour=colour,
        resize=resize,
        version=version,
        description=description,
        defaults=defaults,
        provenance={**(provenance or {}), **recorded},
    )


def create_program(
    model: Path,
    directory: Path,
    *,
    name: str,
    labels: Sequence[str],
    sigmas: Sequence[float],
    shape: tuple[int, int, int],
    colour: str | None = None,
    resize: int | None = None,
    version: str = "1",
    description: str = "",
    defaults: Defaults | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Bundle:
    """A bundle of a program written by torch.export.save; it is not opened here, as opening it may run code.

    Args:
        model: takes float32 pixels in [0, 1], (rows, *shape) with free rows, and gives logits (rows, classes).
        The rest as in `write`.

    Raises:
        BundleError: the file cannot be read, or as `write`.
    """
    try:
        contents = model.read_bytes()
    except OSError as error:
        raise BundleError(f"{model} cannot be read ({error.strerror})") from error
    return write(
        directory,
        {"model.pt2": contents},
        name=name,
        labels=labels,
        shape=shape,
        sigmas=sigmas,
        executions=[Execution("torch-program", "model.pt2", "torch-export", "float32")],
        colour=colour,
        resize=resize,
        version=version,
        description=description,
        defaults=defaults,
        provenance={**(provenance or {}), "source": model.name},
    )


def write_linear(
    directory: Path,
    *,
    name: str,
    weights: npt.NDArray[Any],
    bias: npt.NDArray[Any],
    shape: tuple[int, int, int],
    labels: Sequence[str],
    sigmas: Sequence[float],
    colour: str | None = None,
    resize: int | None = None,
    version: str = "1",
    description: str = "",
    defaults: Defaults | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Bundle:
    """A bundle of the classifier W x + b, whose true radius is known in closed form.

    Args:
        weights: (classes, channels * height * width). bias: (classes,). Both are stored as float64.
        The rest as in `write`.

    Raises:
        BundleError: the arrays do not fit the labels and the shape, or as `write`.
    """
    if weights.shape != (len(labels), math.prod(shape)) or bias.shape != (len(labels),):
        raise BundleError(
            f"expected weights {(len(labels), math.prod(shape))} and bias {(len(labels),)} for these labels and this "
            f"shape, not {weights.shape} and {bias.shape}"
        )
    contents = io.BytesIO()
    np.savez(contents, weights=weights.astype(np.float64), bias=bias.astype(np.float64))
    return write(
        directory,
        {"weights.npz": contents.getvalue()},
        name=name,
        labels=labels,
        shape=shape,
        sigmas=sigmas,
        executions=[Execution("float64", "weights.npz", "linear", "float64")],
        colour=colour,
        resize=resize,
        version=version,
        description=description,
        defaults=defaults,
        provenance=provenance,
    )


def _normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> tuple[list[float], list[float]]:
    """Mean and std as lists of one number a channel.

    Raises:
        BundleError: one is missing, of another length, not finite, or a std is not positive.
    """
    if mean is None or std is None:
        raise BundleError("needs both mean and std for a normalisation; give the other one too")
    means, stds = [float(value) for value in mean], [float(value) for value in std]
    if len(means) != channels or len(stds) != channels:
        raise BundleError(f"has {channels} channels, but {len(means)} means and {len(stds)} stds were given")
    if not all(map(math.isfinite, means + stds)) or min(stds) <= 0:
        raise BundleError(f"needs finite means and positive stds, not mean {means} and std {stds}")
    return means, stds
