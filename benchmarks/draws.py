"""How many draws each way of deciding "is the radius at least r?" takes, on a published distribution: exactly.

    python benchmarks/draws.py TABLE.csv [--radius R ...] [--votes VOTES.txt] [--out PREFIX]

TABLE.csv lists what CERTIFY with n = 100,000 at alpha = .001 found for each image (columns `predict` and `radius`).
Each printed radius is inverted to its number of votes, and that share is taken for the true probability p of the top
class; images on which it abstained are spread evenly over p in [.25, .5]. Then every figure is computed from the
binomial law, by dynamic programming where there are several looks; nothing is simulated. The class selected is taken
to be the top one.

    fixed         CERTIFY with n = 100,000
    target        `certserve.smoothing.plans.Target`
    horvath       stages of 100, 1,000, 10,000 and 120,000 fresh draws, a bound at alpha / 4 either way after each
    union bound   looks at 128 draws and every 1.3 times as many, the k-th at alpha / (k (k + 1))
    oracle        the sequential likelihood-ratio test that knows p, at the looks of target

All but Horvath's stages end at 100,000 draws. Target, union bound and oracle give up at the level .05 where p is below
the share of votes that would show the radius at a third of those, each by its own bound there (the oracle: by that of a
fixed number of draws). The 100 selection draws are included.

VOTES.txt lists the votes for all classes of each image (and its label, last). On those AnytimePredict is simulated,
twice on each image from a fixed seed, with 16 selection draws and at most 10,000 more.

Writes PREFIX.tsv and PREFIX.json.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from certserve.smoothing.bounds import clopper_pearson_lower
from certserve.smoothing.distribution import Gaussian
from certserve.smoothing.eprocess import informed_priors
from certserve.smoothing.outcomes import Abstention, Bound, Case, Origin, Prediction, Setting, Space, Votes
from certserve.smoothing.plans import AnytimePredict, Target
from certserve.smoothing.plans.target import TargetTest
from certserve.smoothing.stopping import Boundaries, StoppingLaw, TargetBoundaries, stopping_law

SIGMA = 0.25
ALPHA = 0.001
GIVE_UP = 0.05
N0 = 100
N = 100_000
STAGES = (100, 1_000, 10_000, 120_000)
N0_PREDICT = 16
N_PREDICT = 10_000

Counts = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One procedure at one radius: expected draws an image, and the share of images it certifies."""

    radius: float
    procedure: str
    mean_draws: float
    certified: float
    gave_up: float
    undecided: float


@dataclass(frozen=True)
class Population:
    """The images' true probabilities, and how many images have each."""

    shares: Reals
    images: Counts

    @classmethod
    def read(cls, table: Path) -> Population:
        """From a table of published radii."""
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        radii, images = np.unique([float(row["radius"]) for row in rows if row["predict"] != "-1"], return_counts=True)
        abstained = len(rows) - int(images.sum())
        shares = np.array([_count_of(radius) for radius in radii]) / N
        shares = np.concatenate([shares, np.linspace(0.25, 0.5, abstained)])
        return cls(shares, np.concatenate([images, np.ones(abstained, dtype=np.int64)]))

    def mean(self, values: Reals) -> float:
        """The mean over the images of what is given for each share."""
        return float(values @ self.images / self.images.sum())


def _count_of(radius: float) -> int:
    """The number of votes, of 100,000, whose radius is nearest to the printed one."""
    law = Gaussian(SIGMA)
    low, high = N // 2, N
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if law.radius(clopper_pearson_lower(middle, N, ALPHA)) < radius else (low, middle)
    return min((low, high), key=lambda k: abs(law.radius(clopper_pearson_lower(k, N, ALPHA)) - radius))


def fixed(population: Population, radius: float) -> Row:
    """CERTIFY with a fixed number of draws."""
    least = _least_votes(ALPHA, Gaussian(SIGMA).probability(radius), N)
    certified = population.mean(binom.sf(least - 1, N, population.shares))
    return Row(radius, "fixed", N0 + N, certified, 1.0 - certified, 0.0)


def _least_votes(level: float, null: float, n: int) -> int:
    """The fewest votes in n draws whose bound at that level reaches the null: P(so many or more | null) <= level."""
    return int(binom.isf(level, n, null)) + 1


