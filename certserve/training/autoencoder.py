"""Train an autoencoder to take Gaussian noise away: images and a recipe in, a network out.

It differs from the reference implementation of MagNet in three ways: noise is drawn afresh in every epoch, the weights
are those of the best epoch, and the regulariser of its activations, of weight 1e-9, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from certserve.backends.autoencoders import AutoencoderDesign, AutoencoderNetwork
from certserve.datasets import Dataset
from certserve.training.examples import digest
from certserve.training.log import Fitted
from certserve.training.recipe import AutoencoderRecipe, RecipeError
from certserve.training.run import OnProgress, finish, reproducible

__all__ = ["train", "validation_loss"]

_ROWS_AT_ONCE = 512


def train(
    data: Dataset,
    validation: Dataset,
    design: AutoencoderDesign,
    recipe: AutoencoderRecipe,
    folder: Path,
    *,
    on_progress: OnProgress | None = None,
) -> AutoencoderNetwork:
    """The trained autoencoder, in evaluation mode on the CPU: the weights of the epoch of least validation loss.

    Args:
        validation: images that no step sees, which choose the epoch.
        folder: of the run, made if need be. It gets log.tsv, and a checkpoint every minute; a run found there
            is gone on with.
        on_progress: told after every step.

    Raises:
        RecipeError: the run in the folder is of another recipe, design or data, or its checkpoint is damaged;
            or the loss is no longer finite.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    identity = {
        **{f"recipe's {name}": repr(value) for name, value in asdict(recipe).items()},
        "autoencoder": repr(design),
        "training images": digest(data),
        "validation images": digest(validation),
        "device": device.type,
    }
    with reproducible(recipe.threads):
        images, held_out = (torch.from_numpy(part.images).to(device) for part in (data, validation))
        run = _Run(design, recipe, images, held_out)
        finish(run, recipe, images, folder, identity=identity, rows=Fitted, on_progress=on_progress)
        run.network.load_state_dict(run.best)
        return run.network.cpu().eval()


class _Run:
    """The state of a run, and its steps."""

    def __init__(
        self, design: AutoencoderDesign, recipe: AutoencoderRecipe, images: Tensor, validation: Tensor
    ) -> None:
        self._recipe, self._images, self._validation = recipe, images, validation
        self._name = design.name
        torch.manual_seed(recipe.seed_of("weights", design.name))
        self.network = AutoencoderNetwork(design).to(images.device)
        self.optimiser = torch.optim.Adam(self.network.parameters())
        self.steps = recipe.epochs * recipe.steps_per_epoch(len(images))
        self.step, self.total, self.seconds = 0, 0.0, 0.0
        self.epochs: list[Fitted] = []
        self.best = _copy(self.network)

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to a state given by `state`."""
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.best = saved["best"]
        self.step, self.total, self.seconds = saved["step"], saved["total"], saved["seconds"]
        self.epochs = [Fitted(**epoch) for epoch in saved["epochs"]]

    def state(self) -> dict[str, Any]:
        """All of it, as plain values and tensors."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            "step": self.step,
            "total": self.total,
            "seconds": self.seconds,
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }

    def take_step(self, chosen: Tensor) -> float:
        """One step on the chosen images; its mean squared error."""
        for group in self.optimiser.param_groups:
            group["lr"] = self._recipe.rate(self.step, self.steps)
        clean = self._images[chosen].float().div_(255)
        random = torch.Generator(clean.device).manual_seed(self._recipe.seed_of("noise", self._name, self.step))
        noise = torch.randn(clean.shape, generator=random, device=clean.device)
        self.network.train()
        loss = functional.mse_loss(self.network(clean.add(noise, alpha=self._recipe.noise).clamp_(0, 1)), clean)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.step += 1
        value = loss.item()
        if not math.isfinite(value):
            raise RecipeError(f"the loss of step {self.step} is {value}; a lower learning rate may help")
        self.total += value
        return value

    def end_epoch(self, epoch: int) -> None:
        """Measure the weights, keep the best ones, and add the epoch to the log."""
        loss = validation_loss(self.network, self._validation)
        if not self.epochs or loss < min(earlier.validation_loss for earlier in self.epochs):
            self.best = _copy(self.network)
        mean = self.total / self._recipe.steps_per_epoch(len(self._images))
        self.epochs.append(Fitted(epoch, mean, loss, self._recipe.rate(self.step - 1, self.steps), self.seconds))
        self.total = 0.0


@torch.no_grad()
def validation_loss(network: AutoencoderNetwork, images: Tensor) -> float:
    """The mean squared error of the reconstruction of uint8 images (count, c, h, w), without noise."""
    network.eval()
    total = 0.0
    for start in range(0, len(images), _ROWS_AT_ONCE):
        clean = images[start : start + _ROWS_AT_ONCE].float().div_(255)
        total += functional.mse_loss(network(clean), clean, reduction="sum").item()
    return total / images.numel()


def _copy(network: AutoencoderNetwork) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
