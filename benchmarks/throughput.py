"""Draws per second: the bare classifier, and Certify over gRPC on the same bundle, in one run.

    python benchmarks/throughput.py [--model BUNDLE] [--execution NAME] [--n N] [--rounds R] [--out FILE]

The rounds alternate, so that a machine whose speed drifts slows both sides; the figure to quote is the ratio. Each
row of the TSV names every parameter, the versions and the processor.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np

import certserve
from certserve import backends, zoo
from certserve.backends import LoadedExecution
from certserve.backends.probes import probe_pixels
from certserve.backends.processor import processor_name
from certserve.client import AsyncClient
from certserve.endpoints.models import LoadedModel
from certserve.noise.keystream import Secret
from certserve.serving.config import Address, Config
from certserve.serving.server import serving

COLUMNS = (
    "model",
    "execution",
    "runtime",
    "processor",
    "threads",
    "clients",
    "n",
    "round",
    "bare_draws_per_second",
    "served_draws_per_second",
    "served_over_bare",
)


def bare(execution: LoadedExecution, draws: int) -> float:
    """Draws per second of the classifier alone, at its largest batch."""
    rows = execution.shapes[-1]
    batch = np.ascontiguousarray(probe_pixels(execution.backend.shape, rows, 0.25))
    execution.backend.logits(batch)
    runs = max(1, draws // rows)
    start = time.perf_counter()
    for _ in range(runs):
        execution.backend.logits(batch).argmax(axis=1)
    return runs * rows / (time.perf_counter() - start)


async def served(address: str, loaded: LoadedModel, clients: int, n: int, turn: int) -> float:
    """Draws per second of `clients` Certify requests at once, over gRPC; each asks about another image."""
    pixels = np.arange(np.prod(loaded.bundle.shape), dtype=np.int64).reshape(loaded.bundle.shape)
    async with AsyncClient(address) as client:
        start = time.perf_counter()
        await asyncio.gather(
            *(client.certify(((pixels * (7 + k) + turn) % 256).astype(np.uint8), n=n) for k in range(clients))
        )
        seconds = time.perf_counter() - start
    return clients * (n + loaded.bundle.defaults.n0) / seconds


async def measure(loaded: LoadedModel, clients: int, n: int, rounds: int) -> list[dict[str, object]]:
    """One row a round."""
    rows: list[dict[str, object]] = []
    config = Config(server=Address(port=0, grace_seconds=1.0))
    identity = loaded.execution.identity
    alone_execution = backends.load(loaded.bundle, loaded.bundle.execution(loaded.execution.name))
    async with serving(config, [loaded], Secret.fresh()) as server:
        for turn in range(rounds):
            alone = bare(alone_execution, n)
            over_grpc = await served(f"127.0.0.1:{server.port}", loaded, clients, n, turn)
            values = (
                loaded.bundle.name,
                loaded.execution.name,
                f"{identity['runtime']} {identity['version']}",
                processor_name(),
                identity.get("threads", "1"),
                clients,
                n,
                turn,
                round(alone, 1),
                round(over_grpc, 1),
                round(over_grpc / alone, 4),
            )
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="a bundle's directory or a packaged model's name")
    parser.add_argument("--execution", default=None, help="by name; default: the fastest")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="also write the rows here, as TSV")
    options = parser.parse_args()
    loaded = LoadedModel.read(zoo.path_of(options.model), execution=options.execution)
    rows = asyncio.run(measure(loaded, options.clients, options.n, options.rounds))
    with options.out.open("w", encoding="utf-8", newline="") if options.out else nullcontext(sys.stdout) as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    ratios = [float(str(row["served_over_bare"])) for row in rows]
    print(
        f"certserve {certserve.__version__}: served / bare = {statistics.median(ratios):.3f} "
        f"(median of {len(ratios)} rounds, {min(ratios):.3f} to {max(ratios):.3f})",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
