"""How fast images are robustified, what a Predict pays for it beside a server's searches, and what a request may cost.

    python benchmarks/robustify.py [--model BUNDLE] [--images N] [--predicts N] [--rounds R] [--out PREFIX]

    search      images a second and seconds an image: the search for one image at a time, with its judging and without
                its certificates, in process, torch on as many threads as it takes; then on one, as it is served
    predict     Predicts (n = 100), one after the other, on an idle server; then while two Robustifies are in progress,
                one of them searching. The figure is the ratio of their p99
    bound       the seconds that the search of the most expensive request would take, at the passes a second measured
                on one thread, and the longest time that one pass took: as long goes on a search that nobody wants

Idle and beside take turns on one server in a process of its own, whose configuration is the default. Each row is a
round, with every parameter, the versions and the processor. Writes PREFIX.tsv and PREFIX.json.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from isolation import PREDICT_N, Load, server
from report import Row, machine, spread, write

from certserve import bundle, zoo
from certserve.attacks.norms import Norm
from certserve.backends.threads import confine
from certserve.backends.torch import gradients
from certserve.bundle import Bundle
from certserve.client import AsyncClient
from certserve.defences.preemptive.eight_bit import robustify, seeded
from certserve.defences.preemptive.methods import Budget, CertMargin
from certserve.errors import CertserveError
from certserve.serving.config import RobustifyConfig

BUDGET = Budget(norm=Norm.L2, delta=0.5, epsilon=0.5)
HOW = CertMargin()
AT_ONCE = 2  # Robustifies in progress beside the Predicts
CERTIFY_N = 1000


class Watched:
    """A network that times its passes forward."""

    def __init__(self, network: Callable[[Any], Any]) -> None:
        self._network = network
        self._last = 0.0
        self.longest = 0.0

    def __call__(self, rows: Any) -> Any:
        now = time.perf_counter()
        if self._last:
            self.longest = max(self.longest, now - self._last)
        self._last = now
        return self._network(rows)

    def begin(self) -> None:
        """What went before belongs to another search."""
        self._last = 0.0


def images_of(shape: tuple[int, int, int], count: int) -> list[npt.NDArray[np.uint8]]:
    """Smooth images: a different ramp each."""
    ramps = np.linspace(0, 1, shape[1] * shape[2]).reshape(shape[1:])
    return [
        np.stack([255 * ((ramps * (2 + i) + channel / 3) % 1) for channel in range(shape[0])]).astype(np.uint8)
        for i in range(count)
    ]


def search(found: Bundle, count: int) -> Row:
    """Seconds an image, of so many, and the passes a second: on this thread."""
    network = Watched(gradients(found))
    images = images_of(found.shape, count + 1)
    seconds, passes = [], 0
    for i, image in enumerate(images):
        with torch.no_grad():
            label = network(torch.from_numpy(image[None] / np.float32(255))).argmax(1).numpy()
        network.begin()
        start = time.perf_counter()
        moved = robustify(
            network, image[None], label, budget=BUDGET, sigma=found.defaults.sigma, how=HOW, generator=seeded(i)
        )
        if i:  # the first one warms up
            seconds.append(time.perf_counter() - start)
            passes += int(moved.passes[0])
        else:
            network.longest = 0.0
    middle = statistics.median(seconds)
    return {
        "threads": torch.get_num_threads(),
        "seconds_an_image": middle,
        "images_a_second": 1 / middle,
        "passes_a_second": passes / sum(seconds),
        "longest_pass_ms": 1e3 * network.longest,
        "images": count,
    }


def on_one_thread(work: Callable[[], Row]) -> Row:
    """What the work gives on a thread of its own, confined as a server's search is; without its low priority."""

    def confined() -> Row:
        confine(1)
        return work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(confined).result()


