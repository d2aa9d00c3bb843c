"""PyTorch on a CPU: in-tree networks in float32 or bfloat16, and programs of torch.export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from certserve.backends.architectures import ResidualNetwork, load, precision_named
from certserve.backends.autoencoders import AutoencoderNetwork
from certserve.backends.autoencoders import load as load_autoencoder
from certserve.backends.checks import count_classes
from certserve.backends.failures import failure
from certserve.backends.processor import instruction_set, multiplies_bfloat16
from certserve.bundle import Bundle
from certserve.errors import BundleError

__all__ = ["TorchBackend", "differentiable", "differentiable_autoencoder", "gradients"]


def differentiable(bundle: Bundle) -> ResidualNetwork:
    """The bundle's network in float32, on the CPU, in evaluation mode: what attacks and training take gradients of.

    Raises:
        BundleError: the bundle has no weights for torch.
    """
    for execution in bundle.executions:
        if execution.runtime == "torch":
            return load(bundle.file(execution.file))
    raise BundleError(
        f"{bundle.path} has no weights for torch (a .safetensors file), so it has no gradients; a bundle made by "
        "`certserve train` has them"
    )


def gradients(bundle: Bundle, *, bfloat16: bool | None = None) -> Callable[[Tensor], Tensor]:
    """The bundle's network on the CPU, as attacks and searches go through it: float32 rows to float32 logits.

    Batch norm is folded into the convolutions, and the weights have no gradients.

    Args:
        bfloat16: whether convolutions and products are in bfloat16; None: where the processor has instructions for it.

    Raises:
        BundleError: the bundle has no weights for torch.
    """
    network: Callable[[Tensor], Tensor] = differentiable(bundle).folded().requires_grad_(False)
    if not (multiplies_bfloat16() if bfloat16 is None else bfloat16):
        return network

    def shortened(rows: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(rows).float()

    return shortened


def differentiable_autoencoder(bundle: Bundle, name: str) -> AutoencoderNetwork:
    """One of the bundle's autoencoders in float32, on the CPU, in evaluation mode.

    Raises:
        BundleError: the bundle has no such autoencoder, or none with weights for torch.
    """
    if bundle.magnet is None:
        raise BundleError(f"{bundle.path} has no MagNet; make one with `certserve train magnet`")
    weights = bundle.magnet.autoencoder(name).weights
    if not weights:
        raise BundleError(f"{bundle.path}: the autoencoder {name} has no weights for torch, so it has no gradients")
    return load_autoencoder(bundle.file(weights))


class TorchBackend:
    """A classifier that takes noisy [0, 1] pixels, float32 (rows, channels, height, width).

    Args:
        function: from pixels in the memory format channels_last to logits (rows, classes).
        shape: (channels, height, width). precision: of its arithmetic.
    """

    parallel = 1

    def __init__(self, function: Callable[[Tensor], Tensor], shape: tuple[int, int, int], precision: str) -> None:
        self._function, self.shape = function, shape
        self.num_classes = count_classes(self)
        self.identity: Mapping[str, str] = {
            "runtime": "torch",
            "version": torch.__version__,
            "precision": precision,
            "device": "cpu",
            "threads": str(torch.get_num_threads()),
            "instructions": instruction_set(),
        }

    @classmethod
    def read(cls, path: Path, precision: str) -> TorchBackend:
        """An in-tree network from its safetensors file.

        Args:
            precision: "float32" or "bfloat16".

        Raises:
            BundleError: the file holds no in-tree network, or the precision is unknown.
        """
        network = load(path).folded(precision_named(precision, path))
        shape = network.description.shape
        return cls(network.to(memory_format=torch.channels_last), shape, precision)  # type: ignore[call-overload]

    @classmethod
    def read_program(cls, path: Path, shape: tuple[int, int, int], precision: str) -> TorchBackend:
        """A program written by torch.export.save. Reading it may run code: see `certserve.backends.load`.

        Raises:
            BundleError: the file is no such program. ModelRefused: it is no classifier of such images.
        """
        try:
            program: Any = torch.export.load(str(path))
            function = program.module()
        except Exception as error:  # the loader's errors share no base but Exception
            raise BundleError(f"{path}: expected a program written by torch.export.save ({error})") from error
        # A program may change its input in place, and for one channel that is the caller's own array.
        return cls(lambda pixels: function(pixels.clone()), shape, precision)

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of shape (rows, num_classes) for pixels of shape (rows, *shape)."""
        try:
            with torch.inference_mode():
                rows = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
                return self._function(rows.contiguous(memory_format=torch.channels_last)).float().numpy()
        except Exception as error:  # what a program may raise has no base but Exception
            raise failure("torch", len(pixels), error) from error
