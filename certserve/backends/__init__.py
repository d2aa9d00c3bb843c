"""The models: one way of running a base classifier behind one small interface.

`load` turns a bundle's execution into a `LoadedExecution`: checked to be a base classifier for smoothing, and
named by its fingerprint. A runtime is imported only when a model needs it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from certserve.backends.checks import fingerprint
from certserve.backends.choice import has_cuda, how_to_install, installed, ranked
from certserve.backends.probes import probe_labels
from certserve.backends.protocols import Backend, Batch, DrawingBackend, Source
from certserve.backends.tuning import check_shapes
from certserve.bundle import Bundle, Execution
from certserve.errors import BackendFailed, BundleError, ModelRefused
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.keystream import STREAM

__all__ = ["Backend", "Batch", "DrawingBackend", "ExecutionFacts", "LoadedExecution", "Source", "load"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExecutionFacts:
    """What is known of an execution that was loaded.

    Attributes:
        name: as in the bundle. identity: of its backend.
        shapes: numbers of rows it may be run with, increasing; bit-equal results, shown at load.
        parallel: how many batches run at once.
        fingerprint: SHA-256, in hexadecimal, over all that its labels depend on.
        grid_stream: what generates its noise in grid arithmetic; in float arithmetic it is always the processor's.
    """

    name: str
    identity: Mapping[str, str]
    shapes: tuple[int, ...]
    parallel: int
    fingerprint: str
    grid_stream: str = STREAM

    def stream(self, arithmetic: Arithmetic) -> str:
        """What generates the noise, as certificates name it."""
        return self.grid_stream if arithmetic is Arithmetic.GRID else STREAM


@dataclass(frozen=True, slots=True)
class LoadedExecution:
    """An execution ready to serve: what runs it, and what is known of it."""

    backend: Backend
    facts: ExecutionFacts

    @property
    def name(self) -> str:
        """Its name in the bundle."""
        return self.facts.name

    @property
    def shapes(self) -> tuple[int, ...]:
        """See `ExecutionFacts`."""
        return self.facts.shapes

    @property
    def fingerprint(self) -> str:
        """See `ExecutionFacts`."""
        return self.facts.fingerprint


def load(bundle: Bundle, execution: Execution | None = None, *, trust: bool = False) -> LoadedExecution:
    """Load and check one execution of a bundle: the given one, or the one that `certserve.backends.choice` says.

    Where the chosen one cannot be loaded, or is quantised and no longer gives the labels that it was accepted with,
    the next one is loaded instead, with a warning.

    Args:
        trust: allow executions whose file can run code of its own (runtime "torch-export").

    Raises:
        BundleError: the bundle's file is not what `model.toml` says, its runtime is unknown or not installed, or it
            needs trust.
        ModelRefused: the model is no base classifier for smoothing; the reason.
    """
    candidates = ranked(bundle) if execution is None else [execution]
    for chosen in candidates:
        try:
            return _load(bundle, chosen, trust)
        except (BundleError, ModelRefused) as error:
            if chosen is candidates[-1]:
                raise
            _log.warning("%s; another execution than %s serves instead", error, chosen.name)
    raise AssertionError("ranked() names one execution at least")


def _load(bundle: Bundle, chosen: Execution, trust: bool) -> LoadedExecution:
    if chosen.runtime not in _LOADERS:
        known = ", ".join(_LOADERS)
        raise BundleError(f"{bundle.path}: unknown runtime {chosen.runtime!r}; this version has {known}")
    if chosen.runtime in _RUNS_CODE and not trust:
        raise BundleError(
            f"{bundle.path}: {chosen.file} is a program, which can run any code on this machine when it is loaded; "
            "allow it with trust=True (--trust) if you know who made it, or serve another execution"
        )
    if not installed(chosen):
        raise BundleError(f"{bundle.path}: {how_to_install([chosen])}")
    backend = _LOADERS[chosen.runtime](bundle, chosen)
    if backend.shape != bundle.shape:
        raise BundleError(f"{bundle.path}: the model takes {backend.shape}, model.toml says {bundle.shape}")
    if backend.num_classes != len(bundle.labels):
        raise BundleError(
            f"{bundle.path}: the model has {backend.num_classes} outputs, model.toml names {len(bundle.labels)} labels"
        )
    sigma = max(bundle.sigmas)
    try:
        rows = check_shapes(backend, sigma, bundle.digests[chosen.file])
    except (BackendFailed, ModelRefused) as error:  # it fails where its number of rows is fixed
        raise ModelRefused(f"{bundle.path}: {error}") from error
    if chosen.probe_labels:
        _compare_labels(bundle, chosen, probe_labels(backend, len(chosen.probe_labels), sigma, rows.shapes[-1]))
    name = fingerprint(bundle.digests[chosen.file], backend.identity, rows)
    stream = backend.stream if isinstance(backend, DrawingBackend) else STREAM
    facts = ExecutionFacts(chosen.name, dict(backend.identity), rows.shapes, backend.parallel, name, stream)
    return LoadedExecution(backend, facts)


def _compare_labels(bundle: Bundle, chosen: Execution, labels: tuple[int, ...]) -> None:
    """Refuse a quantised execution that has changed by more than another processor's rounding explains."""
    same = sum(a == b for a, b in zip(labels, chosen.probe_labels, strict=True)) / len(labels)
    if same < _SAME_LABELS:
        raise ModelRefused(
            f"{bundle.path}: the execution {chosen.name} gives {same:.0%} of the labels of its probes that it was "
            "accepted with; this machine cannot run it as it was meant, or its file is damaged"
        )


def _load_linear(bundle: Bundle, execution: Execution) -> Backend:
    from certserve.backends.linear import LinearBackend

    return LinearBackend.read(bundle.file(execution.file), bundle.shape)


def _load_onnx(bundle: Bundle, execution: Execution) -> Backend:
    from certserve.backends.onnx import OnnxBackend

    return OnnxBackend(bundle.file(execution.file), execution.precision)


def _load_onnx_cuda(bundle: Bundle, execution: Execution) -> Backend:
    from certserve.backends.onnx import OnnxCudaBackend

    return OnnxCudaBackend(bundle.file(execution.file), execution.precision)


def _load_openvino(bundle: Bundle, execution: Execution) -> Backend:
    from certserve.backends.openvino import OpenVinoBackend

    return OpenVinoBackend(bundle.file(execution.file), execution.precision, bundle.shape)


def _load_torch(bundle: Bundle, execution: Execution) -> Backend:
    if has_cuda():
        from certserve.backends.cuda import read

        return read(bundle.file(execution.file), execution.precision)
    from certserve.backends.torch import TorchBackend

    return TorchBackend.read(bundle.file(execution.file), execution.precision)


def _load_program(bundle: Bundle, execution: Execution) -> Backend:
    from certserve.backends.torch import TorchBackend

    return TorchBackend.read_program(bundle.file(execution.file), bundle.shape, execution.precision)


_LOADERS: dict[str, Callable[[Bundle, Execution], Backend]] = {
    "linear": _load_linear,
    "onnx": _load_onnx,
    "onnx-cuda": _load_onnx_cuda,
    "openvino": _load_openvino,
    "torch": _load_torch,
    "torch-export": _load_program,
}
_RUNS_CODE = {"torch-export"}
_SAME_LABELS = 0.9  # of the probes: near ties flip between processors, a broken scale flips far more
