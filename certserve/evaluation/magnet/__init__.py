"""How far a bundle's MagNet can be trusted: attacks that do not know of it, one that does, and false alarms."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from certserve.attacks.magnet import Attack, Attacked, Bounded, Nearest, Networks
from certserve.attacks.norms import Norm
from certserve.bundle import Bundle
from certserve.datasets import Dataset, DatasetError
from certserve.evaluation.magnet import kept
from certserve.evaluation.magnet.files import write
from certserve.evaluation.magnet.judge import Judge, scaled
from certserve.evaluation.magnet.lines import Line, lengths, lines_of
from certserve.evaluation.magnet.report import Adaptive, Report, Triple

__all__ = ["Question", "evaluate_magnet"]

_TRIPLES = 8
_ATTACKS = 1  # to be raised when an attack gives other images to the same question


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is measured.

    Attributes:
        images: how many are attacked: the first that the classifier answers rightly. batch: of them at once.
        linf, l2: epsilon of FGSM and PGD. pgd_steps: of PGD. kappas: of the oblivious Carlini-Wagner attacks.
        searches, steps, first: see `CarliniWagner`. adaptive: the kappa of the adaptive attack; None: there is none.

    Raises:
        ValueError: one of them is out of its range.
    """

    images: int = 200
    batch: int = 100
    linf: float = 0.1
    l2: float = 1.5
    pgd_steps: int = 40
    kappas: tuple[float, ...] = (0.0, 10.0, 20.0, 40.0)
    searches: int = 5
    steps: int = 500
    first: float = 1e-3
    adaptive: float | None = 0.0

    def __post_init__(self) -> None:
        counts = {"images": self.images, "batch": self.batch, "searches": self.searches, "steps": self.steps}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"expected {name} of 1 or more, not {count}")
        if self.pgd_steps < 2:
            raise ValueError(f"expected two steps of PGD or more, not {self.pgd_steps}: one is FGSM")
        chosen = [*self.kappas, *([] if self.adaptive is None else [self.adaptive])]
        if not self.kappas or len(set(self.kappas)) < len(self.kappas):
            raise ValueError(f"expected one or more kappas that differ, not {list(self.kappas)}")
        if not all(0.0 <= value < np.inf for value in (*chosen, self.linf, self.l2)):
            raise ValueError("expected every kappa and every epsilon to be a number, 0 or more")
        if not 0.0 < self.first < np.inf:
            raise ValueError(f"expected a positive first c, not {self.first}")

    @property
    def attacks(self) -> tuple[Attack, ...]:
        """In the order in which they are made."""
        found: list[Attack] = [
            Bounded(Norm.LINF, self.linf, 1),
            Bounded(Norm.L2, self.l2, self.pgd_steps),
            Bounded(Norm.LINF, self.linf, self.pgd_steps),
            *(Nearest(kappa, self.searches, self.steps, self.first) for kappa in self.kappas),
        ]
        if self.adaptive is not None:
            found.append(Nearest(self.adaptive, self.searches, self.steps, self.first, adaptive=True))
        return tuple(found)


def evaluate_magnet(
    bundle: Bundle,
    data: Dataset,
    question: Question,
    folder: Path,
    *,
    trust: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Attack, judge, and write `magnet.csv`, `.json`, `.png` and `.html` into the folder, anew after every attack.

    Attacked images are kept in the folder's `attacks`; an attack whose question is unchanged (its settings, the
    bundle, the images, the batch) is not made again.

    Args:
        trust: as in `certserve.backends.load`. say: told the progress, a line at a time.

    Raises:
        DatasetError: the classifier answers none of the images rightly.
        BundleError: the bundle has no MagNet, or no weights for torch.
    """
    judge = Judge(bundle, trust=trust)
    networks = Networks(bundle, judge.thresholds)
    clean = judge.clean(data)
    say(f"clean: {clean.passed} of {clean.images} right with everything on, {clean.flagged} flagged")
    chosen = np.flatnonzero(clean.right)[: question.images]
    if not len(chosen):
        raise DatasetError(f"the classifier of {bundle.path} answers none of these {len(data)} images rightly")
    images, labels = scaled(data.images[chosen]), data.labels[chosen]
    facts = {"digests": dict(bundle.digests), "images": _digest(data.images[chosen], labels), "batch": question.batch,
             "attacks": _ATTACKS}  # fmt: skip
    report = Report(bundle, asdict(question), dict(judge.classifier.backend.identity), clean, len(images), (), (), None)
    made: dict[Attack, Attacked] = {}
    for how in question.attacks:
        asked: dict[str, Any] = {"kind": type(how).__name__, **asdict(how), **facts}
        path = kept.path_of(folder / "attacks", how.name, asked)
        found = kept.load(path)
        if found is None:
            found = networks.attack(how, images, labels, batch=question.batch, done=_progress(say, how, len(images)))
            kept.save(path, found)
        made[how] = found
        lines = lines_of(how, found, images, labels, judge)
        triples = _triples(how, found, data.images[chosen], labels, judge)
        report = report.with_attack(lines, triples, _adaptive(made, images, report.lines, lines))
        write(report, folder)
        say(f"{how.name}: {lines[0].both} of {len(images)} right or flagged, {lines[0].alone} without MagNet")
    return report


def _progress(say: Callable[[str], None], how: Attack, images: int) -> Callable[[int], None]:
    return lambda done: say(f"{how.name}: {done} of {images} images attacked")


def _adaptive(
    made: dict[Attack, Attacked], images: npt.NDArray[np.float32], before: tuple[Line, ...], lines: list[Line]
) -> Adaptive | None:
    """The adaptive attack beside the oblivious one of the smallest kappa, on the images that both did."""
    *_, last = made
    if not (isinstance(last, Nearest) and last.adaptive):
        return None
    plain = min((how for how in made if isinstance(how, Nearest) and not how.adaptive), key=lambda how: how.kappa)
    both = made[plain].attained & made[last].attained
    far, near = (float(lengths(made[how].images, images)[both].mean()) if both.any() else None for how in (last, plain))
    beside = next(line for line in before if line.attack == plain.name)
    return Adaptive(lines[0].success, lines[1].success, beside.success, beside.attack, int(both.sum()), far, near)


def _triples(
    how: Attack, attacked: Attacked, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], judge: Judge
) -> list[Triple]:
    """The first images, none of them chosen."""
    first = attacked.images[:_TRIPLES]
    verdict, reformed, far = judge.judge(first), judge.reform(first), lengths(first, scaled(images[:_TRIPLES]))
    return [
        Triple(how.name, images[i], first[i], reformed[i], int(labels[i]), int(verdict.answers[i]),
               int(verdict.reformed[i]), bool(verdict.flagged[i]), float(far[i]))
        for i in range(len(first))
    ]  # fmt: skip


def _digest(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> str:
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
