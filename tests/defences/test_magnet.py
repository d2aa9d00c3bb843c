"""Detectors and the reformer, over networks whose every number is known."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from certserve import bundle as bundles
from certserve.backends import ExecutionFacts, LoadedExecution
from certserve.backends.checks import check_rows
from certserve.backends.linear import LinearBackend
from certserve.backends.reconstruction import LoadedAutoencoder
from certserve.bundle import Autoencoder, Bundle, Detector, Magnet
from certserve.defences.calibration import Calibration
from certserve.defences.divergence import jensen_shannon
from certserve.defences.magnet import LoadedMagnet, Reformed, Verdict, load_magnet, reform, reformed, scores
from certserve.errors import BundleError

Array = npt.NDArray[np.float32]

SHAPE = (1, 4, 4)
DETECTORS = (
    Detector("l1", "half", "l1.npy", 0.1),
    Detector("l2", "half", "l2.npy", 0.05),
    Detector("jsd", "half", "a.npy", 0.1, 10.0),
    Detector("jsd", "bright", "b.npy", 0.1, 1.0),
)


class Arithmetic:
    """An image-to-image network that is a formula; it notes the numbers of rows it was run with."""

    parallel = 2
    identity: Mapping[str, str] = {"runtime": "arithmetic"}

    def __init__(self, scale: float, offset: float) -> None:
        self._scale, self._offset = np.float32(scale), np.float32(offset)
        self.rows: list[int] = []

    def run(self, pixels: Array) -> Array:
        self.rows.append(len(pixels))
        return pixels * self._scale + self._offset


@pytest.fixture
def half() -> LoadedAutoencoder:
    """Halves every pixel."""
    return LoadedAutoencoder("half", Arithmetic(0.5, 0.0), SHAPE, 0.25)


@pytest.fixture
def bright() -> LoadedAutoencoder:
    """Adds .75, so that most of what it makes lies above 1."""
    return LoadedAutoencoder("bright", Arithmetic(1.0, 0.75), SHAPE, 0.25)


@pytest.fixture
def classifier() -> LoadedExecution:
    """Three classes, logits of about 10."""
    weights = 10 * np.sin(np.arange(48.0)).reshape(3, 16)
    backend = LinearBackend(weights, np.zeros(3), SHAPE)
    facts = ExecutionFacts("float64", backend.identity, check_rows(backend, 0.25).shapes, 1, "f")
    return LoadedExecution(backend, facts)


def images(count: int, phase: float = 0.0) -> Array:
    waves = 0.5 + 0.5 * np.sin(phase + 0.7 * np.arange(count * 16))
    found: Array = waves.astype(np.float32).reshape(count, *SHAPE)
    return found


def expected(classifier: LoadedExecution, x: Array) -> list[npt.NDArray[np.float64]]:
    """The scores of `DETECTORS`, from their definitions."""
    rows = x.reshape(len(x), -1).astype(np.float64)
    f = classifier.backend.logits
    return [
        np.abs(rows - rows / 2).mean(axis=1),
        ((rows - rows / 2) ** 2).mean(axis=1),
        jensen_shannon(f(x), f(x * np.float32(0.5)), 10.0),
        jensen_shannon(f(x), f(x + np.float32(0.75)), 1.0),
    ]


@pytest.mark.parametrize("count", [1, 2, 7, 64, 65, 100])
def test_scores_are_what_is_said_of_them_for_any_number_of_images(
    half: LoadedAutoencoder, bright: LoadedAutoencoder, classifier: LoadedExecution, count: int
) -> None:
    found = scores(DETECTORS, {"half": half, "bright": bright}, classifier, images(count))
    for values, wanted in zip(found, expected(classifier, images(count)), strict=True):
        assert values.dtype == np.float32
        assert values == pytest.approx(wanted, rel=1e-6)
    alone = [scores(DETECTORS, {"half": half, "bright": bright}, classifier, x[None]) for x in images(count)[:5]]
    for i, row in enumerate(alone):
        assert [values[0] for values in row] == [values[i] for values in found]


def test_networks_run_only_with_the_numbers_of_rows_that_were_checked(half: LoadedAutoencoder) -> None:
    network: Any = half._network
    network.rows.clear()
    reform(half, images(75))
    assert network.rows == [64, 32]
    assert half.shapes == (1, 8, 32, 64)


def test_each_network_runs_once_an_image_whatever_the_detectors(
    half: LoadedAutoencoder, classifier: LoadedExecution
) -> None:
    ran: list[int] = []

    class Counted:
        def logits(self, pixels: Array) -> Array:
            ran.append(len(pixels))
            return classifier.backend.logits(pixels)

    counted: Any = LoadedExecution(Counted(), classifier.facts)  # type: ignore[arg-type]
    more = [Detector("jsd", "half", f"{t}.npy", 0.1, t) for t in (1.0, 2.0, 3.0)]
    network: Any = half._network
    network.rows.clear()
    scores([*DETECTORS[:3], *more], {"half": half}, counted, images(64))
    assert network.rows == [64]
    assert ran == [64, 64]
    ran.clear()
    scores(DETECTORS[:2], {"half": half}, None, images(64))
    assert ran == []


def test_an_unused_autoencoder_does_not_run(half: LoadedAutoencoder, bright: LoadedAutoencoder) -> None:
    network: Any = bright._network
    network.rows.clear()
    scores(DETECTORS[:2], {"half": half, "bright": bright}, None, images(3))
    assert network.rows == []


@pytest.fixture
def magnet(half: LoadedAutoencoder, bright: LoadedAutoencoder, classifier: LoadedExecution) -> LoadedMagnet:
    """Calibrated with 99 images."""
    named = {"half": half, "bright": bright}
    found = scores(DETECTORS, named, classifier, images(99, phase=0.3))
    calibrations = [Calibration(np.sort(v), d.rate) for v, d in zip(found, DETECTORS, strict=True)]
    return LoadedMagnet(named, list(zip(DETECTORS, calibrations, strict=True)), "bright", classifier)


def test_a_verdict_names_every_detector_and_what_it_found(magnet: LoadedMagnet, classifier: LoadedExecution) -> None:
    x = np.concatenate([images(4), np.ones((1, *SHAPE), np.float32), np.zeros((1, *SHAPE), np.float32)])
    verdicts = magnet.detect(x)
    assert len(verdicts) == 6
    for i, verdict in enumerate(verdicts):
        assert [d.name for d in verdict.detectors] == ["l1-half", "l2-half", "jsd10-half", "jsd1-bright"]
        for found, wanted, detector in zip(verdict.detectors, expected(classifier, x), DETECTORS, strict=True):
            assert found.score == pytest.approx(wanted[i], rel=1e-6, abs=1e-12)
            assert (found.rate, found.validation_images) == (detector.rate, 99)
            assert found.flagged == (found.score > found.threshold) == (found.p_value <= found.rate)
        assert verdict.flagged == any(d.flagged for d in verdict.detectors)
    white, black = verdicts[4], verdicts[5]
    assert (white.flagged, black.detectors[0].flagged, black.detectors[1].flagged) == (True, False, False)
    assert white.detectors[0].p_value == 0.01
    assert black.detectors[0].p_value == 1.0


def test_all_together_sum_their_rates_and_correct_the_p_value(magnet: LoadedMagnet) -> None:
    (white,) = magnet.detect(np.ones((1, *SHAPE), np.float32))
    assert white.rate == pytest.approx(0.35, rel=1e-15)
    assert white.p_value == pytest.approx(4 * min(d.p_value for d in white.detectors))
    high = [dataclasses.replace(d, p_value=0.9, rate=0.9, flagged=False) for d in white.detectors]
    assert (Verdict(tuple(high)).p_value, Verdict(tuple(high)).rate, Verdict(tuple(high)).flagged) == (1.0, 1.0, False)


def test_a_score_that_is_no_number_is_flagged(magnet: LoadedMagnet) -> None:
    (verdict,) = magnet.detect(np.full((1, *SHAPE), np.nan, np.float32))
    assert all(d.flagged and d.p_value == 0.01 and math.isnan(d.score) for d in verdict.detectors)


def test_what_is_reformed_is_clipped(bright: LoadedAutoencoder) -> None:
    x = images(5)
    assert np.array_equal(reform(bright, x), np.minimum(x + np.float32(0.75), 1))
    assert np.array_equal(reform(bright, x - 2), np.clip(x - 2 + np.float32(0.75), 0, 1))


def test_reformed_is_a_base_classifier_of_noisy_pixels(bright: LoadedAutoencoder, classifier: LoadedExecution) -> None:
    backend = Reformed(classifier.backend, bright)
    assert (backend.shape, backend.num_classes, backend.parallel) == (SHAPE, 3, 1)
    noisy = images(8) * 3 - 1
    wanted = classifier.backend.logits(np.clip(noisy + np.float32(0.75), 0, 1))
    assert np.array_equal(backend.logits(noisy), wanted)
    assert check_rows(backend, 0.25).shapes == (1, 8, 32, 64)
    assert dict(backend.identity) == {**classifier.backend.identity, "reformer's runtime": "arithmetic"}


def npy(values: Any) -> bytes:
    contents = io.BytesIO()
    np.save(contents, values)
    return contents.getvalue()


@pytest.fixture
def made(tmp_path: Path) -> Bundle:
    """A linear bundle whose autoencoder is an ONNX file that halves."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    value = [helper.make_tensor_value_info(name, 1, ["batch", *SHAPE]) for name in ("x", "y")]
    scale = onnx.numpy_helper.from_array(np.array(0.5, np.float32), "scale")
    body = helper.make_graph([helper.make_node("Mul", ["x", "scale"], ["y"])], "half", value[:1], value[1:], [scale])
    proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = bundles.write_linear(
        tmp_path / "made", name="made", weights=10 * np.sin(np.arange(48.0)).reshape(3, 16), bias=np.zeros(3),
        shape=SHAPE, labels="abc", sigmas=[0.25],
    )  # fmt: skip
    magnet = Magnet((Autoencoder("half", "half.onnx"),), DETECTORS[:3], "half", "float64")
    values = npy(np.linspace(0, 0.1, 99, dtype=np.float32))
    files = {"half.onnx": proto.SerializeToString(), "l1.npy": values, "l2.npy": values, "a.npy": values}
    return bundles.extend(found.path, files, (), {}, magnet=magnet)


