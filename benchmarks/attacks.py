"""Does any attack change the smoothed classifier's answer within a certified radius? And beyond it?

    python benchmarks/attacks.py --data cifar10_test.npz [--every K] [--model BUNDLE] [--out PREFIX]

Every image is certified as served (one execution, 8-bit pixels, n = 10,000). Around each certified one, PGD on the
smoothed classifier (50 noise draws a step, gradients of the bundle's float32 network) looks for another answer within
.99, 1, 1.5 and 2 times its radius; what it found goes to the furthest 8-bit image along that change within the same
distance, exactly, and is asked with an anytime Predict. The attack does not know the noise's secret.

Within the radius an answer that differs is an error of that certificate or of that Predict, and each has at most its
alpha; an abstention is no answer. Beyond it, changes show that the attack is one. PREFIX.tsv has a row an image.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from report import Row, machine, write
from scipy import stats

import certserve
from certserve import bundle, datasets, zoo
from certserve.attacks.lattice import on_lattice
from certserve.attacks.norms import Norm
from certserve.attacks.pgd import PGD, pgd
from certserve.backends.torch import differentiable
from certserve.datasets import Dataset
from certserve.endpoints.local import LocalModel
from certserve.endpoints.plans import AnytimePlan
from certserve.noise.keystream import Secret
from certserve.smoothing.outcomes import Certificate, Prediction

SECRET = Secret(b"noise that no attack here knows.")
FACTORS = (0.99, 1.0, 1.5, 2.0)
INSIDE = tuple(factor for factor in FACTORS if factor <= 1.0)
ALPHA = 0.001
CERTIFY_N, PREDICT_N = 10_000, 10_000
ROWS = 200  # noisy copies in one pass of the network
SEED = 1

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Target:
    """A certified image."""

    idx: int
    truth: int
    image: Images
    label: int
    radius: float


def certified(model: LocalModel, data: Dataset) -> list[Target]:
    """The images that get a certificate, with it."""
    found = []
    for idx, truth, image in zip(data.idx.tolist(), data.labels.tolist(), data.images, strict=True):
        outcome = model.certify(image, n=CERTIFY_N, alpha=ALPHA)
        if isinstance(outcome, Certificate):
            found.append(Target(idx, truth, image, outcome.label, outcome.radius))
    return found


class Attack:
    """PGD on a bundle's float32 network, ending on the 8-bit lattice."""

    def __init__(self, network: torch.nn.Module, how: PGD) -> None:
        self._network, self._how = network, how
        self._generator = torch.Generator().manual_seed(SEED)

    def __call__(self, targets: Sequence[Target], factor: float) -> Images:
        """An image for each target, at most `factor` of its radius away from it."""
        images = np.stack([target.image for target in targets])
        radii = np.array([factor * target.radius for target in targets])  # rounds up, at most, beyond 1
        attacked = []
        for batch in np.array_split(np.arange(len(targets)), -(-len(targets) * self._how.draws // ROWS)):
            attacked.append(
                pgd(
                    self._classifier,
                    torch.from_numpy(images[batch]).float() / 255,
                    torch.tensor([targets[i].label for i in batch]),
                    epsilon=torch.from_numpy(radii[batch]),
                    how=self._how,
                    generator=self._generator,
                ).numpy()
            )
        return on_lattice(images, np.concatenate(attacked), radii, self._how.norm)

    def _classifier(self, rows: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._network(rows.contiguous(memory_format=torch.channels_last))
        return logits


def answer(model: LocalModel, image: Images) -> int:
    """The smoothed classifier's label; -1: it abstained."""
    outcome = model.predict(image, n=PREDICT_N, alpha=ALPHA, plan=AnytimePlan())
    return outcome.label if isinstance(outcome, Prediction) else -1


def squared_distance(one: Images, other: Images) -> Fraction:
    """In input units, exactly."""
    steps = one.astype(np.int64) - other.astype(np.int64)
    return Fraction(int((steps**2).sum()), 255**2)


def measure(model: LocalModel, attack: Attack, data: Dataset) -> list[Row]:
    """A row for each certified image: its certificate, and answers and distances at each factor."""
    start = time.perf_counter()
    targets = certified(model, data)
    _say(start, f"{len(targets)} of {len(data)} images certified")
    rows: list[Row] = [
        {"idx": t.idx, "label": t.truth, "certified": t.label, "radius": t.radius} for t in targets
    ]  # fmt: skip
    for factor in FACTORS:
        attacked = attack(targets, factor)
        _say(start, f"attacked at {factor:g} of the radius")
        for row, target, image in zip(rows, targets, attacked, strict=True):
            squared = squared_distance(image, target.image)
            if factor <= 1.0 and squared > Fraction(target.radius) ** 2:
                raise RuntimeError(f"image {target.idx}: the attack left the certified ball")
            row[f"distance_{factor:g}"] = float(squared) ** 0.5
            row[f"answer_{factor:g}"] = answer(model, image)
        _say(start, f"asked at {factor:g} of the radius")
    return rows


def _say(start: float, what: str) -> None:
    print(f"{time.perf_counter() - start:6.0f} s: {what}", file=sys.stderr, flush=True)


def summarise(rows: Sequence[Row], asked: int, how: PGD) -> list[str]:
    """The table, and what the alphas allow."""
    lines = [
        f"{asked} images, {len(rows)} certified (n = {CERTIFY_N:,}, alpha = {ALPHA:g}) and attacked: PGD, "
        f"{how.norm}, {how.steps} steps of {how.step:g} of the distance allowed, {how.draws} draws a step",
        "distance allowed / radius   mean distance   answers changed   abstentions",
    ]
    for factor in FACTORS:
        mean = float(np.mean([row[f"distance_{factor:g}"] for row in rows]))
        answers = [(row[f"answer_{factor:g}"], row["certified"]) for row in rows]
        changed = sum(label not in (-1, before) for label, before in answers)
        abstained = sum(label == -1 for label, _ in answers)
        lines.append(f"{factor:25g}   {mean:13.4f}   {changed:15d}   {abstained:11d}")
    changed = sum(any(row[f"answer_{f:g}"] not in (-1, row["certified"]) for f in INSIDE) for row in rows)
    each = ALPHA * (1 + len(INSIDE))  # one certificate, and a Predict at each distance
    most = int(stats.binom.ppf(0.999, asked, each))
    verdict = "ok" if changed <= most else "BROKEN"
    lines.append(
        f"images changed within the certified radius: {changed}; the alphas allow {each:g} of {asked} images, "
        f"{asked * each:.3g} on average and at most {most} with probability .999: {verdict}"
    )
    return lines


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar10", help="a bundle's directory or a packaged model's name")
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--every", type=int, default=80, help="only images whose idx this divides")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--draws", type=int, default=50, help="of noise, a step")
    parser.add_argument("--out", type=Path, default=None, help="also write PREFIX.tsv and PREFIX.json")
    options = parser.parse_args()
    found = bundle.read(zoo.path_of(options.model))
    data = datasets.read(options.data, split="test")
    data = data.where(data.idx % options.every == 0)
    step = 2.5 / options.steps
    how = PGD(norm=Norm.L2, steps=options.steps, step=step, sigma=found.defaults.sigma, draws=options.draws)
    with certserve.open(options.model, key_source=SECRET) as model:
        rows = measure(model, Attack(differentiable(found).folded(), how), data)
        execution = model.get_model().execution.name
    facts = {"model": found.name, "execution": execution, "sigma": how.sigma, "n": CERTIFY_N, "alpha": ALPHA}
    facts |= {"steps": how.steps, "step": how.step, "draws": how.draws, **machine()}
    lines = summarise(rows, len(data), how)
    write([row | facts for row in rows], [f"{found.name}, {execution}", *lines], options.out)


if __name__ == "__main__":
    main()
