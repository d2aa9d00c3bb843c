"""Draws per second on a CUDA device: the published algorithm, certserve, and the bare classifier; same weights.

    python benchmarks/gpu.py WEIGHTS.npz [--n N] [--rounds R] [--out PREFIX] [--device cpu]

The contestants are those of throughput.py, with torch on the device: eager-400 and eager-1000 in float32, and bare,
in-process and served in float32 and bfloat16. Needs torch, safetensors and what the base installation needs; where
gRPC's health and reflection packages are missing, nothing is served. WEIGHTS.npz as in reference_bundle.py. Takes under
8 minutes. `--device cpu` tries it out where there is no CUDA device.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch
from reference_bundle import LABELS, NETWORK, SIGMA, network_from
from report import Row, machine, spread, write
from throughput import EAGER_BATCHES, Contestant, bare, eager, in_process, served, serving_bundle

import certserve
from certserve import backends, bundle
from certserve.backends.architectures import save
from certserve.bundle import Bundle, Execution

PRECISIONS = ("float32", "bfloat16")
BARE_BATCHES = (256, 1024, 4096)


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


def contestants(weights: Path, found: Bundle, device: str, stack: ExitStack) -> dict[tuple[str, str], Contestant]:
    """All of them, by (name, precision)."""
    network = network_from(weights)
    made: dict[tuple[str, str], Contestant] = {
        (f"eager-{batch}", "float32"): eager(network, found.shape, SIGMA, batch, device) for batch in EAGER_BATCHES
    }
    serves = all(importlib.util.find_spec(name) for name in ("grpc_health", "grpc_reflection"))
    loop = stack.enter_context(asyncio.Runner())
    for precision in PRECISIONS:
        loaded = backends.load(found, found.execution(precision))
        for rows in BARE_BATCHES:
            made[(f"bare-{rows}", precision)] = bare(loaded, SIGMA, rows)
        model = stack.enter_context(certserve.open(found.path, execution=precision))
        made[("in-process", precision)] = in_process(model, found)
        if serves:
            made[("served", precision)] = served(
                stack.enter_context(serving_bundle(found, precision, loop)), found, loop
            )
    return made


def summary(rows: list[Row]) -> list[str]:
    """The ratios of each round: their median and range."""
    rates: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        rates.setdefault((row["contestant"], row["precision"]), []).append(float(row["draws_per_second"]))
    published = max((rates[f"eager-{batch}", "float32"] for batch in EAGER_BATCHES), key=statistics.median)
    lines = []
    for precision in PRECISIONS:
        ours = rates.get(("served", precision)) or rates["in-process", precision]
        limit = max((rates[f"bare-{rows}", precision] for rows in BARE_BATCHES), key=statistics.median)
        over = {"published": published, "bare": limit}
        ratios = "; ".join(f"over {k} {spread([a / b for a, b in zip(ours, v, strict=True)])}" for k, v in over.items())
        lines.append(f"{precision}: {statistics.median(ours):.0f} draws/s; {ratios}")
    return lines


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, default=None, help="also write PREFIX.tsv and PREFIX.json")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device; --device cpu tries this benchmark out")
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        found = bundle_from(options.weights, Path(folder) / "w32")
        made = contestants(options.weights, found, options.device, stack)
        for turn in range(options.rounds + 1):
            for (name, precision), run in made.items():
                rate = run(options.n)
                if turn:  # the first round warms up
                    values = {"contestant": name, "precision": precision, "round": turn, "device": device}
                    rows.append({**values, "draws_per_second": round(rate, 1), "n": options.n, **machine()})
    write(rows, summary(rows), options.out)


if __name__ == "__main__":
    main()
