"""Draws per second on a CUDA device: the published algorithm, certserve, and the bare classifier; same weights.

    python benchmarks/gpu.py WEIGHTS.npz [--n N] [--rounds R] [--out PREFIX]

    eager-400, eager-1000   CERTIFY as its authors run it: float32 PyTorch with its defaults (TF32 for convolutions),
                            torch.randn, counts in Python
    art                     PyTorchRandomizedSmoothing of adversarial-robustness-toolbox, where that is installed
    in-process, served      certserve.open(bundle).certify, and the same over gRPC, in float32 (no TF32) and bfloat16
    bare-1024, -4096, ...   the classifier alone: its batches queued one after another on normalised rows that lie on
                            the device; no noise, no counting; the best of them is the limit
    noise                   noisy copies alone, likewise

The contestants take turns, every other round in reverse. Needs torch, safetensors and what the base installation needs;
where gRPC's health and reflection packages are missing, nothing is served. WEIGHTS.npz as in reference_bundle.py. Takes
a few minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from reference_bundle import LABELS, NETWORK, SIGMA, network_from
from report import Row, machine, spread, write
from throughput import EAGER_BATCHES, Contestant, art, eager, in_process, served, serving_bundle

import certserve
from certserve import bundle
from certserve.backends.architectures import save
from certserve.backends.cuda import DrawingCudaBackend, read
from certserve.bundle import Bundle, Execution
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.keystream import Secret
from certserve.sampling.source import DrawSource

PRECISIONS = ("float32", "bfloat16")
BARE_BATCHES = (1024, 4096, 8192, 16384)
NOISE_BATCH = 8192
FEWER = {"eager-400": 20, "eager-1000": 20, "art": 100}


def bundle_from(weights: Path, directory: Path) -> Bundle:
    """A bundle of the network that runs by torch alone."""
    return bundle.write(
        directory,
        {"model.safetensors": save(network_from(weights))},
        name="w32",
        labels=LABELS,
        shape=NETWORK.shape,
        sigmas=[SIGMA],
        executions=[Execution(precision, "model.safetensors", "torch", precision) for precision in PRECISIONS],
        colour="rgb",
    )


def published(make: Contestant) -> Contestant:
    """Run it with torch's own defaults, which loading a model for certserve changes."""

    def run(draws: int) -> float:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=True):
            return make(draws)

    return run


def bare(backend: DrawingCudaBackend, rows: int) -> Contestant:
    """The network alone."""
    pixels = torch.randn((rows, *backend.shape), device=backend.device).contiguous(memory_format=torch.channels_last)

    def run(draws: int) -> float:
        turns = -(-draws // rows)
        with torch.inference_mode():
            normalised = backend.network.normalised(pixels)
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(turns):
                backend.network(normalised)
            torch.cuda.synchronize()
        return turns * rows / (time.perf_counter() - start)

    return run


def noise(backend: DrawingCudaBackend) -> Contestant:
    """The noisy copies alone."""
    image = (np.arange(np.prod(backend.shape)) % 256).astype(np.uint8).reshape(backend.shape)
    source = DrawSource(Secret.fresh().key({"benchmark": "gpu"}), image, SIGMA, Arithmetic.GRID)
    batch = backend.batch(NOISE_BATCH)

    def run(draws: int) -> float:
        turns = -(-draws // NOISE_BATCH)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for turn in range(turns):
            batch.write(0, NOISE_BATCH, source, "estimation", turn * NOISE_BATCH)
        torch.cuda.synchronize()
        return turns * NOISE_BATCH / (time.perf_counter() - start)

    return run


def contestants(weights: Path, found: Bundle, stack: ExitStack) -> dict[tuple[str, str], Contestant]:
    """All of them, by (name, precision)."""
    made: dict[tuple[str, str], Contestant] = {
        (f"eager-{batch}", "float32"): published(eager(network_from(weights), found.shape, SIGMA, batch, "cuda"))
        for batch in EAGER_BATCHES
    }
    if importlib.util.find_spec("art"):
        made["art", "float32"] = published(art(network_from(weights), found.shape, SIGMA, EAGER_BATCHES[1], "gpu"))
    serves = all(importlib.util.find_spec(name) for name in ("grpc_health", "grpc_reflection"))
    loop = stack.enter_context(asyncio.Runner())
    for precision in PRECISIONS:
        backend = read(found.file("model.safetensors"), precision)
        if not isinstance(backend, DrawingCudaBackend):
            raise SystemExit("this device cannot make the noise: see the warning above")
        for rows in BARE_BATCHES:
            made[f"bare-{rows}", precision] = bare(backend, rows)
        made["noise", precision] = noise(backend)
        model = stack.enter_context(certserve.open(found.path, execution=precision))
        made["in-process", precision] = in_process(model, found)
        if serves:
            made["served", precision] = served(stack.enter_context(serving_bundle(found, precision, loop)), found, loop)
    return made


def summary(rows: list[Row]) -> list[str]:
    """The ratios of each round: their median and range."""
    rates: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        rates.setdefault((row["contestant"], row["precision"]), []).append(float(row["draws_per_second"]))
    lines = []
    for precision in PRECISIONS:
        ours = rates.get(("served", precision)) or rates["in-process", precision]
        over = {
            "published": max((rates[f"eager-{batch}", "float32"] for batch in EAGER_BATCHES), key=statistics.median),
            "art": rates.get(("art", "float32")),
            "bare": max((rates[f"bare-{each}", precision] for each in BARE_BATCHES), key=statistics.median),
        }
        parts = [f"over {name} {_ratios(ours, other)}" for name, other in over.items() if other]
        share = _ratios(over["bare"] or [], rates["noise", precision])
        lines.append(
            f"{precision}: {statistics.median(ours):.0f} draws/s; {'; '.join(parts)}; noise over classifier {share}"
        )
    return lines


def _ratios(numerators: list[float], denominators: list[float]) -> str:
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--n", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="also write PREFIX.tsv and PREFIX.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        found = bundle_from(options.weights, Path(folder) / "w32")
        made = contestants(options.weights, found, stack)
        for turn in range(options.rounds + 1):
            for (name, precision), run in made.items() if turn % 2 else reversed(made.items()):
                n = options.n // FEWER.get(name, 1 if precision == "bfloat16" else 10)
                rate = run(n)
                if turn:  # the first round warms up
                    values = {"contestant": name, "precision": precision, "round": turn}
                    facts = {"n": n, "device": torch.cuda.get_device_name(), **machine()}
                    rows.append({**values, "draws_per_second": round(rate, 1), **facts})
                    print(f"{turn:2d} {name:10s} {precision:9s} {rate:12.1f}", flush=True)
    write(rows, summary(rows), options.out)


if __name__ == "__main__":
    main()
