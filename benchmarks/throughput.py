"""Draws per second of the published algorithm, of certserve, and of the bare classifier: same weights, one run.

    python benchmarks/throughput.py [--model BUNDLE] [--n N] [--rounds R] [--only NAME ...] [--out PREFIX]

    eager-400, eager-1000   CERTIFY as its authors run it: float32 PyTorch, torch.randn, counts in Python
    art                     PyTorchRandomizedSmoothing of adversarial-robustness-toolbox, where that is installed
    in-process              certserve.open(bundle).certify, in each execution of the bundle
    served                  the same over gRPC
    bare-64, -128, -256     the execution's classifier alone, in batches of so many rows on all cores: no noise, no
                            counting; the best of them is the limit
    product                 how fast OpenVINO multiplies large matrices at that precision, as draws of this network:
                            what the processor can do

The contestants take turns, every other round in reverse, so that a machine whose speed drifts slows all of them; the
figures to quote are the ratios of one round. Each row names every parameter, the versions and the processor. Writes
PREFIX.tsv and PREFIX.json.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from arithmetic import multiplications, products_per_second
from report import Row, machine, spread, write

import certserve
from certserve import backends, bundle, zoo
from certserve.backends import LoadedExecution
from certserve.backends.probes import probe_pixels
from certserve.bundle import Bundle
from certserve.client import AsyncClient
from certserve.endpoints.models import LoadedModel
from certserve.noise.keystream import Secret
from certserve.serving.config import Address, Config
from certserve.serving.server import serving

EAGER_BATCHES = (400, 1000)
BARE_BATCHES = (64, 128, 256)
NAMES = (
    *(f"eager-{batch}" for batch in EAGER_BATCHES),
    "art",
    "in-process",
    "served",
    *(f"bare-{batch}" for batch in BARE_BATCHES),
    "product",
)
CLIENTS = 2

Contestant = Callable[[int], float]
"""Takes about so many draws; gives draws per second."""


def eager(network: Any, shape: tuple[int, int, int], sigma: float, batch: int, device: str = "cpu") -> Contestant:
    """CERTIFY's sampling as published (Cohen et al. 2019), in PyTorch without further ado."""
    import torch

    image = torch.from_numpy(probe_pixels(shape, 1, sigma)[0]).to(device)
    network = network.to(device)

    def run(draws: int) -> float:
        counts = np.zeros(network.description.classes, dtype=int)
        start = time.perf_counter()
        left = draws
        with torch.no_grad():
            while left > 0:
                rows = image.repeat((min(batch, left), 1, 1, 1))
                labels = network(rows + torch.randn_like(rows) * sigma).argmax(1)
                for label in labels.cpu().numpy():
                    counts[label] += 1
                left -= len(rows)
        return draws / (time.perf_counter() - start)

    return run


def art(network: Any, shape: tuple[int, int, int], sigma: float, batch: int, device: str = "cpu") -> Contestant:
    """The toolbox's certify; `device` is "cpu" or "gpu"."""
    import torch
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    classifier = PyTorchRandomizedSmoothing(
        model=network,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=network.description.classes,
        clip_values=None,
        device_type=device,
        sample_size=100,
        scale=sigma,
        alpha=0.001,
    )
    image = np.clip(probe_pixels(shape, 1, sigma), 0, 1)

    def run(draws: int) -> float:
        start = time.perf_counter()
        classifier.certify(image, n=draws, batch_size=batch)
        return (draws + 100) / (time.perf_counter() - start)

    return run


