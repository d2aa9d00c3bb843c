"""What every row of a benchmark says of the machine, and how its rows are written."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import certserve
from certserve.backends.processor import cores, instruction_set, processor_name
from certserve.noise import grid

__all__ = ["Row", "machine", "spread", "write"]

Row = dict[str, Any]

_PACKAGES = ("openvino", "onnxruntime-gpu", "torch", "triton", "numpy", "grpcio")


def machine() -> Row:
    """The machine and the versions of what ran on it."""
    versions = [f"{name} {_version(name)}" for name in _PACKAGES]
    return {
        "processor": processor_name(),
        "instructions": instruction_set(),
        "cores": cores(),
        "versions": " ".join([*versions, "noise", "compiled" if grid.COMPILED else "numpy"]),
        "certserve": certserve.__version__,
    }


def spread(values: Sequence[float]) -> str:
    """The median, and the smallest and largest."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def write(rows: Sequence[Row], summary: Sequence[str], prefix: Path | None) -> None:
    """Print the summary; where there is a prefix, write PREFIX.tsv and PREFIX.json."""
    print(*summary, sep="\n")
    if prefix is None:
        return
    with prefix.with_suffix(".tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    document = json.dumps({"summary": list(summary), "rows": list(rows)}, indent=2)
    prefix.with_suffix(".json").write_text(document + "\n", encoding="utf-8")


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
