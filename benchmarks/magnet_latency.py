"""What Detect costs over gRPC beside the networks that it runs, as ratios of one run.

    python benchmarks/magnet_latency.py [--model BUNDLE] [--calls N] [--rounds R] [--out PREFIX]

    one         the time of a Detect of one image, less 2 ms, over that of a forward pass of the classifier on one row,
                in the detectors' precision; the bar is 3
    batch       the time of a Detect of 256 images over that of the bare networks on as many rows, in batches of 32
                on as many threads as the server uses; the bar is 1.2

Both take turns, call by call, with a server in a process of its own that does nothing else. The bare networks are each
autoencoder of a detector once, and where a detector compares labels the classifier on the images and on each of those
autoencoders' images. Each row is a round's medians, with every parameter, the versions and the processor.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from report import Row, machine, spread, write

from certserve import bundle, zoo
from certserve.backends.reconstruction import load_autoencoder
from certserve.client import Client
from certserve.defences.magnet import classifier_of
from certserve.endpoints.models import LoadedModel
from certserve.noise.keystream import Secret
from certserve.serving.config import Address, Config
from certserve.serving.server import serving

BATCH = 256
ROWS = 32
ALLOWANCE = 0.002  # seconds

Pixels = npt.NDArray[np.float32]


def _serve(path: Path, pipe: Connection) -> None:
    """A server until the pipe ends; says its port."""
    loaded = LoadedModel.read(path, ready=True)

    async def main() -> None:
        async with serving(Config(server=Address(port=0, grace_seconds=0.5)), [loaded], Secret.fresh()) as running:
            pipe.send(running.port)
            await asyncio.get_running_loop().run_in_executor(None, pipe.recv)

    asyncio.run(main())


@contextmanager
def server(path: Path) -> Iterator[str]:
    """A server in a process of its own: its address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(path, theirs))
    process.start()
    try:
        yield f"127.0.0.1:{ours.recv()}"
    finally:
        ours.send(None)
        process.join()


class Bare:
    """The networks that a bundle's detectors need, and nothing else."""

    def __init__(self, found: bundle.Bundle) -> None:
        magnet = found.magnet
        assert magnet is not None
        self.classifier = classifier_of(found, magnet.precision)
        compared = {detector.autoencoder for detector in magnet.detectors if detector.kind == "jsd"}
        used = {detector.autoencoder for detector in magnet.detectors}
        networks = {e.name: load_autoencoder(found, e).reconstruct for e in magnet.autoencoders if e.name in used}
        classify = self.classifier.backend.logits
        self._passes: list[Callable[[Pixels], Pixels]] = list(networks.values())
        self._passes += [classify] * (len(compared) + bool(compared))
        self.threads = ThreadPoolExecutor(self.classifier.backend.parallel)

    def run(self, pixels: Pixels) -> None:
        """Every network on every image."""
        pieces = [pixels[i : i + ROWS] for i in range(0, len(pixels), ROWS)]
        list(self.threads.map(lambda piece: [run(piece) for run in self._passes], pieces))


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(client: Client, bare: Bare, shape: tuple[int, ...], calls: int) -> Row:
    """The medians of one round."""
    batch = (np.arange(BATCH * np.prod(shape)) * 37 % 256 / 255).astype(np.float32).reshape(BATCH, *shape)
    one = batch[:1]
    times: dict[str, list[float]] = {name: [] for name in ("detect one", "classify one", "detect batch", "bare batch")}
    few = max(3, calls // 20)
    for call in range(calls + 3):
        pair: list[tuple[str, Callable[[], object]]] = [
            ("detect one", lambda: client.detect(one)),
            ("classify one", lambda: bare.classifier.backend.logits(one)),
        ]
        if call < few + 3:
            pair += [("detect batch", lambda: client.detect(batch)), ("bare batch", lambda: bare.run(batch))]
        for name, work in pair:
            taken = seconds(work)
            if call >= 3:  # the first ones warm up
                times[name].append(taken)
    medians = {f"{name}, ms": 1e3 * statistics.median(values) for name, values in times.items()}
    return {
        **medians,
        "one": (medians["detect one, ms"] - 1e3 * ALLOWANCE) / medians["classify one, ms"],
        "batch": statistics.median(a / b for a, b in zip(times["detect batch"], times["bare batch"], strict=True)),
        "calls": calls,
        "batches": few,
    }


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar10", help="a bundle with a MagNet")
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="PREFIX of the table")
    asked = parser.parse_args()
    found = bundle.read(zoo.path_of(asked.model))
    bare = Bare(found)
    common: dict[str, Any] = {"model": found.name, "classifier": bare.classifier.name, "rows": ROWS, **machine()}
    with server(found.path) as address, Client(address) as client:
        rows = [{"round": i} | measure(client, bare, found.shape, asked.calls) | common for i in range(asked.rounds)]
    summary = [
        f"one image, less 2 ms, over a forward pass: {spread([row['one'] for row in rows])} (bar: 3)",
        f"256 images over the bare networks: {spread([row['batch'] for row in rows])} (bar: 1.2)",
        *(f"{name}: {spread([row[name] for row in rows])}" for name in rows[0] if name.endswith(", ms")),
    ]
    write(rows, summary, asked.out)


if __name__ == "__main__":
    main()