def bare(execution: LoadedExecution, sigma: float, rows: int) -> Contestant:
    """The classifier alone, on as many threads as it runs batches at once."""
    parallel = execution.facts.parallel
    batch = np.ascontiguousarray(probe_pixels(execution.backend.shape, rows, sigma))

    def run(draws: int) -> float:
        turns = iter(range(max(parallel, draws // rows)))

        def work() -> None:
            for _ in turns:
                execution.backend.logits(batch).argmax(axis=1)

        start = time.perf_counter()
        threads = [threading.Thread(target=work) for _ in range(parallel)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return max(parallel, draws // rows) * rows / (time.perf_counter() - start)

    return run


def product(found: Bundle, execution: bundle.Execution) -> Contestant:
    """What the processor can do, in draws of this network."""
    file = next(e.file for e in found.executions if e.runtime == "openvino" and e.precision == "float32")
    each = multiplications(found.file(file), found.shape)
    return lambda _: products_per_second(execution.precision) / each


def _image(shape: tuple[int, int, int], number: int) -> npt.NDArray[np.uint8]:
    pixels = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    return np.asarray((pixels * (7 + number) + number) % 256, dtype=np.uint8)


def in_process(model: Any, found: Bundle) -> Contestant:
    """certserve.open: two images at once, so that the end of one does not leave the device idle."""
    from concurrent.futures import ThreadPoolExecutor

    turns = iter(range(1_000_000))

    def run(draws: int) -> float:
        images = [_image(found.shape, next(turns)) for _ in range(CLIENTS)]
        start = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda image: model.certify(image, n=draws // CLIENTS), images))
        return (draws + CLIENTS * found.defaults.n0) / (time.perf_counter() - start)

    return run


def served(address: str, found: Bundle, loop: asyncio.Runner) -> Contestant:
    """The same over gRPC."""
    turns = iter(range(1_000_000, 2_000_000))

    async def ask(draws: int) -> float:
        images = [_image(found.shape, next(turns)) for _ in range(CLIENTS)]
        async with AsyncClient(address) as client:
            start = time.perf_counter()
            await asyncio.gather(*(client.certify(image, n=draws // CLIENTS) for image in images))
            return (draws + CLIENTS * found.defaults.n0) / (time.perf_counter() - start)

    return lambda draws: loop.run(ask(draws))


@contextmanager
def serving_bundle(found: Bundle, execution: str, loop: asyncio.Runner) -> Iterator[str]:
    """The address of a server of the bundle, on the loop that the client uses too."""
    context = serving(Config(server=Address(port=0, grace_seconds=1.0)), [_loaded(found, execution)], Secret.fresh())
    running = loop.run(context.__aenter__())
    try:
        yield f"127.0.0.1:{running.port}"
    finally:
        loop.run(context.__aexit__(None, None, None))


def _loaded(found: Bundle, execution: str) -> LoadedModel:
    return LoadedModel.read(found.path, execution=execution)


def contestants(found: Bundle, executions: list[str], stack: ExitStack) -> dict[tuple[str, str], Contestant]:
    """All of them, by (name, execution)."""
    sigma = found.defaults.sigma
    made: dict[tuple[str, str], Contestant] = {}
    for execution in found.executions:
        if execution.runtime == "torch" and execution.precision == "float32":
            from certserve.backends.architectures import load

            network = load(found.file(execution.file))
            for batch in EAGER_BATCHES:
                made[(f"eager-{batch}", "float32")] = eager(network, found.shape, sigma, batch)
            if importlib.util.find_spec("art"):
                made[("art", "float32")] = art(network, found.shape, sigma, EAGER_BATCHES[0])
    loop = stack.enter_context(asyncio.Runner())
    for name in executions:
        loaded = backends.load(found, found.execution(name))
        for rows in BARE_BATCHES:
            made[(f"bare-{rows}", name)] = bare(loaded, sigma, rows)
        made[("product", name)] = product(found, found.execution(name))
        model = stack.enter_context(certserve.open(found.path, execution=name))
        made[("in-process", name)] = in_process(model, found)
        address = stack.enter_context(serving_bundle(found, name, loop))
        made[("served", name)] = served(address, found, loop)
    return made


def measure(found: Bundle, executions: list[str], n: int, rounds: int, only: list[str] | None = None) -> list[Row]:
    """A row a contestant and round; `only` some of them, by name."""
    facts = {"model": found.name, "n": n, "clients": CLIENTS, **machine()}
    rows = []
    with ExitStack() as stack:
        made = contestants(found, executions, stack)
        for turn in range(rounds + 1):
            order = [(known, run) for known, run in made.items() if not only or known[0] in only]
            for (name, execution), run in order if turn % 2 else reversed(order):
                slow = name.startswith("eager") or name == "art"
                rate = run(max(1000, n // 5) if slow else n)
                if turn:  # the first round warms up
                    values = {"contestant": name, "execution": execution, "round": turn}
                    rows.append({**values, "draws_per_second": round(rate, 1), **facts})
                    print(f"{turn:2d} {name:10s} {execution:12s} {rate:10.1f}", flush=True)
    return rows


def summary(rows: list[Row]) -> list[str]:
    """The ratios of each round: their median and range, of the contestants that there are."""
    rates: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        rates.setdefault((row["contestant"], row["execution"]), []).append(float(row["draws_per_second"]))
    published = _best(rates, [(f"eager-{batch}", "float32") for batch in EAGER_BATCHES])
    lines = []
    for execution in dict.fromkeys(row["execution"] for row in rows):
        of = {name: found for (name, known), found in rates.items() if known == execution}
        bare_rates = _best(rates, [(f"bare-{batch}", execution) for batch in BARE_BATCHES])
        served_rates = of.get("served")
        ratios = {
            "served/published": (served_rates, published),
            "served/art": (served_rates, rates.get(("art", "float32"))),
            "served/bare": (served_rates, bare_rates),
            "in-process/bare": (of.get("in-process"), bare_rates),
            "bare/product": (bare_rates, of.get("product")),
        }
        parts = [f"{name} {_ratios(one, other)}" for name, (one, other) in ratios.items() if one and other]
        if served_rates:
            parts.insert(0, f"{statistics.median(served_rates):.0f} draws/s served")
        if parts:
            lines.append(f"{execution}: {'; '.join(parts)}")
    return lines


def _best(rates: dict[tuple[str, str], list[float]], names: list[tuple[str, str]]) -> list[float] | None:
    """The rates of the contestant with the best median."""
    return max((rates[name] for name in names if name in rates), key=statistics.median, default=None)


def _ratios(numerators: list[float], denominators: list[float]) -> str:
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="a bundle's directory or a packaged model's name")
    parser.add_argument("--execution", action="append", help="default: each that OpenVINO runs; repeatable")
    parser.add_argument("--only", action="append", choices=NAMES, help="only this contestant; repeatable")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="also write PREFIX.tsv and PREFIX.json")
    options = parser.parse_args()
    found = bundle.read(zoo.path_of(options.model))
    executions = options.execution or [e.name for e in found.executions if e.runtime == "openvino"]
    rows = measure(found, executions, options.n, options.rounds, options.only)
    write(rows, summary(rows), options.out)


if __name__ == "__main__":
    main()
