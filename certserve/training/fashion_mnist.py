"""Train the zoo's Fashion-MNIST base classifier for Gaussian smoothing, and make the packaged bundle of it.

Trains on the first 55,000 training images with the noise of Cohen, Rosenfeld and Kolter (2019) on pixels in [0, 1]
and the loss of Jeong and Shin (2020), and chooses among the epochs on the last 5,000; the test images take no part
in any choice. Normalisation comes after the noise, inside the network, so that a radius is one in pixels.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from certserve import bundle
from certserve.backends.onnx import instruction_set

__all__ = ["CLASSES", "Network", "Recipe", "Split", "consistency_loss", "export", "load", "main", "train"]

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_HELD_OUT = 5_000
_SAMPLES = 12
_OPSET = 17
_IR_VERSION = 8  # the oldest that carries opset 17, so that older runtimes read the file too
_TOLERANCE = 1e-3  # of the exported file's logits against PyTorch's


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result. Pixels and noise are on the scale [0, 1]; `shift` is in pixels."""

    epochs: int = 12
    seed: int = 0
    sigma: float = 0.25
    copies: int = 2
    consistency: float = 5.0
    entropy: float = 0.5
    batch: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warm_up_steps: int = 300
    ema_decay: float = 0.998
    shift: int = 2
    flip: bool = True
    widths: tuple[int, int, int] = (32, 64, 128)
    mean: float = 0.2860
    std: float = 0.3530
    threads: int = 1


@dataclass(frozen=True)
class Split:
    """Images uint8 [count, 28, 28] and labels int64 [count]."""

    images: Tensor
    labels: Tensor


def _read_idx(path: Path, header: int) -> npt.NDArray[np.uint8]:
    with gzip.open(path, "rb") as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def load(folder: Path, name: str) -> Split:
    """Read the images and labels called `name` ("train" or "t10k"): IDX, headers of 16 and 8 bytes."""
    images = _read_idx(folder / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = _read_idx(folder / f"{name}-labels-idx1-ubyte.gz", 8)
    if len(images) != len(labels):
        raise ValueError(f"{name}: {len(images)} images but {len(labels)} labels")
    return Split(torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64)))


class _Block(nn.Module):
    """The basic residual block of He et al. (2016): [b, i, h, w] -> [b, o, h/stride, w/stride]."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(o)
        self.second = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(o)
        self.shortcut: nn.Conv2d | None = None
        self.shortcut_norm: nn.BatchNorm2d | None = None
        if stride != 1 or i != o:
            self.shortcut = nn.Conv2d(i, o, 1, stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(o)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.first_norm(self.first(x)))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return functional.relu(self.second_norm(self.second(inner)) + x)


class Network(nn.Module):
    """A residual network of seven layers: pixels in [0, 1] plus noise [b, 1, 28, 28] -> logits [b, 10].

    The stem halves the maps at once: a draw costs 10 million multiply-adds, and a certificate is many draws.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        a, b, c = recipe.widths
        self.mean, self.std = recipe.mean, recipe.std
        self.stem = nn.Conv2d(1, a, 5, 2, 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(a)
        self.blocks = nn.ModuleList([_Block(a, a, 1), _Block(a, b, 2), _Block(b, c, 2)])
        self.head = nn.Linear(c, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem_norm(self.stem((x - self.mean) / self.std)))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def consistency_loss(logits: Tensor, labels: Tensor, weight: float, entropy: float) -> Tensor:
    """Return the loss of Jeong and Shin (2020) of noisy copies: logits [copies, b, 10], labels [b]; in nats.

    Mean cross-entropy + weight * mean_i KL(Fbar || F_i) + entropy * H(Fbar), where F_i is the softmax of copy
    i and Fbar their mean. The entropy is not multiplied by `weight`.
    """
    log_each = functional.log_softmax(logits, 2)
    mean = log_each.exp().mean(0)
    log_mean = mean.clamp_min(1e-20).log()
    negative_entropy = (mean * log_mean).sum(1)
    divergence = negative_entropy - (mean * log_each).sum(2).mean(0)
    truth = labels.expand(len(logits), -1).reshape(-1)
    cross_entropy = functional.nll_loss(log_each.flatten(0, 1), truth)
    return cross_entropy + weight * divergence.mean() - entropy * negative_entropy.mean()


def _augment(images: Tensor, recipe: Recipe, random: torch.Generator) -> Tensor:
    """Shift and mirror uint8 [b, 28, 28] at random; return float32 [b, 1, 28, 28] in [0, 1]."""
    count, side, shift = len(images), images.shape[1], recipe.shift
    padded = functional.pad(images, (shift, shift, shift, shift))
    line = torch.arange(side)
    corner = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=random)
    rows, columns = corner[0] + line, corner[1] + line
    if recipe.flip:
        mirrored = torch.rand((count, 1), generator=random) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    cut = padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cut.float().div_(255).unsqueeze(1)


