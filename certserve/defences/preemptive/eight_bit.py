"""8-bit images -> 8-bit images within delta of them, exactly, that an adversary should find harder to move.

The 8-bit image is the product: what is searched in real numbers is put on the lattice of 256 levels inside the ball,
searched on from there, and judged there, on draws of its own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from certserve.attacks.lattice import on_lattice
from certserve.attacks.losses import Classifier, smoothed_cross_entropy
from certserve.attacks.pgd import PGD, Start, pgd
from certserve.attacks.steps import moved, scaled, steepest
from certserve.defences.preemptive.ball import Found, draw
from certserve.defences.preemptive.bilevel import bilevel
from certserve.defences.preemptive.fast import fast
from certserve.defences.preemptive.jpeg import Uploads, arriving
from certserve.defences.preemptive.margin import ascent, cert_margin, margin_of
from certserve.defences.preemptive.methods import Bilevel, Budget, CertMargin, Fast, How
from certserve.noise.grid import LEVELS

__all__ = ["Moved", "robustify", "seeded"]

Images = npt.NDArray[np.uint8]

_REFINEMENT = 0.05  # a step's length in units of delta
_JUDGING, _CHUNK = 256, 64  # draws of noise, and how many rows go through the network at a time
_ENOUGH = math.log(2)  # nats; above it, the label may have less than half


class Moved(NamedTuple):
    """What became of each image.

    Attributes:
        images: uint8, (batch, *input): within delta of the originals as real numbers, pixel k standing for k / 255.
        successes: (batch,), bool: whether the search judges that the label survives an adversary of epsilon. With
            noise: sigma * Phi^-1 of the label's share of the judge's votes is at least epsilon. Without: an attack
            attains a loss of ln 2 at most. An estimate, no promise.
        passes: (batch,), int64: rows that went through the network forward and back for each image.
        searched: (batch, *input), float64, in [0, 1]: where the search in real numbers had led, before it was put on
            the lattice; within delta up to rounding.
    """

    images: Images
    successes: npt.NDArray[np.bool_]
    passes: npt.NDArray[np.int64]
    searched: npt.NDArray[np.float64]


def seeded(seed: int) -> torch.Generator:
    """A generator for `robustify`, in the state that a seed below 2^63 gives."""
    return torch.Generator().manual_seed(seed)


def robustify(
    classifier: Classifier,
    images: Images,
    labels: npt.NDArray[np.int64],
    *,
    budget: Budget,
    sigma: float,
    how: How,
    generator: torch.Generator,
    colour: str = "rgb",
) -> Moved:
    """Move each image to where its label is safer, and say whether it is thought safe there.

    With noise an image stays as it is where no candidate has a larger estimated margin. Equal arguments, with the
    generator in an equal state, on one machine with as many threads, give equal images; an image's result depends on
    the others in the batch.

    Args:
        classifier: on the CPU; gets rows of float32.
        images: (batch, *input). labels: (batch,), what the classifier answers, smoothed if sigma is positive.
        sigma: noise level in input units; 0 for the classifier itself.
        colour: "grey", "rgb" or "bgr": what the channels are, where JPEG files are made of them.

    Raises:
        ValueError: delta larger than the images' range, labels that the classifier does not have, arguments that do
            not fit each other, or `CertMargin` without noise.
    """
    budget.check(math.prod(images.shape[1:]))
    pixels, targets = _tensor(images), torch.as_tensor(labels, dtype=torch.int64)
    _check_labels(classifier, pixels, targets)
    uploads = Uploads(how.jpeg, colour) if isinstance(how, CertMargin) and how.jpeg else None
    found = _search(classifier, pixels, targets, budget, sigma, how, generator, uploads)
    moved_images = _rounded(images, found.images, budget)
    if isinstance(how, CertMargin):
        more = _refined(classifier, images, targets, found, budget, sigma, how, generator, uploads)
        passes = found.passes + torch.where(found.stopped, 0, how.refinements * how.draws)
        candidates = [images, moved_images, more]
    else:
        passes, candidates = found.passes, [images, moved_images]
    if sigma:
        best, successes = _judged(classifier, candidates, targets, budget, sigma, generator, uploads)
        return Moved(best, successes, passes.numpy(), found.images.numpy())
    assert not isinstance(how, CertMargin)  # it refuses to search without noise
    steps = how.attack_steps if isinstance(how, Fast) else how.inner_steps
    successes = _attacked(classifier, moved_images, targets, budget, steps, generator)
    return Moved(moved_images, successes, passes.numpy() + steps, found.images.numpy())


def _search(
    classifier: Classifier,
    pixels: Tensor,
    labels: Tensor,
    budget: Budget,
    sigma: float,
    how: How,
    generator: torch.Generator,
    uploads: Uploads | None,
) -> Found:
    arguments: dict[str, Any] = {"budget": budget, "sigma": sigma, "generator": generator}
    match how:
        case CertMargin():
            return cert_margin(classifier, pixels, labels, how=how, uploads=uploads, **arguments)
        case Bilevel():
            return bilevel(classifier, pixels, labels, how=how, **arguments)
        case Fast():
            return fast(classifier, pixels, labels, how=how, **arguments)


def _refined(
    classifier: Classifier,
    images: Images,
    labels: Tensor,
    found: Found,
    budget: Budget,
    sigma: float,
    how: CertMargin,
    generator: torch.Generator,
    uploads: Uploads | None,
) -> Images:
    """The lattice images after further steps, each taken from the gradient at the lattice image itself."""
    exact, points = _tensor(images).to(torch.float64), found.images
    limit = torch.full_like(exact.flatten(1)[:, 0], budget.delta)
    rows = (~found.stopped).nonzero().squeeze(1)
    if not len(rows):
        return _rounded(images, points, budget)
    for _ in range(how.refinements):
        at = _tensor(_rounded(images, points, budget))
        noise = arriving(draw(at, how.draws, sigma, generator)[:, rows], at[rows], uploads, generator)
        _, gradient = ascent(classifier, at[rows], labels[rows], noise)
        change = scaled(steepest(gradient.to(torch.float64), budget.norm), _REFINEMENT * limit[rows])
        points = points.index_copy(0, rows, moved(exact[rows], points[rows], change, budget.norm, limit[rows]))
    return _rounded(images, points, budget)


def _judged(
    classifier: Classifier,
    candidates: list[Images],
    labels: Tensor,
    budget: Budget,
    sigma: float,
    generator: torch.Generator,
    uploads: Uploads | None,
) -> tuple[Images, npt.NDArray[np.bool_]]:
    """Of each image the candidate of the largest margin, all on the same draws, and whether its votes are enough."""
    noise = draw(_tensor(candidates[0]), _JUDGING, sigma, generator)
    logits = [
        _logits(classifier, pixels, arriving(noise, pixels, uploads, generator)) for pixels in map(_tensor, candidates)
    ]
    best = torch.stack([margin_of(each, labels) for each in logits]).argmax(0)
    votes = torch.stack([(each.argmax(2) == labels).sum(0) for each in logits]).gather(0, best[None])[0]
    share = (votes.to(torch.float64) + 0.5) / (_JUDGING + 1)
    chosen = np.stack(candidates)[best.numpy(), np.arange(len(labels))]
    return chosen, (sigma * torch.special.ndtri(share) >= budget.epsilon).numpy()


def _logits(classifier: Classifier, pixels: Tensor, noise: Tensor) -> Tensor:
    """Of the noisy copies, (draws, batch, classes), a few rows at a time."""
    rows = (pixels + noise).flatten(0, 1)
    with torch.no_grad():
        each = torch.cat([classifier(rows[first : first + _CHUNK]) for first in range(0, len(rows), _CHUNK)])
    return each.view(len(noise), len(pixels), -1)


def _attacked(
    classifier: Classifier,
    images: Images,
    labels: Tensor,
    budget: Budget,
    steps: int,
    generator: torch.Generator,
) -> npt.NDArray[np.bool_]:
    """Whether PGD within epsilon leaves a loss of ln 2 at most."""
    pixels = _tensor(images)
    how = PGD(norm=budget.norm, steps=steps, step=0.25, sigma=0.0, draws=1, start=Start.RANDOM)
    epsilon = torch.full((len(pixels),), budget.epsilon, dtype=torch.float64)
    at = pgd(classifier, pixels, labels, epsilon=epsilon, how=how, generator=generator).to(torch.float32)
    with torch.no_grad():
        loss = smoothed_cross_entropy(classifier, at, labels, torch.zeros(1, *at.shape))
    return (loss <= _ENOUGH).numpy()


def _check_labels(classifier: Classifier, pixels: Tensor, labels: Tensor) -> None:
    if labels.shape != pixels.shape[:1]:
        raise ValueError(f"expected a label for each of {len(pixels)} images, not {tuple(labels.shape)}")
    with torch.no_grad():
        classes = classifier(pixels[:1]).shape[1]
    if not bool(((labels >= 0) & (labels < classes)).all()):
        raise ValueError(f"expected labels from 0 to {classes - 1}, which the model has, not {labels.tolist()}")


def _tensor(images: Images) -> Tensor:
    """Pixel k as k / 255, in float32."""
    return torch.from_numpy(images.astype(np.float32) / np.float32(LEVELS))


def _rounded(images: Images, points: Tensor, budget: Budget) -> Images:
    radii = np.full(len(images), budget.delta)
    return on_lattice(images, points.numpy(), radii, budget.norm)
