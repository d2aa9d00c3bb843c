"""In-tree networks, and the safetensors files that hold their weights.

A file says in its own metadata which network it is for, so weights and network never part. Nothing is unpickled:
a safetensors file holds numbers, and the network's code is here.
"""

from __future__ import annotations

import copy
import json
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from certserve.errors import BundleError

__all__ = [
    "Block",
    "Normed",
    "Residual",
    "ResidualNetwork",
    "Stage",
    "fill",
    "load",
    "pack",
    "precision_named",
    "save",
    "unpack",
]

_Network = TypeVar("_Network", bound=nn.Module)

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_KEY = "certserve.architecture"
_LARGEST_SIDE = 4096
_LARGEST_WIDTH = 4096
_LARGEST_DEPTH = 256


@dataclass(frozen=True, slots=True)
class Stage:
    """Residual blocks of one width. Every stage but the first begins by halving height and width."""

    width: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Residual:
    """A residual network (He et al. 2016, basic blocks): stem, stages, global average, linear layer.

    Attributes:
        shape: (channels, height, width) of the input, pixels in [0, 1] plus noise. classes: how many.
        mean, std: per channel, in units of [0, 1] pixels; (x - mean) / std is the network's first step.
        stride: of the stem, 1, 2 or 4: a convolution over 3, 5 or 7 pixels.

    Raises:
        BundleError: a value is out of its range.
    """

    shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stride: int
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or not 1 <= min(self.shape) <= max(self.shape) <= _LARGEST_SIDE:
            raise BundleError(f"a network's shape must be (channels, height, width), not {self.shape!r:.100}")
        if not 2 <= self.classes <= 1_000_000:
            raise BundleError(f"a network has 2 to 1,000,000 classes, not {self.classes}")
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise BundleError(f"{self.shape[0]} channels need as many means and stds")
        if not all(map(math.isfinite, self.mean + self.std)) or min(self.std) <= 0:
            raise BundleError("means must be finite, and stds finite and positive")
        if self.stride not in _STEM_SIDES:
            raise BundleError(f"the stem's stride must be 1, 2 or 4, not {self.stride}")
        depth = sum(stage.blocks for stage in self.stages)
        if not self.stages or not all(1 <= s.width <= _LARGEST_WIDTH and s.blocks >= 1 for s in self.stages):
            raise BundleError(
                f"stages must be one or more, of 1 to {_LARGEST_WIDTH} channels and at least 1 block each"
            )
        if depth > _LARGEST_DEPTH:
            raise BundleError(f"a network has at most {_LARGEST_DEPTH} blocks, not {depth}")


_STEM_SIDES = {1: 3, 2: 5, 4: 7}


