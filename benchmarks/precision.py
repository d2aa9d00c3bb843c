"""What int8 costs: certified accuracy and mean radius of two executions of a bundle on the same noisy copies.

    python benchmarks/precision.py --model cifar10 --data cifar10_test.npz --every 10 [--n N] [--out PREFIX]

Both executions get the same draws of each image, under one key that no server uses; CERTIFY's arithmetic turns their
counts into radii. PREFIX.tsv has a row an image, PREFIX.json the summary and the machine.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from report import machine

from certserve import backends, bundle, datasets, zoo
from certserve.bundle import Bundle
from certserve.datasets import Dataset
from certserve.noise.arithmetic import Arithmetic, arithmetic_error
from certserve.noise.keystream import Key, Secret
from certserve.sampling.sampler import Sampler
from certserve.sampling.slices import DrawSet, Slice
from certserve.sampling.source import DrawSource
from certserve.smoothing.decision import certified_probability
from certserve.smoothing.distribution import Gaussian

N0, ALPHA = 100, 0.001
RADII = tuple(round(0.05 * i, 2) for i in range(21))
SECRET = Secret(b"the same noise for both of them.")


@dataclass(frozen=True)
class Run:
    """One execution's answers: a label (-1: abstained) and a radius for each image, and how many images a second."""

    execution: str
    labels: npt.NDArray[np.int64]
    radii: npt.NDArray[np.float64]
    seconds: float


def run(found: Bundle, execution: str, data: Dataset, sigma: float, n: int) -> Run:
    """CERTIFY of every image by one execution."""
    loaded = backends.load(found, found.execution(execution))
    sampler = Sampler(loaded.backend, loaded.shapes, loaded.facts.parallel)
    error = arithmetic_error(Arithmetic.GRID, sigma, data.images[0].size)

    def certify(i: int) -> tuple[int, float]:
        source = DrawSource(_key(int(data.idx[i])), data.images[i], sigma, Arithmetic.GRID)
        work = [Slice(i, DrawSet.SELECTION, 0, N0), Slice(i, DrawSet.ESTIMATION, 0, n)]
        selection, estimation = sampler.labels([(source, piece) for piece in work])
        label = int(np.bincount(selection, minlength=sampler.num_classes).argmax())
        p_lower = certified_probability(int((estimation == label).sum()), n, ALPHA, error)
        radius = Gaussian(sigma).radius(p_lower)
        return (label, radius) if radius > 0.0 else (-1, 0.0)

    start = time.perf_counter()
    with ThreadPoolExecutor(loaded.facts.parallel) as threads:
        found_ones = list(threads.map(certify, range(len(data))))
    labels, radii = zip(*found_ones, strict=True)
    return Run(execution, np.array(labels), np.array(radii), time.perf_counter() - start)


def _key(idx: int) -> Key:
    return SECRET.key({"image": idx})


def compare(one: Run, other: Run, truth: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Certified accuracy at each radius, and the mean radius (0 where the label is wrong), of both."""
    right = [np.where(run.labels == truth, run.radii, -1.0) for run in (one, other)]
    accuracy = {
        run.execution: [round(float((radii >= max(r, 0.0)).mean()), 4) for r in RADII]
        for run, radii in zip((one, other), right, strict=True)
    }
    means = {
        run.execution: round(float(np.maximum(radii, 0.0).mean()), 5)
        for run, radii in zip((one, other), right, strict=True)
    }
    largest = max(abs(a - b) for a, b in zip(accuracy[one.execution], accuracy[other.execution], strict=True))
    return {
        "radii": RADII,
        "certified_accuracy": accuracy,
        "mean_radius": means,
        "largest_difference_of_certified_accuracy": round(largest, 4),
        "difference_of_mean_radius": round(abs(means[one.execution] - means[other.execution]), 5),
        "seconds": {run.execution: round(run.seconds, 1) for run in (one, other)},
    }


def _print(summary: dict[str, Any]) -> None:
    accuracy = summary["certified_accuracy"]
    print(f"{summary['model']}, {summary['images']} images, n = {summary['n']}, alpha = {summary['alpha']:g}")
    print("  ".join(["certified at", *(f"{name:>8s}" for name in accuracy)]))
    for i, radius in enumerate(summary["radii"]):
        print("  ".join([f"{radius:12.2f}", *(f"{row[i]:8.3f}" for row in accuracy.values())]))
    print("  ".join(["mean radius ", *(f"{mean:8.4f}" for mean in summary["mean_radius"].values())]))


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar10", help="a bundle's directory or a packaged model's name")
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--every", type=int, default=1, help="only images whose idx this divides")
    parser.add_argument("--n", type=int, default=2_000)
    parser.add_argument("--execution", nargs=2, default=("float32", "int8"))
    parser.add_argument("--out", type=Path, default=None, help="also write PREFIX.tsv and PREFIX.json")
    options = parser.parse_args()
    found = bundle.read(zoo.path_of(options.model))
    data = datasets.read(options.data, split="test")
    data = data.where(data.idx % options.every == 0)
    runs = [run(found, name, data, found.defaults.sigma, options.n) for name in options.execution]
    summary: dict[str, Any] = {"model": found.name, "images": len(data), "n0": N0, "n": options.n, "alpha": ALPHA}
    summary |= compare(runs[0], runs[1], np.asarray(data.labels, dtype=np.int64))
    _print(summary)
    if options.out:
        options.out.with_suffix(".json").write_text(json.dumps(summary | machine(), indent=2) + "\n", encoding="utf-8")
        with options.out.with_suffix(".tsv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            names = [f"{what}_{r.execution}" for r in runs for what in ("predict", "radius")]
            writer.writerow(["idx", "label", *names])
            for i, (idx, label) in enumerate(zip(data.idx, data.labels, strict=True)):
                writer.writerow([idx, label, *(x for r in runs for x in (r.labels[i], repr(float(r.radii[i]))))])


if __name__ == "__main__":
    main()
