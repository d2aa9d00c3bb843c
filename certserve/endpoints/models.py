"""The models being served: bundles, each with its execution, its engine and the epochs of the noise's secret."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from certserve import backends, bundle
from certserve.backends import ExecutionFacts
from certserve.backends.choice import how_to_install, installed
from certserve.bundle import Bundle, Execution
from certserve.defences.magnet import REFORMED, reformed
from certserve.defences.questions import MagnetAnswers
from certserve.endpoints.epochs import Epochs
from certserve.endpoints.requests import DetectorInfo, ExecutionInfo, MagnetInfo, ModelInfo
from certserve.endpoints.signatures import SigningKey
from certserve.errors import BundleError, Infeasible, ModelNotFound
from certserve.images import Geometry
from certserve.noise.grid import LARGEST_SIGMA, rounded_gaussian
from certserve.sampling.engine import Engine
from certserve.sampling.executor import Executor, ThreadExecutor, Worker
from certserve.sampling.process import ProcessExecutor
from certserve.sampling.questions import Questions
from certserve.sampling.sampler import Sampler
from certserve.smoothing.bounds import LARGEST_N

__all__ = ["LoadedModel", "Models", "Offer", "ServedModel", "magnet_info", "require_gradients", "weights_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What is done with gradients, for models that have them.

    Attributes:
        robustify: whether Robustify is answered. largest_passes: a request may ask for, 0: any number.
        surrogate: whether the weights are handed out.
    """

    robustify: bool = True
    largest_passes: int = 0
    surrogate: bool = False


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A bundle, the execution of it that serves, and what runs it on a device's thread or in a process of its own."""

    bundle: Bundle
    execution: ExecutionFacts
    executor: Callable[[ThreadPoolExecutor], Executor]

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        execution: str | None = None,
        trust: bool = False,
        isolate: bool = False,
        reform: bool = False,
        ready: bool = False,
    ) -> LoadedModel:
        """Read, load and check a bundle; the noise tables of its sigmas are made ready.

        Args:
            execution: by name; default: as `certserve.backends.choice` says. "reformed-" before a name: as `reform`.
            trust: allow files that can run code of their own.
            isolate: load and run it in a process of its own; it then serves once, and a bundle that is replaced
                on disk meanwhile is not taken up.
            reform: make the classifier after the bundle's reformer the base classifier: noise, reform, classify.
            ready: load detectors and reformer now, not when they are first asked.

        Raises:
            BundleError: the bundle is incomplete, damaged or not understood, needs trust, or has no reformer.
            ModelRefused: the model is no base classifier for smoothing.
            BackendFailed: its process did not come up.
        """
        found = bundle.read(path)
        if max(found.sigmas) > LARGEST_SIGMA:
            raise BundleError(f"{path}: sigma is in units of pixels in [0, 1], at most {LARGEST_SIGMA:g}")
        for sigma in found.sigmas:
            rounded_gaussian(sigma)
        name = REFORMED + (execution or "") if reform and not (execution or "").startswith(REFORMED) else execution
        if isolate:
            process = ProcessExecutor(partial(_worker, path, name, trust, ready))
            assert isinstance(process.known, ExecutionFacts)
            process.make_again_by(partial(_worker, path, process.known.name, trust, ready))
            return cls(found, process.known, lambda device: process)
        sampler, facts, answer = _worker(path, name, trust, ready)
        assert isinstance(facts, ExecutionFacts)
        return cls(found, facts, lambda device: ThreadExecutor(sampler, device, answer))