def test_a_bundle_s_magnet_is_loaded_and_asked(made: Bundle, classifier: LoadedExecution) -> None:
    magnet = load_magnet(made)
    verdicts = magnet.detect(images(9))
    for column, wanted in enumerate(expected(classifier, images(9))[:3]):
        assert [v.detectors[column].score for v in verdicts] == pytest.approx(wanted.tolist(), rel=1e-5)
        assert {v.detectors[column].validation_images for v in verdicts} == {99}
    assert magnet.reformer is not None
    assert reform(magnet.reformer, images(9)) == pytest.approx(images(9) / 2)


def test_the_execution_after_the_reformer_is_checked_as_a_whole(
    made: Bundle, classifier: LoadedExecution, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Any] = []

    def notes(backend: Any, sigma: float) -> Any:
        checked.append(backend)
        return check_rows(backend, sigma)

    monkeypatch.setattr("certserve.defences.magnet.check_rows", notes)
    found = reformed(made, classifier)
    assert checked == [found.backend]
    assert isinstance(found.backend, Reformed)
    assert found.name == "reformed-float64"
    other = dataclasses.replace(made, digests={**made.digests, "half.onnx": "0" * 64})
    assert reformed(other, classifier).fingerprint != found.fingerprint == reformed(made, classifier).fingerprint
    with pytest.raises(BundleError, match="has no reformer; make one with `certserve train magnet"):
        reformed(dataclasses.replace(made, magnet=None), classifier)


