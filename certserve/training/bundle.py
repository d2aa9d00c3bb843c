"""A trained network -> a bundle: the same weights as ONNX, which serves, and for torch, which has gradients."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from certserve import bundle
from certserve.backends.architectures import ResidualNetwork, save
from certserve.backends.onnx import OnnxBackend
from certserve.backends.probes import probe_pixels
from certserve.bundle import Bundle, Defaults, Execution, onnx_executions
from certserve.training.export import to_onnx
from certserve.training.recipe import RecipeError

__all__ = ["logit_difference", "make_bundle"]

_TOLERANCE = 1e-3
_PROBES = 256


def make_bundle(
    network: ResidualNetwork,
    directory: Path,
    *,
    name: str,
    labels: Sequence[str],
    sigma: float,
    colour: str | None = None,
    description: str = "",
    defaults: Defaults | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Bundle:
    """A new bundle of the network, once the ONNX file's logits were found equal to torch's.

    Args:
        directory: as `certserve.bundle.write`, like the rest. sigma: the noise level it was trained for.

    Raises:
        RecipeError: the two files' logits differ by more than rounding.
        BundleError: as `certserve.bundle.write`.
    """
    graph = to_onnx(network, name)
    difference = logit_difference(network, graph, sigma)
    if not difference < _TOLERANCE:
        raise RecipeError(
            f"the ONNX file's logits differ from torch's by {difference:.2g}; this is an error in certserve"
        )
    return bundle.write(
        directory,
        {"model.onnx": graph, "model.safetensors": save(network)},
        name=name,
        labels=labels,
        shape=network.description.shape,
        sigmas=[sigma],
        executions=[
            *onnx_executions("model.onnx", "float32"),
            Execution("torch-float32", "model.safetensors", "torch", "float32"),
            Execution("torch-bfloat16", "model.safetensors", "torch", "bfloat16"),
        ],
        colour=colour,
        description=description,
        defaults=defaults,
        provenance={**(provenance or {}), "logit_difference_onnx_torch": f"{difference:.2g}"},
    )


@torch.no_grad()
def logit_difference(network: ResidualNetwork, graph: bytes, sigma: float) -> float:
    """How far an ONNX file's logits are from the network's, at most, on fixed noisy inputs."""
    pixels = probe_pixels(network.description.shape, _PROBES, sigma)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(graph)
        logits = OnnxBackend(path, "float32").logits(pixels)
    return float(np.abs(logits - network(torch.from_numpy(pixels)).numpy()).max())