def _worker(path: Path, execution: str | None, trust: bool, ready: bool) -> Worker:
    """What runs a bundle's execution, what is known of it, and what asks its MagNet."""
    found = bundle.read(path)
    name = execution.removeprefix(REFORMED) if execution else ""
    classifier = backends.load(found, found.execution(name) if name else None, trust=trust)
    serving = classifier
    if execution and execution.startswith(REFORMED):
        serving = reformed(found, classifier)
    magnet = MagnetAnswers(found, classifier, trust=trust)
    if ready and found.magnet is not None:
        magnet.load()
    return Worker(Sampler(serving.backend, serving.shapes, serving.backend.parallel), serving.facts, magnet)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that answers."""

    bundle: Bundle
    execution: ExecutionFacts
    engine: Engine
    questions: Questions
    epochs: Epochs
    signing_key: SigningKey | None
    largest_n: int
    offer: Offer

    @property
    def geometry(self) -> Geometry:
        """What an image must be to enter it."""
        return Geometry(*self.bundle.shape, self.bundle.colour, self.bundle.resize)

    @property
    def info(self) -> ModelInfo:
        """What callers may know of it."""
        found, identity, weights = self.bundle, self.execution.identity, weights_of(self.bundle)
        robustify = weights is not None and installed(weights) and self.offer.robustify
        return ModelInfo(
            name=found.name,
            version=found.version,
            description=found.description,
            labels=found.labels,
            shape=found.shape,
            colour=found.colour,
            resize=found.resize or 0,
            sigmas=found.sigmas,
            defaults=found.defaults,
            largest_n=self.largest_n,
            execution=ExecutionInfo(
                name=self.execution.name,
                runtime=f"{identity['runtime']} {identity['version']}",
                precision=identity["precision"],
                device=identity["device"],
                fingerprint=self.execution.fingerprint,
                batch_shapes=self.execution.shapes,
            ),
            commitment=self.epochs.current.commitment,
            public_key=self.signing_key.public_key if self.signing_key else b"",
            magnet=magnet_info(found),
            robustify=robustify,
            largest_passes=self.offer.largest_passes if robustify else 0,
            surrogate=weights is not None and self.offer.surrogate,
        )


def magnet_info(found: Bundle) -> MagnetInfo | None:
    """What callers may know of a bundle's detectors and reformer; None where it has none."""
    magnet = found.magnet
    if magnet is None:
        return None
    detectors = tuple(DetectorInfo(detector.name, detector.rate) for detector in magnet.detectors)
    return MagnetInfo(detectors, magnet.rate, magnet.reformer)


def weights_of(found: Bundle) -> Execution | None:
    """The execution of a bundle whose weights have gradients; None where there is none."""
    return next((execution for execution in found.executions if execution.runtime == "torch"), None)


def require_gradients(model: ServedModel) -> Execution:
    """The execution whose weights have gradients, ready to be searched with.

    Raises:
        Infeasible: searching is not offered here, or torch is not installed. BundleError: the model has none.
    """
    if not model.offer.robustify:
        raise Infeasible("This server robustifies nothing; `certserve robustify` does it where a bundle is.")
    weights = weights_of(model.bundle)
    if weights is None:
        raise BundleError(
            f"{model.bundle.name} has no weights for torch (a .safetensors file), so it has no gradients; a bundle "
            "made by `certserve train` has them"
        )
    if not installed(weights):
        raise Infeasible(f"Robustify {how_to_install([weights])}.")
    return weights


class Models:
    """The models of one server. Used as an asynchronous context manager: engines run inside it.

    Args:
        loaded: the models, the default one first; names must differ.
        epochs: the secret that keys the noise of all of them.
        signing_key: signs every outcome; None: they are not signed.
        largest_n: the largest n and n0 that are accepted, at most 10^7.
        offer: what is done with gradients.

    Raises:
        BundleError: two bundles have one name, or there is none.
    """

    def __init__(
        self,
        loaded: Sequence[LoadedModel],
        epochs: Epochs,
        *,
        signing_key: SigningKey | None = None,
        largest_n: int = LARGEST_N,
        offer: Offer | None = None,
    ) -> None:
        names = [model.bundle.name for model in loaded]
        if not names or len(set(names)) < len(names):
            raise BundleError(f"expected at least one model, each of another name, not {names}")
        self._loaded = tuple(loaded)
        self.epochs = epochs
        self._signing_key = signing_key
        self._largest_n = largest_n
        self._offer = offer or Offer()
        self._served: dict[str, ServedModel] = {}
        threads = max(model.execution.parallel for model in loaded)
        self._device = ThreadPoolExecutor(threads, thread_name_prefix="certserve-device")

    async def __aenter__(self) -> Models:
        for model in self._loaded:
            executor = model.executor(self._device)
            engine = Engine(executor)
            questions = Questions(engine, executor)
            self._served[model.bundle.name] = ServedModel(
                model.bundle,
                model.execution,
                engine,
                questions,
                self.epochs,
                self._signing_key,
                self._largest_n,
                self._offer,
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        for served in self._served.values():
            await served.engine.close()
        self._served.clear()
        self._device.shutdown(wait=True, cancel_futures=True)

    def get(self, name: str) -> ServedModel:
        """The model of that name; the default one for an empty name.

        Raises:
            ModelNotFound: there is none; the names there are.
        """
        if not name:
            return next(iter(self._served.values()))
        if name not in self._served:
            raise ModelNotFound(name, tuple(self._served))
        return self._served[name]

    def all(self) -> tuple[ServedModel, ...]:
        """Every model, the default one first."""
        return tuple(self._served.values())

    @property
    def alive(self) -> bool:
        """Whether every engine is running."""
        return bool(self._served) and all(served.engine.alive for served in self._served.values())