def _noisy_batches(split: Split, recipe: Recipe, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch: noisy copies float32 [copies * b, 1, 28, 28], copy by copy, and labels [b]."""
    order = torch.randperm(len(split.labels), generator=random)
    for chosen in torch.split(order, recipe.batch):
        if len(chosen) == recipe.batch:  # a small last batch would give the batch norms a poor estimate
            clean = _augment(split.images[chosen], recipe, random).repeat(recipe.copies, 1, 1, 1)
            yield clean + recipe.sigma * torch.randn(clean.shape, generator=random), split.labels[chosen]


def _rate(step: int, steps: int, recipe: Recipe) -> float:
    """Return the learning rate: linear warm-up, then half a cosine to 0 (Loshchilov and Hutter, 2017)."""
    if step < recipe.warm_up_steps:
        return recipe.learning_rate * (step + 1) / recipe.warm_up_steps
    done = (step - recipe.warm_up_steps) / max(1, steps - recipe.warm_up_steps)
    return 0.5 * recipe.learning_rate * (1 + math.cos(math.pi * done))


@torch.no_grad()
def _follow(average: Network, network: Network, decay: float) -> None:
    """Move the averaged weights and batch-norm statistics towards the current ones."""
    state = network.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(state[name], 1 - decay)


@torch.no_grad()
def _accuracy(network: Network, split: Split, sigma: float, draws: int = 1) -> float:
    """Return the share of right answers, `draws` noisy copies an image; the same noise on each call."""
    random = torch.Generator().manual_seed(1)
    right = 0
    network.eval()
    for images, labels in zip(torch.split(split.images, 500), torch.split(split.labels, 500), strict=True):
        clean = images.float().div(255).unsqueeze(1)
        for _ in range(draws):
            noisy = clean + sigma * torch.randn(clean.shape, generator=random) if sigma else clean
            right += int((network(noisy).argmax(1) == labels).sum())
    return right / (draws * len(split.labels))


def _optimiser(network: Network, recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov's momentum; weight decay on the weights of layers only, not on norms and biases."""
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=True)


def _step(network: Network, optimiser: torch.optim.SGD, batch: tuple[Tensor, Tensor], how: Recipe) -> float:
    """Take one step on noisy [copies * b, 1, 28, 28] and labels [b]; return its loss in nats."""
    noisy, labels = batch
    with torch.autocast("cpu", torch.bfloat16):  # faster where the processor multiplies bfloat16
        logits = network(noisy.contiguous(memory_format=torch.channels_last))
    per_copy = logits.float().view(how.copies, len(labels), -1)
    loss = consistency_loss(per_copy, labels, how.consistency, how.entropy)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return loss.item()


def train(data: Split, held_out: Split, recipe: Recipe) -> tuple[Network, int]:
    """Return the averaged network of the epoch best on noisy held-out images, and that epoch, from 1."""
    torch.manual_seed(recipe.seed)
    random = torch.Generator().manual_seed(recipe.seed)
    network = Network(recipe).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average, best = copy.deepcopy(network), copy.deepcopy(network)
    optimiser = _optimiser(network, recipe)
    per_epoch = len(data.labels) // recipe.batch
    steps, step, best_accuracy, best_epoch, start = per_epoch * recipe.epochs, 0, -1.0, 0, time.monotonic()
    for epoch in range(1, recipe.epochs + 1):
        network.train()
        total = 0.0
        for batch in _noisy_batches(data, recipe, random):
            for group in optimiser.param_groups:
                group["lr"] = _rate(step, steps, recipe)
            total += _step(network, optimiser, batch, recipe)
            step += 1
            # A short memory at first, so that the random start is soon forgotten.
            _follow(average, network, min(recipe.ema_decay, step / (step + 10)))
        accuracy = _accuracy(average, held_out, recipe.sigma)
        if accuracy >= best_accuracy:
            best_accuracy, best_epoch = accuracy, epoch
            best.load_state_dict(average.state_dict())
        left = (time.monotonic() - start) / step * (steps - step)
        progress = f"epoch {epoch}/{recipe.epochs}: loss {total / per_epoch:.4f}"
        print(f"{progress}, held-out noisy accuracy {accuracy:.4f}, {left:.0f} s left", flush=True)
    return best.to(memory_format=torch.contiguous_format).eval(), best_epoch


