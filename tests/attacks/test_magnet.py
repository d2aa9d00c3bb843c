"""The networks that are attacked are those that serve, and the attacks on them do what they say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

for _needed in ("torch", "safetensors", "onnxruntime"):
    pytest.importorskip(_needed)

import torch  # noqa: E402 (after the checks that these are there)

from certserve import bundle as bundles  # noqa: E402
from certserve import zoo  # noqa: E402
from certserve.attacks.magnet import Bounded, Nearest, Networks, _Remembered  # noqa: E402
from certserve.attacks.norms import Norm  # noqa: E402
from certserve.bundle import Bundle  # noqa: E402
from certserve.defences.magnet import LoadedMagnet, answers, load_magnet, reform  # noqa: E402
from certserve.errors import BundleError  # noqa: E402

Pixels = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The packaged default."""
    return bundles.read(zoo.path_of(None))


@pytest.fixture(scope="module")
def served(bundle: Bundle) -> LoadedMagnet:
    """Its MagNet, as it serves."""
    return load_magnet(bundle)


@pytest.fixture(scope="module")
def images() -> Pixels:
    """Its first samples."""
    pixels = [np.asarray(Image.open(path).convert("L")) for path in zoo.samples()[:4]]
    return np.stack(pixels)[:, None].astype(np.float32) / np.float32(255)


@pytest.fixture(scope="module")
def labels(served: LoadedMagnet, images: Pixels) -> npt.NDArray[np.int64]:
    """What the classifier answers."""
    assert served.classifier is not None
    return answers(served.classifier, images)


@pytest.fixture(scope="module")
def thresholds(served: LoadedMagnet, images: Pixels) -> tuple[float, ...]:
    """Those of the detectors."""
    return tuple(detector.threshold for detector in served.detect(images[:1])[0].detectors)


@pytest.fixture(scope="module")
def networks(bundle: Bundle, thresholds: tuple[float, ...]) -> Networks:
    """What is attacked."""
    return Networks(bundle, thresholds)


def test_scores_and_pipelines_are_those_that_serve(networks: Networks, served: LoadedMagnet, images: Pixels) -> None:
    random = np.random.Generator(np.random.PCG64(4))
    noisy = np.clip(images + random.normal(0, 0.1, images.shape), 0, 1).astype(np.float32)
    verdicts = served.detect(noisy)
    rows = torch.from_numpy(noisy)
    for column, detector in enumerate(networks._detectors):
        expected = [verdict.detectors[column].score for verdict in verdicts]
        assert detector.score(rows).tolist() == pytest.approx(expected, rel=1e-3, abs=1e-7)
        assert detector.threshold == verdicts[0].detectors[column].threshold
    assert served.classifier is not None
    assert served.reformer is not None
    for function, pixels in ((networks._classifier, noisy), (networks._defended, reform(served.reformer, noisy))):
        expected_logits = served.classifier.backend.logits(pixels)
        assert np.abs(function(rows).numpy() - expected_logits).max() < 1e-3


@pytest.mark.parametrize(
    "how", [Bounded(Norm.LINF, 0.2, 1), Bounded(Norm.LINF, 0.1, 5), Bounded(Norm.L2, 2.0, 5)], ids=str
)
def test_a_bounded_attack_keeps_within_epsilon_and_says_what_it_changed(
    networks: Networks, served: LoadedMagnet, images: Pixels, labels: Any, how: Bounded
) -> None:
    told: list[int] = []
    found = networks.attack(how, images, labels, batch=3, done=told.append)
    assert told == [3, 4]
    assert found.images.dtype == np.float32
    change = (found.images.astype(np.float64) - images).reshape(len(images), -1)
    far = np.abs(change).max(1) if how.norm is Norm.LINF else np.sqrt((change**2).sum(1))
    assert (far <= how.epsilon + 1e-6).all()
    assert (far >= 0.99 * how.epsilon).all()
    assert served.classifier is not None
    assert found.attained.tolist() == (answers(served.classifier, found.images) != labels).tolist()
    assert found.attained.any()


def test_the_adaptive_attack_passes_what_the_oblivious_one_does_not_know(
    networks: Networks, served: LoadedMagnet, images: Pixels, labels: Any
) -> None:
    assert served.classifier is not None
    assert served.reformer is not None
    how, images, labels = Nearest(1.0, 5, 150), images[:2], labels[:2]
    oblivious = networks.attack(how, images, labels, batch=4, done=lambda done: None)
    assert oblivious.attained.all()
    assert (answers(served.classifier, oblivious.images) != labels).all()
    adaptive = networks.attack(dataclasses.replace(how, adaptive=True), images, labels, batch=4, done=lambda done: None)
    assert adaptive.attained.all()
    assert (answers(served.classifier, reform(served.reformer, adaptive.images)) != labels).all()
    assert not any(verdict.flagged for verdict in served.detect(adaptive.images))


def test_the_adaptive_attack_heeds_every_detector(bundle: Bundle, thresholds: Any, images: Pixels, labels: Any) -> None:
    how, wrong = Nearest(0.0, 1, 2, adaptive=True), (labels + 1) % 10  # the answer is another from the start
    for blind in (None, *range(len(thresholds))):  # no score is below 0
        chosen = tuple(-1.0 if i == blind else 1.0 for i in range(len(thresholds)))
        found = Networks(bundle, chosen).attack(how, images, wrong, batch=4, done=lambda done: None)
        assert found.attained.tolist() == [blind is None] * len(images)


def test_a_function_is_run_once_for_a_tensor() -> None:
    calls = []

    def run(rows: torch.Tensor) -> torch.Tensor:
        calls.append(rows)
        return rows + 1

    remembered = _Remembered(run)
    one, other, third = torch.zeros(2), torch.ones(2), torch.zeros(2)
    for rows in (one, other, one, other, third, other):
        assert remembered(rows).tolist() == (rows + 1).tolist()
    assert [rows is given for rows, given in zip(calls, (one, other, third), strict=True)] == [True] * 3


def test_a_bundle_without_weights_or_a_magnet_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has no MagNet; make one with `certserve train magnet`"):
        Networks(dataclasses.replace(bundle, magnet=None), ())
    served = tuple(execution for execution in bundle.executions if execution.runtime != "torch")
    with pytest.raises(BundleError, match="has no weights for torch"):
        Networks(dataclasses.replace(bundle, executions=served), (0.0,) * 4)
