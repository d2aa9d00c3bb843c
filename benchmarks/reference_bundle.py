"""A bundle of the network that the throughput figures are stated for: a ResNet of 0.7 M weights from an .npz file.

    python benchmarks/reference_bundle.py WEIGHTS.npz DATA OUTPUT

WEIGHTS.npz holds `c.weight`, `b.*` (stem), `L.<i>.c1/b1/c2/b2/sc` (six blocks) and `f.*` (head); DATA is CIFAR-10's
training set, as `certserve train classifier --data` takes it, for the calibration of the int8 executions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from certserve import datasets
from certserve.backends.architectures import Residual, ResidualNetwork, Stage
from certserve.training.bundle import make_bundle
from certserve.training.quantisation import add_int8

NETWORK = Residual(
    shape=(3, 32, 32),
    classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.247, 0.243, 0.262),
    stride=1,
    stages=(Stage(32, 2), Stage(64, 2), Stage(128, 2)),
)
SIGMA = 0.25
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def network_from(weights: Path) -> ResidualNetwork:
    """The network with the weights in the file, in evaluation mode."""
    with np.load(weights, allow_pickle=False) as arrays:
        values = {_name(name): torch.from_numpy(arrays[name]) for name in arrays.files}
    network = ResidualNetwork(NETWORK)
    missing, unexpected = network.load_state_dict(values, strict=False)
    left = [name for name in missing if not name.endswith("num_batches_tracked")]
    if left or unexpected:
        raise SystemExit(f"{weights}: not the weights of this network: {left} missing, {unexpected} unknown")
    return network.eval()


def _name(theirs: str) -> str:
    """The tensor's name in `ResidualNetwork`."""
    parts = theirs.split(".")
    if parts[0] == "f":
        return f"head.{parts[1]}"
    kind = {"c": "conv", "b": "norm"}
    if parts[0] in kind:
        return f"stem.{kind[parts[0]]}.{parts[1]}"
    block = f"blocks.{parts[1]}"
    if parts[2] == "sc":
        return f"{block}.shortcut.{('conv', 'norm')[int(parts[3])]}.{parts[4]}"
    which = {"1": "first", "2": "second"}[parts[2][1]]
    return f"{block}.{which}.{kind[parts[2][0]]}.{parts[3]}"


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    network = network_from(options.weights)
    made = make_bundle(network, options.output, name="w32", labels=LABELS, sigma=SIGMA, colour="rgb")
    for name, comparison in add_int8(made.path, datasets.read([options.data], split="train")).items():
        print(name, comparison)


if __name__ == "__main__":
    main()
