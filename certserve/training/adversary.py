"""Images and the noise they will get -> where an adversary takes them under that noise, for a step of training.

With noise this is SmoothAdv's attack with one draw an image (Salman et al. 2019, section 3); without, the attack of
Madry et al. 2018. A defender who moves images before the adversary does is trained for by letting it move them first
(Moon, An and Song 2022, section 4): towards their true labels, as in the paper; its released code leaves that out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from certserve.attacks.goals import Goal
from certserve.attacks.pgd import PGD, Start, pgd
from certserve.training.recipe import Adversary

__all__ = ["attacked"]

_STEP = 0.25  # of the attack, in units of epsilon


def attacked(
    network: nn.Module,
    images: Tensor,
    noise: Tensor,
    labels: Tensor,
    adversary: Adversary,
    generator: torch.Generator,
) -> Tensor:
    """The images, float32 in [0, 1], of which the network, as when it answers, errs on images + noise.

    Args:
        network: left in training mode. images: float32, (rows, *input), in [0, 1]. noise: of their shape.
        labels: int64, (rows,), the true ones. generator: on the images' device.
    """
    network.eval()

    def under_noise(rows: Tensor) -> Tensor:
        found: Tensor = network((rows + noise).contiguous(memory_format=torch.channels_last)).float()
        return found

    def move(from_: Tensor, radius: float, steps: int, step: float, goal: Goal, start: Start) -> Tensor:
        how = PGD(norm=adversary.norm, steps=steps, step=step, sigma=0.0, draws=1, goal=goal, start=start)
        limits = torch.full((len(images),), radius, dtype=torch.float64, device=images.device)
        found = pgd(under_noise, from_, labels, epsilon=limits, how=how, generator=generator)
        return found.to(images.dtype).clamp(0.0, 1.0)

    at = images
    if adversary.delta:
        at = move(at, adversary.delta, 1, 1.0, Goal.REACH, Start.IMAGE)
    at = move(at, adversary.epsilon, adversary.steps, _STEP, Goal.LEAVE, Start.RANDOM)
    network.train()
    return at
