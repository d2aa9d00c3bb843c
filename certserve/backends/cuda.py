"""PyTorch on a CUDA device: in-tree networks, one cuDNN call a convolution, and the noisy copies made in their place.

All batches of a model are queued on one CUDA stream: while one runs, the next is queued behind it already. Their noise
is made on another, beside the batch that runs. A thread waits for its own batch's logits alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from certserve.backends.architectures import Block, Normed, ResidualNetwork, load, precision_named
from certserve.backends.checks import count_classes
from certserve.backends.failures import failure
from certserve.backends.protocols import Batch, Source
from certserve.errors import ModelRefused
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.chacha import CHACHA_STREAM

if TYPE_CHECKING:
    from certserve.backends.device_noise import DeviceNoise

__all__ = ["CudaBackend", "DrawingCudaBackend", "FusedNetwork", "read"]

_log = logging.getLogger(__name__)
_ALIGNMENT = 16  # bytes: cuDNN may have another kernel for rows that begin elsewhere


class FusedNetwork:
    """A residual network for inference, whose biases, sums and ReLUs are done by its convolutions on a CUDA device.

    Args:
        network: in evaluation mode. precision: of its weights and sums. device: where it runs.

    Attributes:
        fused: whether the convolutions do it; else it takes operations of their own. Never true on a CPU.
    """

    def __init__(self, network: ResidualNetwork, precision: torch.dtype, device: torch.device) -> None:
        folded = network.folded()
        for block in folded.blocks:
            assert isinstance(block, Block)
            _merge_biases(block)
        folded = folded.folded(precision).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.description = network.description
        self.mean, self.scale, self.precision = folded.mean, (1.0 / network.std).to(device), precision
        self.fused = device.type == "cuda"
        self._stem, self._head = folded.stem, folded.head
        self._blocks = [(block.first, block.second, block.shortcut) for block in folded.blocks]

    def normalised(self, pixels: Tensor) -> Tensor:
        """The network's first step: pixels in [0, 1] plus noise, float32, to what `__call__` takes."""
        rows: Tensor = ((pixels - self.mean) * self.scale).to(self.precision)
        return rows

    def __call__(self, normalised: Tensor) -> Tensor:
        """Logits (rows, classes) in its precision, of (rows, channels, height, width) in channels_last."""
        x = self._relu(self._stem, normalised)
        for first, second, shortcut in self._blocks:
            beside = x if shortcut is None else _strided(shortcut, x)
            x = self._relu(second, self._relu(first, x), beside)
        logits: Tensor = self._head(x.mean((2, 3)))
        return logits

    def _relu(self, layer: Normed, x: Tensor, beside: Tensor | None = None) -> Tensor:
        """The layer's convolution and bias, plus what is beside it, then ReLU."""
        conv = layer.conv
        if not self.fused:
            y = conv(x) if beside is None else conv(x) + beside
            return torch.relu(y)
        how: tuple[Any, ...] = (conv.stride, conv.padding, conv.dilation, conv.groups)
        if beside is None:
            done: Tensor = torch.ops.aten.cudnn_convolution_relu(x, conv.weight, conv.bias, *how)
        else:
            done = torch.ops.aten.cudnn_convolution_add_relu(x, conv.weight, beside, 1.0, conv.bias, *how)
        return done


def _merge_biases(block: Block) -> None:
    """One bias for the sum of the second convolution and the shortcut's."""
    if block.shortcut is not None:
        one, other = block.second.conv, block.shortcut.conv
        assert one.bias is not None
        assert other.bias is not None
        one.bias, other.bias = nn.Parameter(one.bias + other.bias), None


def _strided(shortcut: Normed, x: Tensor) -> Tensor:
    """Its convolution of one pixel a side, of the pixels that it reads: cuDNN is slow to skip the others."""
    down, across = shortcut.conv.stride
    pixels = x[:, :, ::down, ::across].contiguous(memory_format=torch.channels_last)
    return functional.conv2d(pixels, shortcut.conv.weight)


