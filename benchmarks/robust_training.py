"""Preemptively robust training beside adversarial training: same network, images, steps and adversary.

    python benchmarks/robust_training.py --data FOLDER [--images N] [--epochs E] [--seeds S] [--every K]
                                         [--only TRAINING] [--runs DIR] [--out PREFIX]

FOLDER has MNIST's or Fashion-MNIST's files. Both trainings attack by PGD (Madry et al. 2018; Linf, EPSILON, 10 steps);
in the second a defender has moved the images towards their labels before, by as much (Moon, An and Song 2022). No
noise anywhere. Of the test images, every K-th but for the first line:

    all, clean      right answers, of all test images
    clean           right answers
    attacked        right answers after PGD-20 (random start, steps of epsilon / 4)
    moved           right answers on the 8-bit images that BILEVEL made, with the network's own answer as the label
    moved, attacked and on these after PGD-20; "ratio" is that over clean, and the bar for adversarial training is .94

A row a network; it is kept in DIR when it is trained, and a run that is killed goes on. On a CPU, one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from report import Row, machine, spread, write

from certserve import datasets
from certserve.attacks.norms import Norm
from certserve.attacks.pgd import PGD, Start, pgd
from certserve.backends.architectures import Residual, ResidualNetwork, Stage
from certserve.datasets import Dataset
from certserve.defences.preemptive.eight_bit import robustify, seeded
from certserve.defences.preemptive.methods import Bilevel, Budget
from certserve.training.classifier import train
from certserve.training.examples import mean_and_std, split
from certserve.training.recipe import Adversary, Recipe

EPSILON = 0.1  # as PGD's on Fashion-MNIST, and the defender's delta
CLASSES = 10
WIDTHS = (16, 32)
ROWS = 250
TRAININGS = {"adversarial": 0.0, "preemptive": EPSILON}

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def trained(data: Dataset, seed: int, delta: float, epochs: int, folder: Path) -> ResidualNetwork:
    """The network of one training."""
    recipe = Recipe(
        sigma=0.0,
        epochs=epochs,
        seed=seed,
        copies=1,
        consistency=0.0,
        entropy=0.0,
        learning_rate=0.05,
        ema_decay=0.99,
        shift=0,
        flip=False,
        widths=WIDTHS,
        blocks=1,
        adversary=Adversary(Norm.LINF, EPSILON, delta),
    )
    training, held_out = split(data, [str(label) for label in range(CLASSES)], recipe)
    channels, height, width = data.images.shape[1:]
    network = Residual(
        (channels, height, width), CLASSES, *mean_and_std(training), 2, tuple(Stage(width, 1) for width in WIDTHS)
    )
    return train(training, held_out, network, recipe, folder, device=torch.device("cpu")).requires_grad_(False)


def answers(network: ResidualNetwork, pixels: torch.Tensor) -> Labels:
    """The network's labels."""
    with torch.no_grad():
        found: Labels = torch.cat([network(rows).argmax(1) for rows in torch.split(pixels, ROWS)]).numpy()
    return found


def attacked(network: ResidualNetwork, pixels: torch.Tensor, labels: Labels) -> Labels:
    """The network's labels after PGD-20 against the labels."""
    how = PGD(norm=Norm.LINF, steps=20, step=0.25, sigma=0.0, draws=1, start=Start.RANDOM)
    found = []
    for first in range(0, len(pixels), ROWS):
        rows, truth = pixels[first : first + ROWS], torch.from_numpy(labels[first : first + ROWS])
        limits = torch.full((len(rows),), EPSILON, dtype=torch.float64)
        at = pgd(network, rows, truth, epsilon=limits, how=how, generator=seeded(first))
        found.append(answers(network, at.to(torch.float32)))
    return np.concatenate(found)


def moved(network: ResidualNetwork, images: Images, labels: Labels) -> Images:
    """What BILEVEL makes of the images."""
    budget = Budget(norm=Norm.LINF, delta=EPSILON, epsilon=EPSILON)
    found = []
    for first in range(0, len(images), ROWS):
        rows = slice(first, first + ROWS)
        made = robustify(
            network, images[rows], labels[rows], budget=budget, sigma=0.0, how=Bilevel(), generator=seeded(first)
        )
        found.append(made.images)
    return np.concatenate(found)


def judged(network: ResidualNetwork, test: Dataset, every: int) -> Row:
    """The five shares of right answers."""
    everything = answers(network, torch.from_numpy(test.images / np.float32(255)))
    row: Row = {"all, clean": float((everything == test.labels).mean())}
    test = test.where(np.arange(len(test)) % every == 0)
    clean = torch.from_numpy(test.images / np.float32(255))
    own = answers(network, clean)
    made = torch.from_numpy(moved(network, test.images, own) / np.float32(255))
    shares = {
        "clean": own,
        "attacked": attacked(network, clean, test.labels),
        "moved": answers(network, made),
        "moved, attacked": attacked(network, made, test.labels),
    }
    row |= {name: float((labels == test.labels).mean()) for name, labels in shares.items()}
    return row | {"ratio": row["moved, attacked"] / row["clean"], "test images": len(test)}


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20_000, help="of the training set, the first ones")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--only", choices=TRAININGS, help="one of the two trainings")
    parser.add_argument("--runs", type=Path, help="a folder that the trainings are kept in")
    parser.add_argument("--out", type=Path, help="PREFIX of the table")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = datasets.read([asked.data], split="train")
    data = data.where(np.arange(len(data)) < asked.images)
    test = datasets.read([asked.data], split="test")
    folder = asked.runs or Path(tempfile.mkdtemp())
    common = {"data": asked.data.name, "epsilon": EPSILON, "images": len(data), "epochs": asked.epochs, **machine()}
    chosen = [asked.only] if asked.only else list(TRAININGS)
    rows: list[Row] = []
    for seed in range(asked.seeds):
        for name in chosen:
            start = time.monotonic()
            network = trained(data, seed, TRAININGS[name], asked.epochs, folder / f"{name}-{seed}")
            rows.append({"training": name, "seed": seed, **judged(network, test, asked.every), **common})
            print({**rows[-1], "seconds": round(time.monotonic() - start)}, flush=True)
    columns = ("all, clean", "clean", "attacked", "moved", "moved, attacked", "ratio")
    summary = [
        f"{name}: " + "; ".join(f"{c} {spread([row[c] for row in rows if row['training'] == name])}" for c in columns)
        for name in chosen
    ]
    write(rows, summary, asked.out)


if __name__ == "__main__":
    main()
