"""Draws per second of the published algorithm, of certserve, and of the bare classifier: same weights, one run.

    python benchmarks/throughput.py [--model BUNDLE] [--n N] [--rounds R] [--out PREFIX]

    eager-400, eager-1000   CERTIFY as its authors run it: float32 PyTorch, torch.randn, counts in Python
    art                     PyTorchRandomizedSmoothing of adversarial-robustness-toolbox, where that is installed
    in-process              certserve.open(bundle).certify, in each execution of the bundle
    served                  the same over gRPC
    bare                    the execution's classifier alone at its largest batch: no noise, no counting; the limit

The contestants take turns, so that a machine whose speed drifts slows all of them; the figures to quote are the ratios
of one round. Each row names every parameter, the versions and the processor. Writes PREFIX.tsv and PREFIX.json.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import importlib.metadata
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import certserve
from certserve import backends, bundle, zoo
from certserve.backends import LoadedExecution
from certserve.backends.probes import probe_pixels
from certserve.backends.processor import cores, instruction_set, processor_name
from certserve.bundle import Bundle
from certserve.client import AsyncClient
from certserve.endpoints.models import LoadedModel
from certserve.noise.keystream import Secret
from certserve.serving.config import Address, Config
from certserve.serving.server import serving

EAGER_BATCHES = (400, 1000)
CLIENTS = 2

Contestant = Callable[[int], float]
"""Takes about so many draws; gives draws per second."""


def eager(network: Any, shape: tuple[int, int, int], sigma: float, batch: int) -> Contestant:
    """CERTIFY's sampling as published (Cohen et al. 2019), in PyTorch without further ado."""
    import torch

    image = torch.from_numpy(probe_pixels(shape, 1, sigma)[0])

    def run(draws: int) -> float:
        counts = np.zeros(network.description.classes, dtype=int)
        start = time.perf_counter()
        left = draws
        with torch.no_grad():
            while left > 0:
                rows = image.repeat((min(batch, left), 1, 1, 1))
                labels = network(rows + torch.randn_like(rows) * sigma).argmax(1)
                for label in labels.numpy():
                    counts[label] += 1
                left -= len(rows)
        return draws / (time.perf_counter() - start)

    return run


def art(network: Any, shape: tuple[int, int, int], sigma: float, batch: int) -> Contestant:
    """The toolbox's certify, at the better batch size of the two."""
    import torch
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    classifier = PyTorchRandomizedSmoothing(
        model=network,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=network.description.classes,
        clip_values=None,
        device_type="cpu",
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


def bare(execution: LoadedExecution, sigma: float) -> Contestant:
    """The classifier alone, at its largest batch."""
    rows = execution.shapes[-1]
    batch = np.ascontiguousarray(probe_pixels(execution.backend.shape, rows, sigma))

    def run(draws: int) -> float:
        execution.backend.logits(batch)
        runs = max(1, draws // rows)
        start = time.perf_counter()
        for _ in range(runs):
            execution.backend.logits(batch).argmax(axis=1)
        return runs * rows / (time.perf_counter() - start)

    return run


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
def _server(found: Bundle, execution: str, loop: asyncio.Runner) -> Iterator[str]:
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
        made[("bare", name)] = bare(backends.load(found, found.execution(name)), sigma)
        model = stack.enter_context(certserve.open(found.path, execution=name))
        made[("in-process", name)] = in_process(model, found)
        address = stack.enter_context(_server(found, name, loop))
        made[("served", name)] = served(address, found, loop)
    return made


def measure(found: Bundle, executions: list[str], n: int, rounds: int) -> list[dict[str, Any]]:
    """A row a contestant and round."""
    facts = {
        "model": found.name,
        "n": n,
        "clients": CLIENTS,
        "processor": processor_name(),
        "instructions": instruction_set(),
        "cores": cores(),
        "versions": " ".join(f"{name} {_version(name)}" for name in ("openvino", "onnxruntime-gpu", "torch", "numpy")),
        "certserve": certserve.__version__,
    }
    rows = []
    with ExitStack() as stack:
        made = contestants(found, executions, stack)
        for turn in range(rounds + 1):
            for (name, execution), run in made.items():
                slow = name.startswith("eager") or name == "art"
                rate = run(max(1000, n // 5) if slow else n)
                if turn:  # the first round warms up
                    values = {"contestant": name, "execution": execution, "round": turn}
                    rows.append({**values, "draws_per_second": round(rate, 1), **facts})
    return rows


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """The ratios of each round: their median and range."""
    rates = {(row["contestant"], row["execution"], row["round"]): float(row["draws_per_second"]) for row in rows}
    rounds = sorted({row["round"] for row in rows})
    lines = []
    eager_names = [f"eager-{batch}" for batch in EAGER_BATCHES if (f"eager-{batch}", "float32", rounds[0]) in rates]
    for execution in dict.fromkeys(row["execution"] for row in rows if row["contestant"] == "served"):
        over = [rates["served", execution, k] / rates["bare", execution, k] for k in rounds]
        rate = statistics.median(rates["served", execution, k] for k in rounds)
        line = f"{execution}: {rate:.0f} draws/s served; served/bare {_spread(over)}"
        if eager_names:
            best = [max(rates[name, "float32", k] for name in eager_names) for k in rounds]
            times = [rates["served", execution, k] / best[i] for i, k in enumerate(rounds)]
            line += f"; served/eager {_spread(times)}"
        if ("art", "float32", rounds[0]) in rates:
            times = [rates["served", execution, k] / rates["art", "float32", k] for k in rounds]
            line += f"; served/art {_spread(times)}"
        lines.append(line)
    return lines


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3g} ({min(ratios):.3g} to {max(ratios):.3g})"


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="a bundle's directory or a packaged model's name")
    parser.add_argument("--execution", action="append", help="default: each that OpenVINO runs; repeatable")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="also write PREFIX.tsv and PREFIX.json")
    options = parser.parse_args()
    found = bundle.read(zoo.path_of(options.model))
    executions = options.execution or [e.name for e in found.executions if e.runtime == "openvino"]
    rows = measure(found, executions, options.n, options.rounds)
    for row in rows:
        print(f"{row['round']:2d} {row['contestant']:10s} {row['execution']:16s} {row['draws_per_second']:10.1f}")
    lines = summary(rows)
    print(*lines, sep="\n")
    if options.out:
        with options.out.with_suffix(".tsv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        document = json.dumps({"summary": lines, "rows": rows}, indent=2)
        options.out.with_suffix(".json").write_text(document + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
