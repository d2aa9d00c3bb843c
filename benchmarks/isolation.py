"""How long a Predict takes on an idle server, beside large Certifies, and where each request waits for the one before.

    python benchmarks/isolation.py [--model BUNDLE] [--predicts N] [--rounds R] [--out PREFIX]

    idle        Predicts (n = 100), one after the other, on a server that does nothing else
    loaded      the same while eight Certifies (n = 100,000) are in progress
    in order    the same load on a server that finishes each request before it begins the next

Idle and loaded take turns, on one server in a process of its own. The bar: p99 of loaded is at most p99 of idle plus
the time of two batches, which is taken from the draws per second of a Certify that runs alone. Each row names every
parameter, the versions and the processor. Writes PREFIX.tsv and PREFIX.json.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from report import Row, machine, write

from certserve import bundle, zoo
from certserve.client import AsyncClient
from certserve.endpoints import models
from certserve.endpoints.models import LoadedModel
from certserve.noise.keystream import Secret
from certserve.sampling.engine import Engine, Job
from certserve.serving.config import Address, Config
from certserve.serving.server import serving

PREDICT_N = 100
CERTIFY_N = 100_000
CERTIFIES = 8
ALONE_N = 30_000
IN_ORDER_PREDICTS = 20
CONTESTANTS = ("idle", "loaded", "in order")


class InOrder(Engine):
    """An engine that finishes each job before it begins the next."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._turn = asyncio.Lock()

    async def run(self, job: Job[Any], budget: float | None = None) -> Any:
        async with self._turn:
            return await super().run(job, budget)


def _serve(path: Path, in_order: bool, pipe: Connection) -> None:
    """A server until the pipe ends; says its port, and the rows of a round of batches."""
    loaded = LoadedModel.read(path)

    async def main() -> None:
        async with serving(Config(server=Address(port=0, grace_seconds=0.5)), [loaded], Secret.fresh()) as running:
            facts = loaded.execution
            pipe.send((running.port, facts.shapes[-1] * facts.parallel, facts.name))
            await asyncio.get_running_loop().run_in_executor(None, pipe.recv)

    with patch.object(models, "Engine", InOrder) if in_order else nullcontext():
        asyncio.run(main())


@contextmanager
def server(path: Path, *, in_order: bool) -> Iterator[tuple[str, int, str]]:
    """A server in a process of its own: its address, the rows of a round of batches, the execution's name."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(path, in_order, theirs))
    process.start()
    port, rows, execution = ours.recv()
    try:
        yield f"127.0.0.1:{port}", rows, execution
    finally:
        ours.send(None)
        process.join()


class Load:
    """Questions that differ, so that none is a repeat of another."""

    def __init__(self, client: AsyncClient, shape: tuple[int, int, int]) -> None:
        self._client = client
        self._shape = shape
        self._asked = 0

    def image(self) -> npt.NDArray[np.uint8]:
        """Another image."""
        self._asked += 1
        pixels = np.arange(np.prod(self._shape), dtype=np.int64).reshape(self._shape)
        return np.asarray((pixels * (2 * self._asked + 1)) % 256, dtype=np.uint8)

    async def predict(self) -> float:
        """The seconds that a Predict takes."""
        start = time.perf_counter()
        await self._client.predict(self.image(), n=PREDICT_N)
        return time.perf_counter() - start

    async def predicts(self, count: int) -> list[float]:
        """Those of several, one after the other."""
        return [await self.predict() for _ in range(count)]

    async def certify(self, n: int) -> float:
        """The seconds that a Certify takes."""
        start = time.perf_counter()
        await self._client.certify(self.image(), n=n)
        return time.perf_counter() - start

    async def certifies(self) -> list[asyncio.Task[float]]:
        """Eight large ones, in progress."""
        tasks = [asyncio.create_task(self.certify(CERTIFY_N)) for _ in range(CERTIFIES)]
        await asyncio.sleep(0.5)
        return tasks


async def _taking_turns(address: str, shape: tuple[int, int, int], count: int, rounds: int) -> dict[str, list[Any]]:
    """Seconds of each Predict, and draws a second of a Certify alone."""
    found: dict[str, list[Any]] = {"idle": [], "loaded": [], "alone": []}
    async with AsyncClient(address) as client:
        load = Load(client, shape)
        await load.predicts(20)
        for _ in range(rounds):
            found["alone"].append(ALONE_N / await load.certify(ALONE_N))
            found["idle"].append(await load.predicts(count))
            busy = await load.certifies()
            found["loaded"].append(await load.predicts(count))
            assert not any(task.done() for task in busy)
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)
    return found


async def _in_order(address: str, shape: tuple[int, int, int]) -> list[float]:
    async with AsyncClient(address) as client:
        load = Load(client, shape)
        await load.predicts(5)
        busy = await load.certifies()
        waits = await asyncio.gather(*(load.predict() for _ in range(IN_ORDER_PREDICTS)))
        await asyncio.gather(*busy)
        return list(waits)


def _milliseconds(seconds: list[float], quantile: float) -> float:
    return round(1e3 * float(np.quantile(seconds, quantile)), 1)


def measure(path: Path, shape: tuple[int, int, int], count: int, rounds: int) -> tuple[list[Row], list[str]]:
    """A row a contestant and round, and the figures in words."""
    with server(path, in_order=False) as (address, rows, execution):
        found = asyncio.run(_taking_turns(address, shape, count, rounds))
    with server(path, in_order=True) as (address, _, _):
        found["in order"] = [asyncio.run(_in_order(address, shape))]
    facts = {"model": path.name, "execution": execution, "predict_n": PREDICT_N, "certifies": CERTIFIES}
    facts |= {"certify_n": CERTIFY_N, **machine()}
    table = []
    for name in CONTESTANTS:
        for turn, seconds in enumerate(found[name], 1):
            values = {"contestant": name, "round": turn, "predicts": len(seconds)}
            table.append(
                {**values, "p50_ms": _milliseconds(seconds, 0.5), "p99_ms": _milliseconds(seconds, 0.99), **facts}
            )
    pooled = {name: [value for seconds in found[name] for value in seconds] for name in CONTESTANTS}
    lines = [f"{k}: p50 {_milliseconds(v, 0.5)} ms, p99 {_milliseconds(v, 0.99)} ms" for k, v in pooled.items()]
    batches = 2e3 * rows / float(np.median(found["alone"]))
    ratio = _milliseconds(pooled["loaded"], 0.99) / (_milliseconds(pooled["idle"], 0.99) + batches)
    lines.append(f"two batches take {batches:.1f} ms; loaded p99 / (idle p99 + two batches) = {ratio:.2f}")
    return table, lines


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar10", help="a bundle's directory or a packaged model's name")
    parser.add_argument("--predicts", type=int, default=200, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="also write PREFIX.tsv and PREFIX.json")
    options = parser.parse_args()
    path = zoo.path_of(options.model)
    table, lines = measure(path, bundle.read(path).shape, options.predicts, options.rounds)
    write(table, lines, options.out)


if __name__ == "__main__":
    main()
