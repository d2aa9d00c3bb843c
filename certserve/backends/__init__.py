"""The models: one way of running a base classifier behind one small interface.

`load` turns a bundle's execution into a `LoadedExecution`: checked to be a base classifier for smoothing, and
named by its fingerprint. A runtime is imported only when a model needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from certserve.backends.checks import check_rows, fingerprint
from certserve.bundle import Bundle, Execution
from certserve.errors import BundleError, ModelRefused

__all__ = ["Backend", "LoadedExecution", "load"]


class Backend(Protocol):
    """A base classifier: a deterministic function of each row alone."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one input."""

    @property
    def num_classes(self) -> int:
        """How many logits a row gets."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What the logits depend on besides weights and input: runtime, version, precision, device, threads."""

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of shape (rows, num_classes) for noisy pixels of shape (rows, *shape).

        Raises:
            BackendFailed: the runtime failed on these rows.
        """


@dataclass(frozen=True, slots=True)
class LoadedExecution:
    """An execution ready to serve.

    Attributes:
        name: as in the bundle. backend: what runs it.
        shapes: numbers of rows it may be run with, increasing; bit-equal results, shown at load.
        fingerprint: SHA-256, in hexadecimal, over all that its labels depend on.
    """

    name: str
    backend: Backend
    shapes: tuple[int, ...]
    fingerprint: str


def load(bundle: Bundle, execution: Execution | None = None) -> LoadedExecution:
    """Load and check one execution of a bundle: the given one, or its first.

    Raises:
        BundleError: the bundle's file is not what `model.toml` says, or its runtime is unknown.
        ModelRefused: the model is no base classifier for smoothing; the reason.
    """
    chosen = execution or bundle.executions[0]
    if chosen.runtime not in _LOADERS:
        known = ", ".join(_LOADERS)
        raise BundleError(f"{bundle.path}: unknown runtime {chosen.runtime!r}; this version has {known}")
    backend = _LOADERS[chosen.runtime](bundle, chosen)
    if backend.shape != bundle.shape:
        raise BundleError(f"{bundle.path}: the model takes {backend.shape}, model.toml says {bundle.shape}")
    if backend.num_classes != len(bundle.labels):
        raise BundleError(
            f"{bundle.path}: the model has {backend.num_classes} outputs, model.toml names {len(bundle.labels)} labels"
        )
    try:
        rows = check_rows(backend, max(bundle.sigmas))
    except ModelRefused as error:
        raise ModelRefused(f"{bundle.path}: {error}") from error
    name = fingerprint(bundle.digests[chosen.file], backend.identity, rows)
    return LoadedExecution(chosen.name, backend, rows.shapes, name)


def _load_linear(bundle: Bundle, execution: Execution) -> Backend:
    from certserve.backends.linear import LinearBackend

    return LinearBackend.read(bundle.file(execution.file), bundle.shape)


def _load_onnx(bundle: Bundle, execution: Execution) -> Backend:
    from certserve.backends.onnx import OnnxBackend

    return OnnxBackend(bundle.file(execution.file), execution.precision)


_LOADERS: dict[str, Callable[[Bundle, Execution], Backend]] = {"linear": _load_linear, "onnx": _load_onnx}
