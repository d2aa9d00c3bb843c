"""What the noise costs beside the classifier on a CPU: the time each takes while all threads make both, as they serve.

    python benchmarks/noise.py [--model BUNDLE] [--execution NAME] [--seconds S] [--rounds R] [--out PREFIX]

Each thread makes the noisy copies of a batch, then runs the classifier on them, again and again. The share is the time
spent on the copies (noise and addition) over that spent in the classifier: of the compiled code, where there is any,
and of numpy, in turns. For CUDA devices: gpu.py. Writes PREFIX.tsv and PREFIX.json.
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path

import numpy as np
from report import Row, machine, spread, write

from certserve import backends, bundle, zoo
from certserve.backends import LoadedExecution
from certserve.noise import grid
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.keystream import Secret
from certserve.sampling.slices import DrawSet
from certserve.sampling.source import DrawSource


def measure(loaded: LoadedExecution, sigma: float, seconds: float) -> tuple[float, float]:
    """Milliseconds of one thread for 1,000 draws: of the noisy copies, and of the classifier."""
    backend, rows = loaded.backend, loaded.shapes[-1]
    pixels = (np.arange(np.prod(backend.shape), dtype=np.int64) % 256).astype(np.uint8).reshape(backend.shape)
    source = DrawSource(Secret.fresh().key({"benchmark": "noise"}), pixels, sigma, Arithmetic.GRID)
    spent: list[tuple[float, float, int]] = []
    end = time.perf_counter() + seconds

    def work() -> None:
        batch = np.empty((rows, pixels.size), dtype=np.float32)
        noise = classifier = 0.0
        draws = 0
        while time.perf_counter() < end or not draws:
            start = time.perf_counter()
            source.write(DrawSet.ESTIMATION, draws, batch)
            between = time.perf_counter()
            backend.logits(batch.reshape(rows, *backend.shape))
            noise, classifier = noise + between - start, classifier + time.perf_counter() - between
            draws += rows
        spent.append((noise, classifier, draws))

    threads = [threading.Thread(target=work) for _ in range(loaded.facts.parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    draws = sum(each for _, _, each in spent)
    return 1e6 * sum(n for n, _, _ in spent) / draws, 1e6 * sum(c for _, c, _ in spent) / draws


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar10", help="a bundle's directory or a packaged model's name")
    parser.add_argument("--execution", default=None, help="default: the one that serves")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="also write PREFIX.tsv and PREFIX.json")
    options = parser.parse_args()
    found = bundle.read(zoo.path_of(options.model))
    loaded = backends.load(found, None if options.execution is None else found.execution(options.execution))
    facts = {"model": found.name, "execution": loaded.name, "sigma": found.defaults.sigma, **machine()}
    measure(loaded, found.defaults.sigma, 1.0)  # warms up
    rows: list[Row] = []
    codes = {"compiled": vars(grid)["_rows"], "numpy": None} if grid.COMPILED else {"numpy": None}
    for turn in range(1, options.rounds + 1):
        for name, code in codes.items():
            vars(grid)["_rows"] = code
            noise, classifier = measure(loaded, found.defaults.sigma, options.seconds)
            figures = {"noise_ms": round(noise, 3), "classifier_ms": round(classifier, 3)}
            rows.append({"round": turn, "code": name, **figures, "share": round(noise / classifier, 4), **facts})
    shares = {name: [row["share"] for row in rows if row["code"] == name] for name in codes}
    lines = [f"{found.name}, {loaded.name}, {name}: noise over classifier {spread(s)}" for name, s in shares.items()]
    write(rows, lines, options.out)


if __name__ == "__main__":
    main()
