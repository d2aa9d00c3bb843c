"""Autoencoders: what is saved is loaded to the bit, what serves gives torch's images, and no other file is taken."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from certserve.backends.architectures import save as save_classifier  # noqa: E402 (after the checks)
from certserve.backends.autoencoders import DESIGNS, AutoencoderDesign, AutoencoderNetwork, load, save  # noqa: E402
from certserve.backends.onnx import OnnxNetwork  # noqa: E402
from certserve.backends.openvino import OpenVinoNetwork  # noqa: E402
from certserve.backends.reconstruction import LoadedAutoencoder, read_autoencoder  # noqa: E402
from certserve.errors import BundleError, ModelRefused  # noqa: E402
from certserve.training.export import autoencoder_to_onnx  # noqa: E402

SHAPES = [(1, 8, 6), (3, 10, 8)]


def network(name: str, shape: tuple[int, int, int], width: int = 4) -> AutoencoderNetwork:
    """One whose weights and statistics are all different, in evaluation mode."""
    torch.manual_seed(3)
    made = AutoencoderNetwork(AutoencoderDesign(shape, name, width))
    for value in made.state_dict().values():
        if value.is_floating_point():
            value.add_((torch.rand_like(value) - 0.5) / 3)
    return made.eval()


def rows_of(shape: tuple[int, int, int], rows: int = 5) -> Any:
    size = (rows, *shape)
    return 0.5 + torch.sin(torch.arange(torch.Size(size).numel(), dtype=torch.float32)).view(size)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", DESIGNS)
def test_what_is_saved_is_loaded_to_the_bit(name: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    made, path = network(name, shape), tmp_path / "made.safetensors"
    path.write_bytes(save(made))
    again = load(path)
    assert again.description == made.description
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(rows_of(shape)), made(rows_of(shape)))
    assert save(again) == path.read_bytes()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", DESIGNS)
def test_the_onnx_file_gives_the_same_images_by_every_runtime(
    name: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    made, path = network(name, shape), tmp_path / "made.onnx"
    path.write_bytes(autoencoder_to_onnx(made, name))
    pixels = rows_of(shape).numpy()
    with torch.no_grad():
        expected = made(rows_of(shape)).numpy()
    assert expected.shape == pixels.shape
    assert expected.std() > 0.01
    for found in (OnnxNetwork(path, "float32"), OpenVinoNetwork(path, "float32", shape)):
        assert np.abs(found.run(pixels) - expected).max() < 1e-5
    assert np.abs(read_autoencoder(path, name, shape, 0.25).reconstruct(pixels) - expected).max() < 1e-5


def test_the_designs_are_the_published_ones() -> None:
    def kinds(name: str) -> list[str]:
        return [type(layer).__name__ for layer in network(name, (1, 8, 8)).layers]

    conv = ["Conv2d", "Sigmoid"]
    assert kinds("I") == [*conv, "AvgPool2d", *conv, *conv, "Upsample", *conv, *conv]
    assert kinds("II") == conv * 3
    assert kinds("III") == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "ReLU", "BatchNorm2d", *conv]
    for name, weights in (("I", 310), ("II", 142)):  # the reference implementation's, for MNIST
        assert sum(p.numel() for p in network(name, (1, 28, 28), 3).parameters()) == weights


@pytest.mark.parametrize(
    ("design", "said"),
    [
        (((1, 8), "I", 3), "shape must be"),
        (((1, 0, 8), "I", 3), "shape must be"),
        (((1, 8, 8), "IV", 3), "the autoencoders I, II, III, not 'IV'"),
        (((1, 8, 8), "II", 0), "wide, not 0"),
        (((1, 7, 8), "I", 3), "which 7 x 8 pixels do not allow"),
    ],
)
def test_a_design_out_of_range_is_refused(design: Any, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        AutoencoderDesign(*design)


def test_other_files_are_refused(models: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(save_classifier(models.residual()))
    with pytest.raises(BundleError, match="expected an autoencoder, not 'residual'"):
        load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(BundleError, match="expected a safetensors file"):
        load(path)
    one, two = network("II", (1, 8, 8)), save(network("II", (1, 8, 8), width=5))
    metadata = {"certserve.architecture": '{"name": "autoencoder", "design": "II", "shape": [1, 8, 8], "width": 4}'}
    path.write_bytes(safetensors.save(safetensors.load(two), metadata))
    with pytest.raises(BundleError, match="do not fit its architecture"):
        load(path)
    path.write_bytes(safetensors.save(safetensors.load(save(one)), metadata))
    assert load(path).description == one.description


def test_a_network_that_makes_no_images_or_couples_rows_is_refused(models: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="must keep the shape"):
        read_autoencoder(models.classifier(tmp_path / "classifier.onnx"), "x", models.SHAPE, 0.25)

    class Coupled:
        parallel, identity = 1, {"runtime": "none"}

        def run(self, pixels: Any) -> Any:
            return pixels - pixels.mean(axis=0)

    with pytest.raises(ModelRefused, match="rows are not independent"):
        LoadedAutoencoder("x", Coupled(), (1, 4, 4), 0.25)
