"""PyTorch: in-tree networks on a CPU or a CUDA device, in float32 or bfloat16; and programs of torch.export."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from certserve.backends.architectures import ResidualNetwork, load
from certserve.backends.autoencoders import AutoencoderNetwork
from certserve.backends.autoencoders import load as load_autoencoder
from certserve.backends.checks import count_classes
from certserve.backends.failures import failure
from certserve.backends.processor import instruction_set, multiplies_bfloat16
from certserve.bundle import Bundle
from certserve.errors import BundleError

__all__ = ["TorchBackend", "differentiable", "differentiable_autoencoder", "gradients"]

_CUDA_PARALLEL = 4
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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

    On CUDA (not yet verified on a GPU) several threads run it, each on a stream of its own, so that the device need
    not wait for their noise; the convolutions' kernels are deterministic ones for the whole process, and their
    float32 is not shortened to TF32.

    Args:
        function: from pixels on `device`, in the memory format channels_last, to logits (rows, classes).
        shape: (channels, height, width). precision: of its arithmetic.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], shape: tuple[int, int, int], precision: str, device: torch.device
    ) -> None:
        self._function, self._device, self.shape = function, device, shape
        self.parallel = 1
        self._own = threading.local()  # each thread's stream
        if device.type == "cuda":
            self.parallel = _CUDA_PARALLEL
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self.num_classes = count_classes(self)
        self.identity: Mapping[str, str] = {
            "runtime": "torch",
            "version": torch.__version__,
            "precision": precision,
            **_hardware(device),
        }

    @classmethod
    def read(cls, path: Path, precision: str, device: torch.device | None = None) -> TorchBackend:
        """An in-tree network from its safetensors file.

        Args:
            precision: "float32" or "bfloat16". device: default: the first CUDA device, or else the CPU.

        Raises:
            BundleError: the file holds no in-tree network, or the precision is unknown.
        """
        if precision not in _PRECISIONS:
            raise BundleError(f"{path}: unknown precision {precision!r}; torch has {', '.join(_PRECISIONS)}")
        place = device or _default_device()
        network = load(path).folded(_PRECISIONS[precision])
        shape = network.description.shape
        return cls(network.to(device=place, memory_format=torch.channels_last), shape, precision, place)  # type: ignore[call-overload]

    @classmethod
    def read_program(cls, path: Path, shape: tuple[int, int, int], precision: str) -> TorchBackend:
        """A program written by torch.export.save, on the CPU. Reading it may run code: see `certserve.backends.load`.

        Raises:
            BundleError: the file is no such program. ModelRefused: it is no classifier of such images.
        """
        try:
            program: Any = torch.export.load(str(path))
            function = program.module()
        except Exception as error:  # the loader's errors share no base but Exception
            raise BundleError(f"{path}: expected a program written by torch.export.save ({error})") from error
        # A program may change its input in place, and for one channel that is the caller's own array.
        return cls(lambda pixels: function(pixels.clone()), shape, precision, torch.device("cpu"))

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of shape (rows, num_classes) for pixels of shape (rows, *shape)."""
        try:
            with torch.inference_mode(), self._stream():
                rows = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
                rows = rows.to(self._device).contiguous(memory_format=torch.channels_last)
                return self._function(rows).float().cpu().numpy()
        except Exception as error:  # what a program may raise has no base but Exception
            raise failure("torch", len(pixels), error) from error

    def _stream(self) -> AbstractContextManager[object]:
        """This thread's stream on a CUDA device; nothing on a CPU."""
        if self._device.type != "cuda":
            return nullcontext()
        if not hasattr(self._own, "stream"):
            self._own.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        return torch.cuda.stream(self._own.stream)


def _default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _hardware(device: torch.device) -> dict[str, str]:
    if device.type == "cuda":
        version = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]
        return {"device": torch.cuda.get_device_name(device), "libraries": version}
    return {"device": "cpu", "threads": str(torch.get_num_threads()), "instructions": instruction_set()}
