"""In-tree autoencoders, image to image, and the safetensors files that hold their weights.

References:
    Meng and Chen 2017 (MagNet), sections 4 and 5: the designs I and II for MNIST, II for CIFAR-10.
    Trevillie/MagNet, issues 2 and 7: the design that its author advised for CIFAR-10 later, with batch normalisation.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor, nn

from certserve.backends.architectures import fill, pack, unpack
from certserve.errors import BundleError

__all__ = ["DESIGNS", "AutoencoderDesign", "AutoencoderNetwork", "load", "save"]

_LARGEST_SIDE = 4096
_LARGEST_WIDTH = 1024


@dataclass(frozen=True, slots=True)
class AutoencoderDesign:
    """A convolutional autoencoder, 3 x 3 kernels throughout, whose output lies in (0, 1).

    Attributes:
        shape: (channels, height, width) of input and output. name: one of `DESIGNS`.
        width: channels of the inner layers.

    Raises:
        BundleError: a value is out of its range.
    """

    shape: tuple[int, int, int]
    name: str
    width: int

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or not 1 <= min(self.shape) <= max(self.shape) <= _LARGEST_SIDE:
            raise BundleError(f"an autoencoder's shape must be (channels, height, width), not {self.shape!r:.100}")
        if self.name not in DESIGNS:
            raise BundleError(f"this version has the autoencoders {', '.join(DESIGNS)}, not {self.name!r:.50}")
        if not 1 <= self.width <= _LARGEST_WIDTH:
            raise BundleError(f"an autoencoder is 1 to {_LARGEST_WIDTH} channels wide, not {self.width}")
        if self.name == "I" and (self.shape[1] % 2 or self.shape[2] % 2):
            height, width = self.shape[1:]
            raise BundleError(f"autoencoder I halves height and width, which {height} x {width} pixels do not allow")


def _conv(i: int, o: int) -> nn.Conv2d:
    return nn.Conv2d(i, o, 3, padding=1)


def _pooled(channels: int, width: int) -> list[nn.Module]:
    return [
        *(_conv(channels, width), nn.Sigmoid(), nn.AvgPool2d(2)),
        *(_conv(width, width), nn.Sigmoid()),
        *(_conv(width, width), nn.Sigmoid(), nn.Upsample(scale_factor=2)),
        *(_conv(width, width), nn.Sigmoid()),
        *(_conv(width, channels), nn.Sigmoid()),
    ]


def _plain(channels: int, width: int) -> list[nn.Module]:
    return [
        *(_conv(channels, width), nn.Sigmoid()),
        *(_conv(width, width), nn.Sigmoid()),
        *(_conv(width, channels), nn.Sigmoid()),
    ]


def _normed(channels: int, width: int) -> list[nn.Module]:
    return [
        *(_conv(channels, width), nn.BatchNorm2d(width), nn.ReLU()),
        *(_conv(width, width), nn.ReLU(), nn.BatchNorm2d(width)),
        *(_conv(width, channels), nn.Sigmoid()),
    ]


DESIGNS: dict[str, Callable[[int, int], list[nn.Module]]] = {"I": _pooled, "II": _plain, "III": _normed}
"""I: with a pooled middle; II: without; III: with batch normalisation."""


class AutoencoderNetwork(nn.Module):
    """What `AutoencoderDesign` describes: pixels (rows, channels, h, w) to images of the same shape.

    New weights are Glorot's uniform ones and biases 0, as in the reference implementation.
    """

    def __init__(self, description: AutoencoderDesign) -> None:
        super().__init__()
        self.description = description
        self.layers = nn.Sequential(*DESIGNS[description.name](description.shape[0], description.width))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        images: Tensor = self.layers(x)
        return images


def save(network: AutoencoderNetwork) -> bytes:
    """The weights and the description as a safetensors file, float32; the same network, the same bytes."""
    design = asdict(network.description)
    return pack(network, {"name": "autoencoder", "design": design.pop("name"), **design})


def load(path: Path) -> AutoencoderNetwork:
    """The autoencoder in a safetensors file, float32, in evaluation mode, on the CPU.

    Raises:
        BundleError: it is no such file, or its weights do not fit the autoencoder it names.
    """
    described, tensors = unpack(path)
    try:
        if described["name"] != "autoencoder" or set(described) != {"name", "design", "shape", "width"}:
            raise BundleError(f"expected an autoencoder, not {described['name']!r:.50}")
        design = AutoencoderDesign(
            tuple(map(operator.index, described["shape"])),  # type: ignore[arg-type]  # its length is checked there
            str(described["design"]),
            operator.index(described["width"]),
        )
    except (BundleError, LookupError, TypeError, ValueError) as error:
        raise BundleError(f"{path}: its architecture is not understood ({error})") from error
    return fill(lambda: AutoencoderNetwork(design), tensors, path)
