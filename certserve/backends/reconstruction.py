"""A bundle's autoencoders as they serve: ONNX files, image to image, on the CPU, by OpenVINO or else ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from certserve.backends.checks import check_rows
from certserve.backends.choice import has_module
from certserve.bundle import Autoencoder, Bundle
from certserve.errors import BackendFailed, BundleError, ModelRefused

__all__ = ["LoadedAutoencoder", "load_autoencoder", "read_autoencoder"]

_PRECISION = "float32"


class _Network(Protocol):
    @property
    def parallel(self) -> int: ...

    @property
    def identity(self) -> Mapping[str, str]: ...

    def run(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...


class LoadedAutoencoder:
    """A deterministic function from an image to an image of the same shape, of each row alone.

    Attributes:
        name: in the bundle. shape: (channels, height, width). sigma: of the noise that its checks add.
        parallel, identity: as those of a `Backend`.
        shapes: numbers of rows it may be run with, increasing; bit-equal results, shown when it was loaded.

    Raises:
        ModelRefused: it is no such function: another shape, values that are not finite, or coupled rows.
    """

    def __init__(self, name: str, network: _Network, shape: tuple[int, int, int], sigma: float) -> None:
        self.name, self.shape, self._network = name, shape, network
        self.parallel, self.identity = network.parallel, network.identity
        self.shapes = check_rows(_Flat(self), sigma).shapes

    def reconstruct(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Images of the shape of the pixels, (rows, *shape).

        Raises:
            BackendFailed: the runtime failed on these rows.
        """
        images = self._network.run(np.ascontiguousarray(pixels, dtype=np.float32))
        if images.shape != pixels.shape:
            raise ModelRefused(
                f"the autoencoder {self.name} makes {images.shape} of {pixels.shape}; it must keep the shape"
            )
        return images


class _Flat:
    """The images as rows of numbers, which is what the checks of a classifier compare."""

    def __init__(self, autoencoder: LoadedAutoencoder) -> None:
        self._autoencoder, self.shape = autoencoder, autoencoder.shape

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return self._autoencoder.reconstruct(pixels).reshape(len(pixels), -1)


def load_autoencoder(bundle: Bundle, autoencoder: Autoencoder) -> LoadedAutoencoder:
    """An autoencoder of the bundle, checked.

    Raises:
        BundleError, ModelRefused: as `read_autoencoder`.
    """
    return read_autoencoder(bundle.file(autoencoder.file), autoencoder.name, bundle.shape, max(bundle.sigmas))


def read_autoencoder(path: Path, name: str, shape: tuple[int, int, int], sigma: float) -> LoadedAutoencoder:
    """The autoencoder in an ONNX file, checked with images under noise of that standard deviation.

    Raises:
        BundleError: the file cannot be loaded, or no runtime is installed.
        ModelRefused: as `LoadedAutoencoder`.
    """
    network: _Network
    if has_module("openvino"):
        from certserve.backends.openvino import OpenVinoNetwork

        network = OpenVinoNetwork(path, _PRECISION, shape)
    elif has_module("onnxruntime"):
        from certserve.backends.onnx import OnnxNetwork

        network = OnnxNetwork(path, _PRECISION)
    else:
        raise BundleError(f"{path}: autoencoders need openvino or onnxruntime; install certserve[server]")
    try:
        return LoadedAutoencoder(name, network, shape, sigma)
    except (BackendFailed, ModelRefused) as error:
        raise ModelRefused(f"{path}: {error}") from error