class CudaBackend:
    """A residual network on a CUDA device that takes noisy [0, 1] pixels, float32 (rows, channels, height, width).

    For the whole process, cuDNN chooses kernels by rule, not by timing them, and float32 is not shortened to TF32.
    """

    parallel = 4  # the device need not wait for the noise of one thread

    def __init__(self, network: ResidualNetwork, precision: torch.dtype, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self.device = device
        self.network = FusedNetwork(network, precision, device)
        if on_gpu:
            torch.cuda.synchronize(device)  # its weights are there before another CUDA stream reads them
        self.shape = network.description.shape
        self.queue = _cuda_stream(device)
        self._queueing = threading.Lock()
        self.num_classes = self._count_classes()
        self.identity: Mapping[str, str] = {
            "runtime": "torch",
            "version": torch.__version__,
            "precision": str(precision).removeprefix("torch."),
            "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
            "libraries": f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",  # type: ignore[no-untyped-call]
        }

    def _count_classes(self) -> int:
        """As `count_classes`; cuDNN need not have fused kernels for every network and device."""
        try:
            return count_classes(self)
        except ModelRefused:
            if not self.network.fused:
                raise
        self.network.fused = False
        return count_classes(self)

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of shape (rows, num_classes) for pixels of shape (rows, *shape)."""
        with _told(len(pixels)):
            with torch.inference_mode(), torch.cuda.stream(self.queue):
                normalised = self.network.normalised(self.to_device(pixels))
            return self.classify(normalised)

    def to_device(self, pixels: npt.NDArray[np.float32]) -> Tensor:
        """The same on the device, in channels_last."""
        rows = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
        return rows.to(self.device).contiguous(memory_format=torch.channels_last)

    def classify(self, normalised: Tensor) -> npt.NDArray[np.float32]:
        """Queue the network on normalised rows, and wait for the logits."""
        with torch.inference_mode(), torch.cuda.stream(self.queue):
            with self._queueing:
                logits = self.network(normalised).float()
                if self.queue is None:
                    return logits.numpy()
                host = torch.empty(logits.shape, pin_memory=True)
                host.copy_(logits, non_blocking=True)
                done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                done.record(self.queue)
            done.synchronize()
        return host.numpy()


def _cuda_stream(device: torch.device) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]


class DrawingCudaBackend(CudaBackend):
    """One that makes its noisy copies on the device too, by `noise`."""

    stream = CHACHA_STREAM
    parallel = 2  # one runs, one waits behind it

    def __init__(
        self, network: ResidualNetwork, precision: torch.dtype, device: torch.device, noise: DeviceNoise
    ) -> None:
        super().__init__(network, precision, device)
        self.noise = noise
        self.drawing = _cuda_stream(device)

    def batch(self, rows: int) -> Batch:
        """Room for so many noisy copies on the device."""
        return _DeviceBatch(self, rows)


class _DeviceBatch:
    """Normalised noisy copies on the device; see `certserve.backends.Batch`."""

    def __init__(self, backend: DrawingCudaBackend, rows: int) -> None:
        self._backend = backend
        with _told(rows), torch.cuda.stream(backend.drawing):
            self._rows = torch.empty(
                (rows, *backend.shape),
                dtype=backend.network.precision,
                device=backend.device,
                memory_format=torch.channels_last,
            ).zero_()

    def write(self, start: int, count: int, source: Source, draws: str, first: int) -> None:
        backend, rows = self._backend, self._rows[start : start + count]
        with _told(count), torch.inference_mode(), torch.cuda.stream(backend.drawing):
            if source.arithmetic is Arithmetic.GRID:
                pixels = source.pixels.astype(np.uint8, copy=False)
                backend.noise.write(rows, source.key, pixels, source.sigma, draws, first)
                return
            copies = np.empty((count, source.pixels.size), dtype=np.float32)
            source.write(draws, first, copies)
            rows.copy_(backend.network.normalised(backend.to_device(copies.reshape(rows.shape))))

    def clear(self, start: int, stop: int) -> None:
        with _told(stop - start), torch.cuda.stream(self._backend.drawing):
            self._rows[start:stop] = 0.0

    def move_up(self, start: int, stop: int) -> None:
        with _told(stop - start), torch.cuda.stream(self._backend.drawing):
            self._rows[: stop - start] = self._rows[start:stop].clone()

    def logits(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        backend, rows = self._backend, self._rows[start:stop]
        with _told(stop - start):
            if rows.data_ptr() % _ALIGNMENT:
                with torch.cuda.stream(backend.drawing):
                    rows = rows.clone()
            if backend.queue is not None and backend.drawing is not None:
                backend.queue.wait_stream(backend.drawing)
            return backend.classify(rows)


@contextmanager
def _told(rows: int) -> Iterator[None]:
    """Whatever torch and Triton raise, as this package's errors."""
    try:
        yield
    except Exception as error:  # they share no base but Exception
        raise failure("torch", rows, error) from error


def read(path: Path, precision: str, device: torch.device | None = None) -> CudaBackend:
    """An in-tree network from its safetensors file.

    Where the device cannot make the noisy copies (Triton is missing, say, or finds no C compiler), the processor does,
    with a warning.

    Args:
        precision: "float32" or "bfloat16". device: default: the current CUDA device.

    Raises:
        BundleError: the file holds no in-tree network, or the precision is unknown. ModelRefused: it does not run.
    """
    network, what = load(path), precision_named(precision, path)
    place = device or torch.device("cuda")
    try:
        noise = _device_noise(network, what, place)
    except Exception as error:  # compiling a kernel fails in many ways
        _log.warning("the noise is made on the processor, not on the CUDA device: %s", error)
        return CudaBackend(network, what, place)
    return DrawingCudaBackend(network, what, place, noise)


def _device_noise(network: ResidualNetwork, precision: torch.dtype, device: torch.device) -> DeviceNoise:
    from certserve.backends.device_noise import DeviceNoise  # needs Triton

    noise = DeviceNoise(network.mean.to(device), (1.0 / network.std).to(device))
    noise.check(network.description.shape, precision)
    return noise
