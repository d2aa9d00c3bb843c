"""How much sooner "is the radius at least r?" is answered than by the published algorithm, over gRPC, on real images.

    python benchmarks/target.py --data CIFAR10.npz --fixed TABLE.tsv [--model BUNDLE] [--every K] [--radius R ...]
                                [--times T] [--repeats M] [--out PREFIX]

    published    CERTIFY with n0 = 100 and n = 100,000 as its authors run it (float32 PyTorch on all cores, the better
                 of their batch sizes), timed whole on T images
    target       a Certify with that radius as its target, n = 100,000 at most, asked of a server in another process,
                 one image after the other, M times with noise of its own (another nonce): a few images near the radius
                 take most of the draws, and how many is chance

The two take turns: a published answer, then one part in T of the images at each radius. TABLE.tsv is what `certserve
evaluate certify --n 100000` found for the same images: an image where one certifies r and the other does not is
counted as a disagreement. A row an image, radius and repeat. Writes PREFIX.tsv and PREFIX.json.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from isolation import server
from report import Row, machine, spread, write
from throughput import EAGER_BATCHES, Contestant, eager

from certserve import bundle, datasets, zoo
from certserve.backends.architectures import load
from certserve.bundle import Bundle
from certserve.client import Client
from certserve.endpoints.plans import TargetPlan
from certserve.evaluation.tables import Row as Certified
from certserve.evaluation.tables import read_table
from certserve.smoothing.outcomes import Abstention, Certificate

RADII = (0.25, 0.5, 0.75)
N0, N = 100, 100_000
TRIAL = 4_000


def published(found: Bundle) -> Contestant:
    """The published algorithm at the better of its authors' batch sizes."""
    execution = next(e for e in found.executions if e.runtime == "torch" and e.precision == "float32")
    network = load(found.file(execution.file))
    made = [eager(network, found.shape, found.defaults.sigma, batch) for batch in EAGER_BATCHES]
    for run in made:
        run(TRIAL // 4)  # warms up
    return max(made, key=lambda run: run(TRIAL))


def ask(client: Client, image: Any, radius: float, repeat: int = 0) -> Row:
    """One answer: what it is, the draws it took, and its seconds."""
    start = time.perf_counter()
    outcome = client.certify(image, n0=N0, n=N, plan=TargetPlan(radius), nonce=repeat.to_bytes(4, "big"))
    seconds = time.perf_counter() - start
    if not isinstance(outcome, Certificate | Abstention):
        raise RuntimeError(f"without a time budget there is an answer, but: {outcome.statement}")
    label = outcome.label if isinstance(outcome, Certificate) else -1
    draws = N0 + outcome.estimation[-1].total
    return {"repeat": repeat, "certified_label": label, "draws": draws, "seconds": round(seconds, 4)}


def measure(
    found: Bundle,
    data: datasets.Dataset,
    fixed: dict[int, Certified],
    radii: Sequence[float],
    *,
    times: int,
    repeats: int,
) -> tuple[list[Row], list[float]]:
    """A row an image, radius and repeat; and the seconds of each published answer."""
    slow, rows, seconds = published(found), [], []
    with server(found.path, in_order=False) as (address, _, execution), Client(address) as client:
        facts = {"model": found.name, "execution": execution, "n": N, **machine()}
        for i in range(20):
            ask(client, data.images[i % len(data)] ^ 1, radii[0])  # warms up, with questions that are not asked again
        for turn in range(times):
            rate = slow(N0 + N)
            seconds.append((N0 + N) / rate)
            print(f"published: {seconds[-1]:.1f} s", flush=True)
            for radius, repeat, i in itertools.product(radii, range(repeats), range(turn, len(data), times)):
                idx = int(data.idx[i])
                found_row = ask(client, np.ascontiguousarray(data.images[i]), radius, repeat)
                sure = fixed[idx].predict if fixed[idx].radius >= radius else -1
                agrees = int(found_row["certified_label"] == sure)
                rows.append({"radius": radius, "idx": idx, **found_row, "agrees": agrees, **facts})
    return rows, seconds


def summary(rows: list[Row], seconds: list[float], radii: Sequence[float]) -> list[str]:
    """A line a radius."""
    lines = [f"published: {spread(seconds)} s an image"]
    for radius in radii:
        of = [row for row in rows if row["radius"] == radius]
        took, draws = [row["seconds"] for row in of], [row["draws"] for row in of]
        mean = statistics.mean(took)
        ratios = spread([each / mean for each in seconds])
        certified = sum(row["certified_label"] >= 0 for row in of)
        lines.append(
            f"r = {radius:g}: {len(of)} answers in {mean:.3f} s on average (median {statistics.median(took):.3f}, "
            f"{statistics.mean(draws):.0f} draws), published / target {ratios}; {certified} certified, "
            f"{sum(not row['agrees'] for row in of)} disagree with the fixed plan"
        )
    return lines


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a .npz file with x and y, or original files")
    parser.add_argument("--fixed", type=Path, required=True, help="the table of the fixed plan for these images")
    parser.add_argument("--model", default="cifar10", help="a bundle's directory or a packaged model's name")
    parser.add_argument("--every", type=int, default=80, help="only images whose index it divides")
    parser.add_argument("--radius", type=float, action="append", help="default: .25, .5 and .75; repeatable")
    parser.add_argument("--times", type=int, default=3, help="published answers to be timed")
    parser.add_argument("--repeats", type=int, default=1, help="answers to each question, each with noise of its own")
    parser.add_argument("--out", type=Path, default=None, help="also write PREFIX.tsv and PREFIX.json")
    options = parser.parse_args()
    found = bundle.read(zoo.path_of(options.model))
    data = datasets.read([options.data], split="test", classes=found.labels)
    data = data.where(data.idx % options.every == 0)
    fixed = {row.idx: row for row in read_table(options.fixed)}
    radii = options.radius or RADII
    rows, seconds = measure(found, data, fixed, radii, times=options.times, repeats=options.repeats)
    write(rows, summary(rows, seconds, radii), options.out)


if __name__ == "__main__":
    main()
