"""Train a base classifier for Gaussian smoothing: images and a recipe in, a network out.

Every random choice of step i is a function of the seed and i, and the whole state is in the checkpoint, so a run that
was killed and gone on with ends in the same weights, on the same machine, as one that was not.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certserve.backends.architectures import Residual, ResidualNetwork, save
from certserve.datasets import Dataset
from certserve.training.adversary import attacked
from certserve.training.examples import Attack, Examples, digest, noisy_batch
from certserve.training.log import Epoch
from certserve.training.loss import consistency_loss
from certserve.training.recipe import Recipe, RecipeError
from certserve.training.run import OnProgress, finish, reproducible

__all__ = ["layout", "noisy_accuracy", "train"]

_ROWS_AT_ONCE = 512
_SHORT_MEMORY = 10  # steps; the average soon forgets the random start
_FEWEST_CHANNELS = 16


def train(
    data: Dataset,
    held_out: Dataset,
    architecture: Residual,
    recipe: Recipe,
    folder: Path,
    *,
    start: ResidualNetwork | None = None,
    device: torch.device | None = None,
    on_progress: OnProgress | None = None,
) -> ResidualNetwork:
    """The trained network: the moving average of the weights after the last step, on the CPU.

    Args:
        folder: of the run, made if need be. It gets log.tsv, and a checkpoint every minute; a run found there
            is gone on with.
        start: weights to begin with, instead of random ones.
        device: default: the first CUDA device, or else the CPU.
        on_progress: told after every step.

    Raises:
        RecipeError: the run in the folder is of another recipe, network or data, or its checkpoint is damaged;
            or the loss is no longer finite.
    """
    place = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    with reproducible(recipe.threads):
        identity = _identity(data, held_out, architecture, recipe, start) | {"device": place.type}
        examples = Examples.of(data, place)
        run = _Run(architecture, recipe, start, place, examples, Examples.of(held_out, place))
        finish(run, recipe, examples.images, folder, identity=identity, rows=Epoch, on_progress=on_progress)
        return run.average.to(device="cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[no-any-return]


class _Run:
    """The state of a run, and its steps."""

    def __init__(
        self,
        architecture: Residual,
        recipe: Recipe,
        start: ResidualNetwork | None,
        device: torch.device,
        data: Examples,
        held_out: Examples,
    ) -> None:
        self._recipe, self._device, self._data, self._held_out = recipe, device, data, held_out
        torch.manual_seed(recipe.seed_of("weights"))
        network = copy.deepcopy(start) if start is not None else ResidualNetwork(architecture)
        self._layout = layout(architecture, device)
        self.network: ResidualNetwork = network.to(device=device, memory_format=self._layout)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network)
        self.optimiser = _optimiser(self.network, recipe)
        self.steps = recipe.steps(len(data))
        self.step, self.total, self.seconds = 0, 0.0, 0.0
        self.epochs: list[Epoch] = []

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to a state given by `state`."""
        self.network.load_state_dict(saved["network"])
        self.average.load_state_dict(saved["average"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step, self.total, self.seconds = saved["step"], saved["total"], saved["seconds"]
        self.epochs = [Epoch(**epoch) for epoch in saved["epochs"]]

    def state(self) -> dict[str, Any]:
        """All of it, as plain values and tensors."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "total": self.total,
            "seconds": self.seconds,
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }

    def take_step(self, chosen: Tensor) -> float:
        """One step on the chosen images; its loss, in nats."""
        recipe = self._recipe
        rate = recipe.rate(self.step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        noisy = noisy_batch(self._data.images[chosen], recipe, self.step, self._attack(chosen))
        with torch.autocast(self._device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            logits = self.network(noisy.contiguous(memory_format=self._layout))
        per_copy = logits.float().view(recipe.copies, len(chosen), -1)
        regularisation = recipe.regularisation(self.step, self.steps)
        loss = consistency_loss(per_copy, self._data.labels[chosen], *regularisation)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.step += 1
        _follow(self.average, self.network, min(recipe.ema_decay, self.step / (self.step + _SHORT_MEMORY)))
        value = loss.item()
        if not math.isfinite(value):
            raise RecipeError(f"the loss of step {self.step} is {value}; a lower learning rate may help")
        self.total += value
        return value

    def _attack(self, chosen: Tensor) -> Attack | None:
        """The recipe's adversary, on copies of the chosen images."""
        adversary = self._recipe.adversary
        if adversary is None:
            return None
        labels = self._data.labels[chosen].repeat(self._recipe.copies)
        return lambda images, noise, random: attacked(self.network, images, noise, labels, adversary, random)

    def end_epoch(self, epoch: int) -> None:
        """Measure the averaged weights, and add the epoch to the log."""
        accuracy = noisy_accuracy(self.average, self._held_out, self._recipe)
        mean = self.total / self._recipe.steps_per_epoch(len(self._data))
        rate = self._recipe.rate(self.step - 1, self.steps)
        self.epochs.append(Epoch(epoch, mean, accuracy, rate, self.seconds))
        self.total = 0.0


def layout(architecture: Residual, device: torch.device) -> torch.memory_format:
    """How images and weights lie in memory in training: channels last, which is faster, where that is safe.

    On a processor, the gradient of a shortcut out of fewer than 16 channels (8 with AVX2) would write past its buffer
    (oneDNN issue 6035, in PyTorch 2.13).
    """
    narrow = device.type == "cpu" and any(stage.width < _FEWEST_CHANNELS for stage in architecture.stages[:-1])
    return torch.contiguous_format if narrow else torch.channels_last


@torch.no_grad()
def noisy_accuracy(network: ResidualNetwork, examples: Examples, recipe: Recipe) -> float:
    """The share of right answers of the base classifier, one noisy copy an image; the same noise on each call."""
    random = torch.Generator(examples.images.device).manual_seed(recipe.seed_of("held out"))
    right = 0
    network.eval()
    for start in range(0, len(examples), _ROWS_AT_ONCE):
        clean = examples.images[start : start + _ROWS_AT_ONCE].float().div_(255)
        noise = torch.randn(clean.shape, generator=random, device=clean.device)
        noisy = clean.add_(noise, alpha=recipe.sigma).contiguous(memory_format=torch.channels_last)
        with torch.autocast(clean.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            right += int((network(noisy).argmax(1) == examples.labels[start : start + _ROWS_AT_ONCE]).sum())
    return right / len(examples)


def _optimiser(network: ResidualNetwork, recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov's momentum; weight decay on the weights of layers only, not on norms and biases."""
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0)


@torch.no_grad()
def _follow(average: ResidualNetwork, network: ResidualNetwork, decay: float) -> None:
    """Move the averaged weights and batch-norm statistics towards the current ones."""
    state = network.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(state[name], 1 - decay)


def _identity(
    data: Dataset, held_out: Dataset, architecture: Residual, recipe: Recipe, start: ResidualNetwork | None
) -> dict[str, str]:
    """What a run is of; on the same kind of machine, two runs of one identity give the same weights."""
    return {
        **{f"recipe's {name}": repr(value) for name, value in asdict(recipe).items()},
        "network": repr(architecture),
        "training images": digest(data),
        "held-out images": digest(held_out),
        "first weights": "" if start is None else hashlib.sha256(save(start)).hexdigest(),
    }
