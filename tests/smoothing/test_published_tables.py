"""Tables that others published: every radius and every bound is the one of an integer count.

The radius of k votes grows with k, so a printed radius can be right only if some k prints to it; a bound printed to
16 digits even names its k. A few hundred rows travel with this repository (`published/NOTICE` names their sources);
the whole tables are read from the shared data where there is any.
"""

from __future__ import annotations

import csv
import json
from bisect import bisect_left
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pytest

from certserve.smoothing.bounds import clopper_pearson_lower, clopper_pearson_upper
from certserve.smoothing.distribution import Gaussian

PUBLISHED = Path(__file__).parent / "published"
N = 100_000


class Row(NamedTuple):
    """One row of bounds: what was printed for one image."""

    image: int
    lower: float
    upper: float


@lru_cache
def lower_bounds(n: int, alpha: float) -> tuple[float, ...]:
    """The lower bound of every count."""
    return tuple(clopper_pearson_lower(k, n, alpha) for k in range(n + 1))


@lru_cache
def printable_radii(sigma: float, n: int, alpha: float) -> frozenset[float]:
    """Every radius that some count prints to, with the three digits of the tables."""
    distribution = Gaussian(sigma)
    return frozenset(float(f"{distribution.radius(p):.3}") for p in lower_bounds(n, alpha) if p > 0.5)


def certified_radii(table: Path) -> list[float]:
    """The radii of the rows that were certified."""
    with table.open(newline="") as file:
        return [float(row["radius"]) for row in csv.DictReader(file) if row["predict"] != "-1"]


def share_fitting(table: Path, sigma: float, n: int, alpha: float) -> float:
    """The share of the certified radii that are the radius of some count."""
    radii, possible = certified_radii(table), printable_radii(sigma, n, alpha)
    return sum(radius in possible for radius in radii) / len(radii)


def read_bounds(file: Path) -> tuple[int, float, list[Row]]:
    """n, the two-sided alpha, and the rows of a file of bounds."""
    lines = [line.split() for line in file.read_text(encoding="ascii").splitlines() if line]
    header = {line[1]: line[2] for line in lines if line[0] == "x"}
    rows = [Row(int(line[1]), float(line[2]), float(line[3])) for line in lines if line[0] == "o"]
    return int(header["N"]), float(header["alpha"]), rows


def assert_inverts(row: Row, n: int, alpha: float) -> None:
    """Exactly one count gives the printed lower bound, and it gives the printed upper bound as well."""
    lower = lower_bounds(n, alpha / 2)
    start = bisect_left(lower, row.lower - 1e-9)
    counts = [k for k in range(start, min(start + 3, n + 1)) if abs(lower[k] - row.lower) <= 1e-9]
    assert len(counts) == 1, row
    assert clopper_pearson_upper(counts[0], n, alpha / 2) == pytest.approx(row.upper, rel=0.0, abs=1e-9), row


def travelling_tables() -> list[Path]:
    return sorted(PUBLISHED.glob("cifar10_*.csv"))


def sigma_of(table: Path) -> float:
    return float(table.stem.rpartition("_sigma")[2])


@pytest.mark.parametrize("table", travelling_tables(), ids=lambda table: str(table.stem))
def test_every_radius_is_that_of_a_count(table: Path) -> None:
    """A bound or a radius that differs from the published one in any printed digit fails."""
    assert len(certified_radii(table)) == 75
    assert share_fitting(table, sigma_of(table), N, 0.001) == 1.0


@pytest.mark.parametrize(("n", "alpha"), [(N, 0.01), (N, 0.002), (99_000, 0.001), (50_000, 0.001)])
def test_another_alpha_or_n_does_not_fit(n: int, alpha: float) -> None:
    """A test above so weak that a wrong level or a wrong number of draws passes it fails."""
    shares = [share_fitting(table, sigma_of(table), n, alpha) for table in travelling_tables()]
    assert sum(shares) / len(shares) < 0.99


@pytest.mark.parametrize("file", sorted(PUBLISHED.glob("dsrs_*.txt")), ids=lambda file: str(file.stem))
def test_every_bound_is_that_of_a_count(file: Path) -> None:
    """A lower or an upper bound that differs from the published one by more than 1e-9 fails."""
    n, alpha, rows = read_bounds(file)
    assert len(rows) == 100
    for row in rows:
        assert_inverts(row, n, alpha)


def test_the_whole_tables(shared_data: Path) -> None:
    """A published radius, in any of the tables, that is the radius of no count fails."""
    manifest = json.loads((shared_data / "certify" / "manifest.json").read_text(encoding="utf-8"))
    for entry in manifest:
        table = shared_data / "certify" / entry["file"]
        share = share_fitting(table, entry["sigma"], entry["n"], entry["alpha_fitting"])
        assert share == 1.0, (entry["file"], share)
    assert {entry["file"] for entry in manifest} == {path.name for path in (shared_data / "certify").glob("*.csv")}


def test_the_whole_tables_tell_the_levels_apart(shared_data: Path) -> None:
    """An inversion so weak that the tables fit at another level as well (.01 for .001) fails."""
    manifest = json.loads((shared_data / "certify" / "manifest.json").read_text(encoding="utf-8"))
    full = [entry for entry in manifest if "_full_" in entry["file"]]
    shares = [share_fitting(shared_data / "certify" / e["file"], e["sigma"], e["n"], 0.01) for e in full]
    assert len(shares) == 4
    assert sum(shares) / 4 < 0.99


def test_the_whole_files_of_bounds(shared_data: Path) -> None:
    """A published bound, in any row, that is the bound of no count or of two fails."""
    files = sorted((shared_data / "bounds").glob("dsrs_*.txt"))
    assert len(files) == 2
    for file in files:
        n, alpha, rows = read_bounds(file)
        assert len(rows) == 1000
        for row in rows:
            assert_inverts(row, n, alpha)