def target(population: Population, radius: float) -> Row:
    """Target, averaged over all outcomes of the selection."""
    null = Gaussian(SIGMA).probability(radius)
    tests = [TargetTest(null, null, informed_priors(k, N0 - k), ALPHA, N) for k in range(N0 + 1)]
    weights = binom.pmf(np.arange(N0 + 1), N0, population.shares[:, None])
    looks = Target(radius, N0, N, ALPHA).looks
    law = stopping_law([TargetBoundaries(test) for test in tests], looks, weights, population.shares, null)
    return _row(population, radius, "target", law)


@dataclass(frozen=True)
class SpentBoundaries:
    """Binomial tests of p <= null and of p >= needed, at a level of their own at each look."""

    null: float
    needed: float
    up: dict[int, float]
    down: dict[int, float]

    def upper(self, looks: Counts) -> Counts:
        levels = [self.up[look] for look in looks.tolist()]
        return np.asarray(binom.isf(levels, looks, self.null), dtype=np.int64) + 1

    def lower(self, looks: Counts) -> Counts:
        levels = [self.down[look] for look in looks.tolist()]
        found = np.asarray(binom.ppf(levels, looks, self.needed), dtype=np.int64)
        return found - 1


def union_bound(population: Population, radius: float) -> Row:
    """A confidence sequence by a union bound over looks that grow by a factor."""
    null = Gaussian(SIGMA).probability(radius)
    looks = [128]
    while looks[-1] < N:
        looks.append(min(N, -(-int(1.3 * looks[-1]) // 128) * 128))
    up = {look: ALPHA / (k * (k + 1)) for k, look in enumerate(looks, 1)}
    down = {look: GIVE_UP / (k * (k + 1)) for k, look in enumerate(looks, 1)}
    early = max(look for look in looks if look <= N // 3)
    needed = _least_votes(up[early], null, early) / early
    law = _law(SpentBoundaries(null, needed, up, down), looks, population.shares, null)
    return _row(population, radius, "union bound", law)


def horvath(population: Population, radius: float) -> Row:
    """Stages of fresh draws, decided one after the other."""
    null = Gaussian(SIGMA).probability(radius)
    level = ALPHA / len(STAGES)
    left = np.ones_like(population.shares)
    draws, certified, gave_up = np.full_like(left, N0), np.zeros_like(left), np.zeros_like(left)
    for n in STAGES:
        draws += left * n
        above = binom.sf(binom.isf(level, n, null), n, population.shares)
        below = binom.cdf(binom.ppf(level, n, null) - 1, n, population.shares)
        certified += left * above
        gave_up += left * below
        left *= 1.0 - above - below
    means = (population.mean(values) for values in (draws, certified, gave_up, left))
    return Row(radius, "horvath", *means)


@dataclass(frozen=True)
class KnownBoundaries:
    """The likelihood-ratio tests of p <= null and of p >= needed against the one share that is true."""

    null: float
    needed: float
    share: float

    def upper(self, looks: Counts) -> Counts:
        never = looks + 1
        if self.share <= self.null:
            return never
        if self.share == 1.0:
            return np.where(-looks * np.log(self.null) >= -np.log(ALPHA), looks, never)
        return np.minimum(np.ceil(self._count(self.null, ALPHA, looks)), never).astype(np.int64)

    def lower(self, looks: Counts) -> Counts:
        if self.share >= self.needed:
            return np.full_like(looks, -1)
        return np.maximum(np.floor(self._count(self.needed, GIVE_UP, looks)), -1.0).astype(np.int64)

    def _count(self, null: float, level: float, looks: Counts) -> Reals:
        """The number of successes at which the ratio of the true likelihood to that of `null` is 1 / level."""
        miss = float(np.log((1.0 - self.share) / (1.0 - null)))
        slope = float(np.log(self.share / null)) - miss
        return np.asarray((-np.log(level) - looks * miss) / slope, dtype=np.float64)


def oracle(population: Population, radius: float) -> Row:
    """A test that knows the truth, and shows it."""
    null = Gaussian(SIGMA).probability(radius)
    looks, needed = Target(radius, N0, N, ALPHA).looks, _least_votes(ALPHA, null, N // 3) / (N // 3)
    laws = [
        _law(KnownBoundaries(null, needed, p), looks, np.array([p]), min(p, 1.0 - 1e-9))
        for p in population.shares.tolist()
    ]
    return _row(population, radius, "oracle", StoppingLaw(*map(np.concatenate, zip(*laws, strict=True))))


def _law(boundaries: Boundaries, looks: Sequence[int], shares: Reals, reference: float) -> StoppingLaw:
    return stopping_law([boundaries], looks, np.ones((len(shares), 1)), shares, reference)


def _row(population: Population, radius: float, procedure: str, law: StoppingLaw) -> Row:
    undecided = np.maximum(1.0 - law.claimed - law.given_up, 0.0)
    means = (population.mean(values) for values in (law.claimed, law.given_up, undecided))
    return Row(radius, procedure, N0 + population.mean(law.mean_draws), *means)


def anytime_predict(table: Path) -> dict[str, float]:
    """What AnytimePredict does on published votes: its draws, abstentions and wrong labels."""
    votes = np.loadtxt(table, dtype=np.int64)[:, :-1]
    random = np.random.Generator(np.random.PCG64(0))
    draws, abstained, wrong = [], 0, 0
    for row in np.concatenate([votes, votes]):
        outcome, taken = _predict(row / row.sum(), random)
        draws.append(taken)
        abstained += isinstance(outcome, Abstention)
        wrong += isinstance(outcome, Prediction) and outcome.label != int(row.argmax())
    runs = len(draws)
    return {
        "runs": runs,
        "median_draws": float(np.median(draws)),
        "mean_draws": float(np.mean(draws)),
        "abstained": abstained / runs,
        "wrong": wrong / runs,
    }


def _predict(shares: Reals, random: np.random.Generator) -> tuple[Prediction | Abstention, int]:
    plan = AnytimePredict(N0_PREDICT, N_PREDICT, ALPHA)
    setting = Setting(SIGMA, 0, 0, ALPHA, "", (), Bound.BINARY, "grid", "", 0.0)
    origin = Origin("", "", "", "", "", Space("", (), "", ""))
    decider = plan.begin(Case(setting, origin, tuple(map(str, range(len(shares))))))
    selection = Votes(tuple(random.multinomial(plan.n0, shares).tolist()))
    tally, before = np.zeros(len(shares), dtype=np.int64), 0
    for look in plan.looks:
        tally += random.multinomial(look - before, shares)
        before = look
        outcome = decider.look(selection, Votes(tuple(tally.tolist())))
        if outcome is not None:
            return outcome, plan.n0 + look
    raise AssertionError("a plan decides at its last look")


PROCEDURES: tuple[Callable[[Population, float], Row], ...] = (fixed, target, horvath, union_bound, oracle)


def rows(population: Population, radii: list[float]) -> Iterator[Row]:
    """All procedures at all radii."""
    for radius in radii:
        for procedure in PROCEDURES:
            yield procedure(population, radius)


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--radius", type=float, action="append", help="in input units; repeatable")
    parser.add_argument("--votes", type=Path, default=None, help="a table of votes for all classes")
    parser.add_argument("--out", type=Path, default=None, help="also write PREFIX.tsv and PREFIX.json")
    options = parser.parse_args()
    population = Population.read(options.table)
    found: list[Row] = []
    print(f"{'radius':>6}  {'procedure':12} {'mean draws':>12} {'certified':>10} {'gave up':>8} {'undecided':>10}")
    for row in rows(population, options.radius or [0.25, 0.5, 0.75]):
        found.append(row)
        print(
            f"{row.radius:6.2f}  {row.procedure:12} {row.mean_draws:12,.0f} {row.certified:10.4f} "
            f"{row.gave_up:8.4f} {row.undecided:10.4f}",
            flush=True,
        )
    predictions = anytime_predict(options.votes) if options.votes else {}
    print(*(f"anytime predict: {name} {value:g}" for name, value in predictions.items()), sep="\n")
    if options.out:
        _write(options.out, options.table.name, found, predictions)


def _write(prefix: Path, table: str, found: list[Row], predictions: dict[str, float]) -> None:
    documents = [asdict(row) for row in found]
    with prefix.with_name(f"{prefix.name}.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(documents[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(documents)
    settings = {"table": table, "sigma": SIGMA, "alpha": ALPHA, "n0": N0, "n": N, "stages": STAGES}
    document = json.dumps({**settings, "rows": documents, "anytime_predict": predictions}, indent=2)
    prefix.with_name(f"{prefix.name}.json").write_text(document + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