def test_a_bundle_without_one_says_how_to_make_it(made: Bundle) -> None:
    with pytest.raises(BundleError, match=r"has no MagNet; make one with `certserve train magnet --bundle "):
        load_magnet(dataclasses.replace(made, magnet=None))


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (b"nothing", r"l1\.npy: expected an \.npy file of scores"),
        (npy(np.array([object()], object)), r"l1\.npy: expected an \.npy file of scores"),
        (npy(np.zeros(99)), r"l1\.npy: expected a row of finite float32 scores, not float64"),
        (npy(np.linspace(1, 0, 99, dtype=np.float32)), r"l1\.npy: .* must be increasing"),
        (npy(np.zeros(8, np.float32)), r"l1\.npy: .* 0\.1 needs 9 validation images at least, and there are 8"),
    ],
)
def test_a_file_that_holds_no_scores_is_refused(made: Bundle, contents: bytes, said: str) -> None:
    found = bundles.extend(made.path, {"l1.npy": contents}, (), {})
    with pytest.raises(BundleError, match=said):
        load_magnet(found)


def test_a_classifier_of_another_precision_does_not_take_its_place(made: Bundle) -> None:
    assert made.magnet is not None
    other = dataclasses.replace(made, magnet=dataclasses.replace(made.magnet, precision="float32"))
    with pytest.raises(BundleError, match="calibrated with the classifier in float32, which cannot run here"):
        load_magnet(other)
    errors = dataclasses.replace(made.magnet, precision="float32", detectors=DETECTORS[:2])
    assert load_magnet(dataclasses.replace(made, magnet=errors)).classifier is None
