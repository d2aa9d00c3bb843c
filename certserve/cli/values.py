"""What the text of an option means."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import click

from certserve.defences.preemptive.methods import Qualities

__all__ = ["read_labels", "read_numbers", "read_qualities", "read_shape"]


def read_labels(text: str) -> list[str]:
    """Class names in order: a text file with one a line, a CSV file with a column `name`, or a,b,c."""
    if not os.path.isfile(text):  # Path.is_file raises where a long list is no possible file name
        if "," not in text:
            raise click.BadParameter(f"{text!r} is neither a file nor a,b,c", param_hint="--labels")
        return [name.strip() for name in text.split(",")]
    path = Path(text)
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if path.suffix.lower() != ".csv":
        return [line.strip() for line in lines if line.strip()]
    rows = list(csv.DictReader(lines))
    for column in ("name", "label"):
        if rows and all(row.get(column) for row in rows):
            return [row[column].strip() for row in rows]
    raise ValueError(f"{path}: expected a column `name` with the classes in order")


def read_numbers(option: str, text: str | None) -> list[float] | None:
    """Numbers separated by commas."""
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"expected numbers separated by commas, not {text!r}", param_hint=option) from None


def read_qualities(text: str | None) -> Qualities | None:
    """JPEG qualities, LOWEST-HIGHEST.

    Raises:
        ValueError: they are out of their range.
    """
    if text is None:
        return None
    lowest, _, highest = text.partition("-")
    if not (lowest.isdecimal() and highest.isdecimal()):
        raise click.BadParameter(f"expected LOWEST-HIGHEST, as 75-95, not {text!r}", param_hint="--jpeg")
    return Qualities(int(lowest), int(highest))


def read_shape(text: str | None) -> tuple[int, int, int] | None:
    """An input's channels,height,width."""
    if text is None:
        return None
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.strip().isdigit() for number in numbers):
        raise click.BadParameter(f"expected channels,height,width, not {text!r}", param_hint="--shape")
    channels, height, width = (int(number) for number in numbers)
    return channels, height, width