class Movers:
    """Robustifies in progress, one after the other in each of a few tasks."""

    def __init__(self, client: AsyncClient, shape: tuple[int, int, int], drawn: int) -> None:
        self._client, self._image, self._drawn = client, images_of(shape, 1)[0], drawn
        self._searching = asyncio.Event()
        self.moved = 0
        self._tasks = [asyncio.create_task(self._move(1000 * i)) for i in range(AT_ONCE)]

    async def _move(self, first: int) -> None:
        for i in range(first, 1_000_000):
            asked: Any = {"delta": BUDGET.delta, "n": CERTIFY_N, "nonce": i.to_bytes(8, "big")}
            await self._client.robustify(self._image, **asked, on_progress=self._note)
            self.moved += 1

    def _note(self, done: int, _: int) -> None:
        if done > self._drawn:
            self._searching.set()

    async def searching(self) -> None:
        """Return once a search is in progress; raise what ended one of the tasks before."""
        begun = asyncio.create_task(self._searching.wait())
        done, _ = await asyncio.wait({begun, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def end(self) -> None:
        """Leave."""
        assert not any(task.done() for task in self._tasks)
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, CertserveError):
                await task


async def _beside(client: AsyncClient, load: Load, found: Bundle, count: int) -> tuple[list[float], int]:
    """Seconds of each Predict while images are moved, and how many were."""
    movers = Movers(client, found.shape, found.defaults.predict_n + found.defaults.n0 + CERTIFY_N)
    await movers.searching()
    seconds = await load.predicts(count)
    await movers.end()
    return seconds, movers.moved


async def predicts(address: str, found: Bundle, count: int, rounds: int) -> list[Row]:
    """A row a round: both contestants."""
    rows = []
    async with AsyncClient(address) as client:
        load = Load(client, found.shape)
        await load.predicts(20)
        for _ in range(rounds):
            idle = await load.predicts(count)
            beside, moved = await _beside(client, load, found, count)
            rows.append(
                {
                    **{f"idle_p{q}_ms": 1e3 * float(np.percentile(idle, q)) for q in (50, 99)},
                    **{f"beside_p{q}_ms": 1e3 * float(np.percentile(beside, q)) for q in (50, 99)},
                    "p99_ratio": float(np.percentile(beside, 99) / np.percentile(idle, 99)),
                    "predicts": count,
                    "moved_meanwhile": moved,
                }
            )
    return rows


def measure(path: Path, asked: Any) -> tuple[list[Row], list[str]]:
    """A row a round, and the figures in words."""
    found, config = bundle.read(path), RobustifyConfig()
    searches = [
        (search(found, asked.images), on_one_thread(lambda: search(found, asked.images))) for _ in range(asked.rounds)
    ]
    with server(path, in_order=False) as (address, _, execution):
        served = asyncio.run(predicts(address, found, asked.predicts, asked.rounds))
    facts: Row = {"model": found.name, "execution": execution, "method": repr(HOW), "delta": BUDGET.delta}
    facts |= {"predict_n": PREDICT_N, "certify_n": CERTIFY_N, "in_progress": AT_ONCE, **machine()}
    limits = {name: getattr(config, name) for name in ("at_once", "waiting", "largest_passes")}
    rows = []
    for turn, ((free, confined), predict) in enumerate(zip(searches, served, strict=True), 1):
        bound = {"largest_search_s": config.largest_passes / confined["passes_a_second"]}
        one = {f"one_thread_{name}": value for name, value in confined.items() if name not in ("threads", "images")}
        rows.append({"round": turn, **free, **one, **predict, **bound, **limits, **facts})
    return rows, summary(rows)


def summary(rows: list[Row]) -> list[str]:
    """The figures in words."""

    def of(name: str) -> str:
        return spread([row[name] for row in rows])

    first = rows[0]
    return [
        f"search, torch on {first['threads']} threads: {of('images_a_second')} images a second, "
        f"{of('seconds_an_image')} s an image (bar: 2 s on 2 cores)",
        f"on one thread, as served: {of('one_thread_images_a_second')} images a second",
        f"Predict, p99: idle {of('idle_p99_ms')} ms, beside searches {of('beside_p99_ms')} ms, ratio {of('p99_ratio')}",
        f"the most expensive search allowed ({first['largest_passes']} passes): {of('largest_search_s')} s on one "
        f"thread; {first['at_once']} at once, {first['waiting']} requests more in progress",
        f"one that nobody waits for any more ends within a pass: {of('one_thread_longest_pass_ms')} ms at most",
    ]


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar10", help="a bundle's directory or a packaged model's name")
    parser.add_argument("--images", type=int, default=10, help="in each round")
    parser.add_argument("--predicts", type=int, default=200, help="in each round, of each kind")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="also write PREFIX.tsv and PREFIX.json")
    asked = parser.parse_args()
    write(*measure(zoo.path_of(asked.model), asked), asked.out)


if __name__ == "__main__":
    main()