class _Graph:
    """Collects the nodes and constants of an ONNX graph."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def convolve(self, x: str, layer: nn.Conv2d, norm: nn.BatchNorm2d, name: str) -> str:
        """Add a convolution with its batch norm folded in (exact in inference: both are affine)."""
        state = norm.state_dict()
        scale = state["weight"] / torch.sqrt(state["running_var"] + norm.eps)
        weight = (layer.weight.detach() * scale[:, None, None, None]).contiguous().numpy()
        bias = (state["bias"] - state["running_mean"] * scale).numpy()
        parameters = [self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        pad, stride, side = int(layer.padding[0]), layer.stride[0], layer.kernel_size[0]
        shape = {"kernel_shape": [side, side], "pads": [pad] * 4, "strides": [stride, stride]}
        return self.node("Conv", [x, *parameters], name, **shape)

    def block(self, x: str, block: _Block, name: str) -> str:
        inner = self.convolve(x, block.first, block.first_norm, f"{name}.first")
        inner = self.node("Relu", [inner], f"{name}.inner")
        inner = self.convolve(inner, block.second, block.second_norm, f"{name}.second")
        if block.shortcut is not None and block.shortcut_norm is not None:
            x = self.convolve(x, block.shortcut, block.shortcut_norm, f"{name}.shortcut")
        return self.node("Relu", [self.node("Add", [inner, x], f"{name}.sum")], f"{name}.out")


def export(network: Network, path: Path) -> None:
    """Write the network as ONNX: `input` float32 [batch, 1, 28, 28] -> `logits` float32 [batch, 10].

    The graph is put together by hand, so that the file holds nothing but the network.
    """
    graph = _Graph()
    mean = graph.constant("mean", np.array(network.mean, np.float32))
    std = graph.constant("std", np.array(network.std, np.float32))
    x = graph.node("Div", [graph.node("Sub", ["input", mean], "centred"), std], "normalised")
    x = graph.node("Relu", [graph.convolve(x, network.stem, network.stem_norm, "stem")], "stem.out")
    for index, block in enumerate(network.blocks):
        assert isinstance(block, _Block)
        x = graph.block(x, block, f"block{index}")
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [x], "pooled")], "features")
    weight = graph.constant("head.weight", network.head.weight.detach().numpy())
    bias = graph.constant("head.bias", network.head.bias.detach().numpy())
    graph.node("Gemm", [x, weight, bias], "logits", transB=1)
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 28, 28])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(CLASSES)])]
    body = helper.make_graph(graph.nodes, "fashion_mnist", inputs, outputs, graph.constants)
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(body, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="certserve")
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


@torch.no_grad()
def _check(network: Network, path: Path, recipe: Recipe, images: Tensor) -> float:
    """Return how far the file's logits are from PyTorch's at most, on noisy images; raise if too far."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    noisy = (images.float() / 255 + recipe.sigma * noise).unsqueeze(1)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": noisy.numpy()})
    difference = float(np.abs(logits - network(noisy).numpy()).max())
    if not difference < _TOLERANCE:
        raise RuntimeError(f"the exported file's logits differ from PyTorch's by {difference:.2g}")
    return difference


def _write_samples(split: Split, folder: Path) -> None:
    """Write the first images of the test set as 8-bit grey PNG: a fixed rule, so nobody picked them."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(_SAMPLES):
        name = CLASSES[int(split.labels[index])].lower().replace("/", "_").replace(" ", "_")
        Image.fromarray(split.images[index].numpy()).save(folder / f"{index:02d}_{name}.png", optimize=True)


def _write_bundle(out: Path, record: Mapping[str, Any], recipe: Recipe) -> None:
    """Make the bundle that is served, with what it came from."""
    bundle.create(
        out / "model.onnx",
        out / "fashion-mnist",
        name="fashion-mnist",
        labels=CLASSES,
        sigmas=[recipe.sigma],
        description=f"Fashion-MNIST (28x28 grey), trained with Gaussian noise at sigma {recipe.sigma:g}",
        provenance={key: value if isinstance(value, str) else json.dumps(value) for key, value in record.items()},
    )


def _arguments() -> tuple[Path, Path, Recipe]:
    parser = argparse.ArgumentParser(description="Train the zoo's Fashion-MNIST base classifier.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the four IDX files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--consistency", type=float, default=Recipe.consistency, help="lambda of the loss")
    parser.add_argument("--entropy", type=float, default=Recipe.entropy, help="eta of the loss")
    parser.add_argument("--threads", type=int, default=Recipe.threads, help="as the seed, decides the sums")
    given = vars(parser.parse_args())
    return given.pop("data"), given.pop("out"), Recipe(**given)


def main() -> None:
    """Train, export, check and describe."""
    data, out, recipe = _arguments()
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    full, test = load(data, "train"), load(data, "t10k")
    used = Split(full.images[:-_HELD_OUT], full.labels[:-_HELD_OUT])
    held_out = Split(full.images[-_HELD_OUT:], full.labels[-_HELD_OUT:])
    start = time.monotonic()
    network, epoch = train(used, held_out, recipe)
    seconds = time.monotonic() - start
    out.mkdir(parents=True, exist_ok=True)
    export(network, out / "model.onnx")
    difference = _check(network, out / "model.onnx", recipe, held_out.images[:256])
    print(f"largest difference of the exported logits: {difference:.2g}")
    _write_samples(test, out / "samples")
    record = {
        "recipe": asdict(recipe),
        "epoch_chosen": epoch,
        "parameters": sum(p.numel() for p in network.parameters()),
        "training_images": len(used.labels),
        "held_out_images": _HELD_OUT,
        "held_out_accuracy_clean": _accuracy(network, held_out, 0.0),
        "held_out_accuracy_noisy": _accuracy(network, held_out, recipe.sigma, draws=4),
        "export_logit_difference": difference,
        "wall_seconds": round(seconds),
        "torch": torch.__version__,
        "processor": instruction_set(),
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    _write_bundle(out, record, recipe)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
