"""Attacked images, judged -> the lines of the table: what classifier, detectors and reformer hold of each attack.

An answer counts as in the paper: held is an image that is answered rightly, or flagged (Meng and Chen 2017, section
5.1). Every line stands twice: of the attacked images as float32, and rounded to the 8 bits that a client sends.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from certserve.attacks.magnet import Attack, Attacked, Bounded, Nearest
from certserve.attacks.norms import Norm
from certserve.evaluation.magnet.judge import Judge
from certserve.smoothing.bounds import clopper_pearson_lower, clopper_pearson_upper

__all__ = ["BITS", "COLUMNS", "FLOAT", "Line", "lengths", "lines_of", "rounded", "write_lines"]

FLOAT, BITS = "float32", "8-bit"
COLUMNS = (
    "attack", "adaptive", "norm", "epsilon", "kappa", "pixels", "images", "attained", "undefended_success", "mean_l2",
    "no_defence", "detector_only", "reformer_only", "both", "both_low", "both_high",
    "both_of_attained", "seconds",
)  # fmt: skip

_LEVEL = 0.05
_LEVELS = np.float32(255)

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Line:
    """One attack's images, as float32 or in 8 bits; counts of `images`, all of which were answered rightly before.

    Attributes:
        norm, epsilon, kappa: of the attack; None for one without. pixels: `FLOAT` or `BITS`.
        attained: attacked to the attack's own satisfaction, as float32.
        mean_l2: of those; None where there are none. alone: right without MagNet. detector: right or flagged.
        reformer: right after the reformer. both: right after it, or flagged.
        both_attained: the same, of those attained. seconds: of the attack.
    """

    attack: str
    adaptive: bool
    norm: str
    epsilon: float | None
    kappa: float | None
    pixels: str
    images: int
    attained: int
    mean_l2: float | None
    alone: int
    detector: int
    reformer: int
    both: int
    both_attained: int
    seconds: float

    @property
    def success(self) -> float:
        """The share of the images that get past detectors and reformer with a wrong answer."""
        return 1 - self.both / self.images

    @property
    def undefended_success(self) -> float:
        """The share that gets a wrong answer from the classifier alone."""
        return 1 - self.alone / self.images

    @property
    def shares(self) -> tuple[float, float, float, float]:
        """Right alone; right or flagged; right after the reformer; right after it or flagged."""
        alone, detector, reformer, both = (
            count / self.images for count in (self.alone, self.detector, self.reformer, self.both)
        )
        return alone, detector, reformer, both

    @property
    def both_of_attained(self) -> float | None:
        """The share `both` of the images that the attack attained: the others it left as they were."""
        return self.both_attained / self.attained if self.attained else None

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper and Pearson's of 95 % for the share `both`, were the images drawn independently."""
        k, n = self.both, self.images
        return clopper_pearson_lower(k, n, _LEVEL / 2), clopper_pearson_upper(k, n, _LEVEL / 2)


def lines_of(
    how: Attack, attacked: Attacked, images: Pixels, labels: npt.NDArray[np.int64], judge: Judge
) -> list[Line]:
    """The attack's two lines: its images as they are, and rounded to 8 bits."""
    found = []
    for pixels in (FLOAT, BITS):
        changed = rounded(attacked.images) if pixels == BITS else attacked.images
        verdict = judge.judge(changed)
        right, after = verdict.answers == labels, verdict.reformed == labels
        held = after | verdict.flagged
        far = lengths(changed, images)[attacked.attained]
        found.append(
            Line(
                attack=how.name,
                adaptive=isinstance(how, Nearest) and how.adaptive,
                norm=how.norm.value if isinstance(how, Bounded) else Norm.L2.value,
                epsilon=how.epsilon if isinstance(how, Bounded) else None,
                kappa=how.kappa if isinstance(how, Nearest) else None,
                pixels=pixels,
                images=len(images),
                attained=int(attacked.attained.sum()),
                mean_l2=float(far.mean()) if len(far) else None,
                alone=int(right.sum()),
                detector=int((right | verdict.flagged).sum()),
                reformer=int(after.sum()),
                both=int(held.sum()),
                both_attained=int(held[attacked.attained].sum()),
                seconds=attacked.seconds,
            )
        )
    return found


def rounded(pixels: Pixels) -> Pixels:
    """The nearest images of 8 bits."""
    found: Pixels = np.rint(pixels * _LEVELS).astype(np.float32) / _LEVELS
    return found


def lengths(changed: Pixels, images: Pixels) -> npt.NDArray[np.float64]:
    """Each change's L2 norm, (rows,)."""
    difference = (changed.astype(np.float64) - images).reshape(len(images), -1)
    found: npt.NDArray[np.float64] = np.sqrt((difference**2).sum(axis=1))
    return found


def write_lines(lines: Sequence[Line], path: Path) -> None:
    """Write the table as CSV, with `COLUMNS`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for line in lines:
            shares = [f"{share:.4f}" for share in (*line.shares, *line.interval)]
            mean, kept = ("" if value is None else f"{value:.4f}" for value in (line.mean_l2, line.both_of_attained))
            epsilon, kappa = ("" if value is None else f"{value:g}" for value in (line.epsilon, line.kappa))
            told = [line.attack, int(line.adaptive), line.norm, epsilon, kappa, line.pixels, line.images, line.attained]
            rows.writerow([*told, f"{line.undefended_success:.4f}", mean, *shares, kept, f"{line.seconds:.0f}"])
