"""MagNet: detectors that say how unusual an image is, and a reformer that moves it towards the usual ones.

No guarantee follows from it: an attack that knows of it breaks it (Carlini and Wagner 2017, arXiv:1711.08478).

References:
    Meng and Chen 2017, MagNet: a two-pronged approach to adversarial examples (arXiv:1705.09064).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from certserve import backends
from certserve.backends import Backend, ExecutionFacts, LoadedExecution
from certserve.backends.checks import check_rows, fingerprint
from certserve.backends.choice import ranked
from certserve.backends.reconstruction import LoadedAutoencoder, load_autoencoder
from certserve.bundle import Bundle, Detector, Magnet
from certserve.defences.calibration import Calibration
from certserve.defences.divergence import jensen_shannon
from certserve.errors import BundleError
from certserve.smoothing.verdicts import DetectorVerdict, Verdict

__all__ = [
    "REFORMED",
    "DetectorVerdict",
    "LoadedMagnet",
    "Reformed",
    "Verdict",
    "answers",
    "classifier_of",
    "load_magnet",
    "reform",
    "reformed",
    "run_rows",
    "scores",
]

Pixels = npt.NDArray[np.float32]

REFORMED = "reformed-"
"""The name of an execution whose base classifier is `Reformed` begins with it."""


class LoadedMagnet:
    """A bundle's MagNet, ready to be asked.

    Args:
        autoencoders: by name. detectors: each with its calibration.
        reformer: a name of an autoencoder, or None. classifier: what detectors of the kind jsd compare.
    """

    def __init__(
        self,
        autoencoders: Mapping[str, LoadedAutoencoder],
        detectors: Sequence[tuple[Detector, Calibration]],
        reformer: str | None,
        classifier: LoadedExecution | None,
    ) -> None:
        self._autoencoders, self._detectors = dict(autoencoders), tuple(detectors)
        self.classifier = classifier
        self.reformer = None if reformer is None else self._autoencoders[reformer]

    def detect(self, pixels: Pixels) -> list[Verdict]:
        """One verdict an image, for clean pixels in [0, 1], (rows, *shape).

        Raises:
            BackendFailed: a runtime failed.
        """
        detectors = [detector for detector, _ in self._detectors]
        found = scores(detectors, self._autoencoders, self.classifier, pixels)
        columns = [
            _verdicts(detector, calibration, values)
            for (detector, calibration), values in zip(self._detectors, found, strict=True)
        ]
        return [Verdict(row) for row in zip(*columns, strict=True)]


class Reformed:
    """The classifier f after the reformer R, as a base classifier of its own: x -> f(R(x)), rows alone.

    Smoothing it means noise, then reform, then classify, so that a radius is about the image before all three.

    Args:
        backend: f. reformer: R; its images are clipped to [0, 1].
    """

    def __init__(self, backend: Backend, reformer: LoadedAutoencoder) -> None:
        self._backend, self._reformer = backend, reformer
        self.shape, self.num_classes = backend.shape, backend.num_classes
        self.parallel = min(backend.parallel, reformer.parallel)
        reforming = {f"reformer's {name}": text for name, text in reformer.identity.items()}
        self.identity: Mapping[str, str] = {**backend.identity, **reforming}

    def logits(self, pixels: Pixels) -> Pixels:
        """Logits of shape (rows, num_classes) for pixels of shape (rows, *shape)."""
        return self._backend.logits(np.clip(self._reformer.reconstruct(pixels), 0.0, 1.0))


def reformed(bundle: Bundle, classifier: LoadedExecution) -> LoadedExecution:
    """The classifier after the bundle's reformer, checked anew, with a name and a fingerprint of its own.

    Raises:
        BundleError: the bundle has no reformer. ModelRefused: both together are no base classifier.
    """
    if bundle.magnet is None or not bundle.magnet.reformer:
        raise BundleError(
            f"{bundle.path} has no reformer; make one with `certserve train magnet --bundle {bundle.path}`"
        )
    entry = bundle.magnet.autoencoder(bundle.magnet.reformer)
    backend = Reformed(classifier.backend, load_autoencoder(bundle, entry))
    rows = check_rows(backend, max(bundle.sigmas))
    files = f"{classifier.fingerprint} after {bundle.digests[entry.file]}"
    name = REFORMED + classifier.name
    facts = ExecutionFacts(
        name, backend.identity, rows.shapes, backend.parallel, fingerprint(files, backend.identity, rows)
    )
    return LoadedExecution(backend, facts)


def load_magnet(bundle: Bundle, *, trust: bool = False, serving: LoadedExecution | None = None) -> LoadedMagnet:
    """The bundle's MagNet.

    Args:
        serving: an execution of the classifier that is loaded already: it is used, where its precision is the one.
        trust: as in `certserve.backends.load`, for the classifier that divergences need.

    Raises:
        BundleError: the bundle has none, or a file of it is not what it should be.
        ModelRefused: as `certserve.backends.load` and `load_autoencoder`.
    """
    magnet = bundle.magnet
    if magnet is None:
        raise BundleError(f"{bundle.path} has no MagNet; make one with `certserve train magnet --bundle {bundle.path}`")
    detectors = [(detector, _calibration(bundle, detector)) for detector in magnet.detectors]
    with ThreadPoolExecutor(1) as beside:  # a load keeps one core busy
        loading = beside.submit(_compared_with, bundle, magnet, trust, serving)
        autoencoders = {entry.name: load_autoencoder(bundle, entry) for entry in magnet.autoencoders}
        return LoadedMagnet(autoencoders, detectors, magnet.reformer or None, loading.result())


def _compared_with(
    bundle: Bundle, magnet: Magnet, trust: bool, serving: LoadedExecution | None
) -> LoadedExecution | None:
    """The classifier whose answers divergences are of, where there are any."""
    if all(detector.kind != "jsd" for detector in magnet.detectors):
        return None
    if serving is not None and serving.facts.identity.get("precision") == magnet.precision:
        return serving
    return classifier_of(bundle, magnet.precision, trust=trust)


def classifier_of(bundle: Bundle, precision: str, *, trust: bool = False) -> LoadedExecution:
    """The bundle's classifier in that precision: divergences are small, so they are compared within one.

    Raises:
        BundleError: it cannot run here in that precision. ModelRefused: as `certserve.backends.load`.
    """
    for execution in ranked(bundle):
        if execution.precision == precision:
            return backends.load(bundle, execution, trust=trust)
    raise BundleError(
        f"{bundle.path}: its MagNet was calibrated with the classifier in {precision}, which cannot run here; "
        "calibrate it again with `certserve train magnet`"
    )


def answers(classifier: LoadedExecution, pixels: Pixels) -> npt.NDArray[np.int64]:
    """The classifier's labels, (rows,), for pixels in [0, 1], (rows, *shape).

    Raises:
        BackendFailed: the runtime failed.
    """
    logits = run_rows(classifier.backend.logits, pixels, classifier.shapes)
    found: npt.NDArray[np.int64] = logits.argmax(axis=1).astype(np.int64)
    return found


def reform(reformer: LoadedAutoencoder, pixels: Pixels) -> Pixels:
    """The images that the reformer makes of pixels in [0, 1], (rows, *shape), clipped to [0, 1]."""
    return np.clip(run_rows(reformer.reconstruct, pixels, reformer.shapes), 0.0, 1.0)


def scores(
    detectors: Sequence[Detector],
    autoencoders: Mapping[str, LoadedAutoencoder],
    classifier: LoadedExecution | None,
    pixels: Pixels,
) -> list[npt.NDArray[np.float32]]:
    """Each detector's score of each image, float32 (rows,); the classifier is needed for the kind jsd alone.

    Raises:
        BackendFailed: a runtime failed.
    """
    needed = {detector.autoencoder for detector in detectors}
    images = {
        name: run_rows(entry.reconstruct, pixels, entry.shapes)
        for name, entry in autoencoders.items()
        if name in needed
    }
    compared = {detector.autoencoder for detector in detectors if detector.kind == "jsd"}
    logits: dict[str, Pixels] = {}
    if compared:
        assert classifier is not None
        run, shapes = classifier.backend.logits, classifier.shapes
        logits = {name: run_rows(run, images[name], shapes) for name in compared}
        logits[""] = run_rows(run, pixels, shapes)
    found = []
    for detector in detectors:
        if detector.temperature is not None:
            values = jensen_shannon(logits[""], logits[detector.autoencoder], detector.temperature)
        else:
            difference = np.abs(pixels.astype(np.float64) - images[detector.autoencoder]).reshape(len(pixels), -1)
            values = (difference if detector.kind == "l1" else difference**2).mean(axis=1)
        found.append(values.astype(np.float32))
    return found


def _calibration(bundle: Bundle, detector: Detector) -> Calibration:
    path = bundle.file(detector.scores)
    try:
        stored = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        return Calibration(np.asarray(stored), detector.rate)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    except Exception as error:  # numpy's and zipfile's share no base but Exception
        raise BundleError(f"{path}: expected an .npy file of scores ({error})") from error


def _verdicts(detector: Detector, calibration: Calibration, values: npt.NDArray[np.float32]) -> list[DetectorVerdict]:
    threshold, images = calibration.threshold, len(calibration.scores)
    told = zip(values, calibration.p_values(values), calibration.flagged(values), strict=True)
    return [
        DetectorVerdict(
            name=detector.name,
            score=float(score),
            threshold=threshold,
            p_value=float(p_value),
            flagged=bool(flagged),
            rate=detector.rate,
            validation_images=images,
        )
        for score, p_value, flagged in told
    ]


def run_rows(run: Callable[[Pixels], Pixels], pixels: Pixels, shapes: Sequence[int]) -> Pixels:
    """The rows' results, run in the given numbers of rows alone; a last, smaller batch is filled up with zeros."""
    results, done = [], 0
    while done < len(pixels):
        left = len(pixels) - done
        rows = next((shape for shape in shapes if shape >= left), shapes[-1])
        count = min(rows, left)
        batch = pixels[done : done + count]
        if count < rows:
            filling = np.zeros((rows - count, *pixels.shape[1:]), dtype=np.float32)
            batch = np.concatenate([batch, filling])
        results.append(run(batch)[:count])
        done += count
    return np.concatenate(results)