class Normed(nn.Module):
    """A convolution and the batch normalisation after it; one convolution once `fold` was called."""

    def __init__(self, i: int, o: int, side: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(i, o, side, stride, side // 2, bias=False)
        self.norm: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(o)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y

    def fold(self) -> None:
        """Fold the normalisation's running statistics into the convolution: the same function in inference."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class Block(nn.Module):
    """The basic residual block: (rows, i, h, w) -> (rows, o, h / stride, w / stride)."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.first = Normed(i, o, 3, stride)
        self.second = Normed(o, o, 3)
        self.shortcut = Normed(i, o, 1, stride) if stride != 1 or i != o else None

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second(functional.relu(self.first(x)))
        return functional.relu(inner + (x if self.shortcut is None else self.shortcut(x)))


class ResidualNetwork(nn.Module):
    """What `Residual` describes: pixels in [0, 1] plus noise, (rows, channels, h, w), to logits (rows, classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, description: Residual) -> None:
        super().__init__()
        self.description = description
        channels = description.shape[0]
        for name in ("mean", "std"):
            values = torch.tensor(getattr(description, name), dtype=torch.float32).view(1, channels, 1, 1)
            self.register_buffer(name, values, persistent=False)
        i = description.stages[0].width
        self.stem = Normed(channels, i, _STEM_SIDES[description.stride], description.stride)
        blocks = []
        for index, stage in enumerate(description.stages):
            for block in range(stage.blocks):
                blocks.append(Block(i, stage.width, 2 if index and not block else 1))
                i = stage.width
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(i, description.classes)

    def forward(self, x: Tensor) -> Tensor:
        normalised = ((x - self.mean) / self.std).to(self.head.weight.dtype)  # after the sums, which want float32
        x = functional.relu(self.stem(normalised))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits

    def folded(self, precision: torch.dtype = torch.float32) -> ResidualNetwork:
        """A copy, for inference only, with every batch normalisation folded into its convolution.

        Its weights and sums are of the given precision; the input stays float32 until it is normalised.
        """
        other = copy.deepcopy(self).eval()
        for module in list(other.modules()):
            if isinstance(module, Normed):
                module.fold()
        for layer in (other.stem, other.blocks, other.head):
            layer.to(precision)
        return other


def save(network: ResidualNetwork) -> bytes:
    """The network's weights and description as a safetensors file, float32; the same network, the same bytes."""
    return pack(network, {"name": "residual", **asdict(network.description)})


def load(path: Path) -> ResidualNetwork:
    """The network in a safetensors file, float32, in evaluation mode, on the CPU.

    Raises:
        BundleError: it is no such file, or its weights do not fit the network it names.
    """
    described, tensors = unpack(path)
    try:
        description = _description(described)
    except (BundleError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise BundleError(f"{path}: its architecture is not understood ({error})") from error
    return fill(lambda: ResidualNetwork(description), tensors, path)


def precision_named(name: str, path: Path) -> torch.dtype:
    """What torch computes in, "float32" or "bfloat16".

    Raises:
        BundleError: another one is named for the file `path`.
    """
    if name not in _PRECISIONS:
        raise BundleError(f"{path}: unknown precision {name!r}; torch has {', '.join(_PRECISIONS)}")
    return _PRECISIONS[name]


def pack(network: nn.Module, described: Mapping[str, Any]) -> bytes:
    """A safetensors file of a network's weights, float32, whose metadata holds the description."""
    tensors = {
        name: value.detach().to("cpu", torch.float32).contiguous()
        for name, value in network.state_dict().items()
        if value.is_floating_point()
    }
    return safetensors.torch.save(tensors, {_KEY: json.dumps(described, sort_keys=True)})


def unpack(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """What `pack` wrote: the description, any JSON value, and the weights.

    Raises:
        BundleError: it is no safetensors file, or one without a description.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            described = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (OSError, safetensors.SafetensorError) as error:
        raise BundleError(f"{path}: expected a safetensors file ({error})") from error
    if described is None:
        raise BundleError(f"{path}: names no architecture in its metadata, so nothing is known of its network")
    try:
        return json.loads(described), tensors
    except (RecursionError, ValueError) as error:
        raise BundleError(f"{path}: its architecture is not understood ({error})") from error


def fill(make: Callable[[], _Network], tensors: Mapping[str, Tensor], path: Path) -> _Network:
    """The network that `make` gives, with these weights, in evaluation mode, on the CPU.

    Raises:
        BundleError: the weights, read from `path`, do not fit it.
    """
    with torch.device("meta"):  # no memory for a network that its file only claims to hold
        _check_weights(make(), tensors, path)
    network = make()
    network.load_state_dict(tensors, strict=False)  # BatchNorm's counters, which inference does not use, keep their 0
    return network.eval()


def _description(values: Mapping[str, Any]) -> Residual:
    known = {"name", *(field.name for field in fields(Residual))}
    if values["name"] != "residual" or set(values) != known:
        raise BundleError(f"this version has the architecture residual, not {values['name']!r:.50}")
    return Residual(
        shape=tuple(map(operator.index, values["shape"])),  # type: ignore[arg-type]  # its length is checked there
        classes=operator.index(values["classes"]),
        mean=tuple(map(float, values["mean"])),
        std=tuple(map(float, values["std"])),
        stride=operator.index(values["stride"]),
        stages=tuple(Stage(operator.index(s["width"]), operator.index(s["blocks"])) for s in values["stages"]),
    )


def _check_weights(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Return if these are the network's weights, float32."""
    wanted = {name: value.shape for name, value in network.state_dict().items() if value.is_floating_point()}
    found = {name: value.shape for name, value in tensors.items()}
    if wanted != found or not all(value.dtype == torch.float32 for value in tensors.values()):
        wrong = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        raise BundleError(f"{path}: its weights do not fit its architecture: {', '.join(wrong[:3]) or 'not float32'}")
