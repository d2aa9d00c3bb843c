"""What moving images beforehand is worth: certified and attacked accuracy before and after, and what is left of it.

What is measured is the model that serves; gradients alone come from its weights for torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from certserve.bundle import Bundle
from certserve.datasets import Dataset
from certserve.endpoints.local import LocalModel
from certserve.evaluation.in_order import in_order
from certserve.evaluation.preempt.figures import figures_of
from certserve.evaluation.preempt.files import write
from certserve.evaluation.preempt.question import Question
from certserve.evaluation.preempt.reader import Facts
from certserve.evaluation.preempt.report import Report
from certserve.evaluation.preempt.rows import Row, Rows, check_record
from certserve.evaluation.preempt.stages import DEFAULT, Stages
from certserve.evaluation.tables import TableError
from certserve.images import pixel_digest

__all__ = ["Question", "evaluate_preempt"]

_ASKING, _SEARCHING = 3, 2  # images in progress: draws share batches; passes of one image run beside another's draws
_SECONDS = 30.0  # between two lines of progress, and between two reports
_NOT_RECORDED = ("qualities", "radii", "aware", "compare_every", "ensemble")  # rows of other stages, or none
_OTHERS = ("ten-times", "bilevel")


@dataclass(frozen=True, slots=True)
class _Stage:
    """A row an image: how, how many at once, and for every how many images."""

    name: str
    make: Callable[[Stages, int], Row]
    together: int = _ASKING
    every: int = 1


def evaluate_preempt(
    model: LocalModel,
    bundle: Bundle,
    data: Dataset,
    question: Question,
    folder: Path,
    *,
    only_report: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Make the rows that are missing; write `preempt.csv`, `.json`, `.png` and `.html` on the way and at the end.

    The folder keeps every row as soon as it is made (`rows/`) and the moved images (`images/`). A run that was
    stopped goes on, with more images of the same data too; the files at the end are those of a run that was not.

    Args:
        model: the bundle, open. only_report: make no rows.
        say: told the progress, a line at a time.

    Raises:
        TableError: the folder's rows were begun with another question, model or execution, or of other images.
        BundleError: the bundle has no weights for torch. CertserveError: as `LocalModel.certify`.
    """
    check_record(folder / "question.json", _record(model, bundle, question))
    plan = _plan(question)
    rows = {stage.name: Rows(folder / "rows" / f"{stage.name}.jsonl") for stage in plan}
    _check_images(rows["clean"], data, folder)
    stages = Stages(model, bundle, data, question, folder, rows)
    defaults = bundle.defaults
    facts = Facts(question.sigma or defaults.sigma, question.n or defaults.n, question.alpha or defaults.alpha)
    report = Report(bundle, question, facts, model.get_model().execution, figures_of(rows, [], question, facts))
    idx, written = data.idx.tolist(), -math.inf
    for stage in plan:
        made = not only_report and _make(stage, stages, rows[stage.name], idx, say)
        if stage is plan[-1] or (made and time.monotonic() - written >= _SECONDS):
            report, written = report.with_figures(figures_of(rows, idx, question, facts)), time.monotonic()
            write(report, rows, data, stages, folder)
    return report


def _plan(question: Question) -> tuple[_Stage, ...]:
    """In the order in which they are made: what others need first, what takes longest last."""
    found = [
        _Stage("clean", Stages.clean),
        _Stage("robustified-default", partial(Stages.moved, search=DEFAULT), _SEARCHING),
        _Stage("after", partial(Stages.after, search=DEFAULT)),
        _Stage("certified-before", Stages.certified_before),
        _Stage("certified-default", partial(Stages.certified, search=DEFAULT)),
        _Stage("pgd-before", partial(Stages.attacked, robustified=False), _SEARCHING),
        _Stage("pgd-after", partial(Stages.attacked, robustified=True), _SEARCHING),
    ]
    found.append(_Stage("unrounded", Stages.unrounded))
    for name in _OTHERS if question.compare_every else ():
        every = question.compare_every
        found.append(_Stage(f"robustified-{name}", partial(Stages.moved, search=name), _SEARCHING, every))
        found.append(_Stage(f"certified-{name}", partial(Stages.certified, search=name), every=every))
    found += _encoded(question, DEFAULT, "")
    if aware := question.aware_search:
        found.append(_Stage(f"robustified-{aware}", partial(Stages.moved, search=aware), _SEARCHING))
        found.append(_Stage(f"after-{aware}", partial(Stages.after, search=aware)))
        found.append(_Stage(f"certified-{aware}", partial(Stages.certified, search=aware)))
        found += _encoded(question, aware, f"-{aware}")
    found.append(_Stage("adversary", Stages.adversary, _SEARCHING))
    for name in ("before", "after") if question.ensemble else ():
        make = partial(Stages.ensemble, robustified=name == "after")
        found.append(_Stage(f"apgd-{name}", make, _SEARCHING))
    return tuple(found)


def _encoded(question: Question, search: str, ending: str) -> list[_Stage]:
    """What JPEG leaves of that search's images."""
    return [
        _Stage(f"jpeg-{quality}{ending}", partial(Stages.jpeg, quality=quality, search=search))
        for quality in question.qualities
    ]


def _make(stage: _Stage, stages: Stages, rows: Rows, idx: list[int], say: Callable[[str], None]) -> bool:
    """Make the rows that are missing; whether there were any."""
    rows.mend()
    chosen = [i for i, each in enumerate(idx) if each % stage.every == 0]
    missing = [i for i in chosen if idx[i] not in rows]
    start = last = time.monotonic()
    for done, row in enumerate(in_order(partial(stage.make, stages), missing, stage.together), 1):
        rows.append(row)
        now = time.monotonic()
        if now - last >= _SECONDS or done == len(missing):
            last, each = now, (now - start) / done
            left = (len(missing) - done) * each / 60
            say(f"{stage.name}: {len(chosen) - len(missing) + done} of {len(chosen)} images, {each:.1f} s each, "
                f"{left:.0f} min left")  # fmt: skip
    return bool(missing)


def _record(model: LocalModel, bundle: Bundle, question: Question) -> dict[str, object]:
    """What every row depends on."""
    info = model.get_model()
    asked = {name: value for name, value in asdict(question).items() if name not in _NOT_RECORDED}
    return {
        "model": info.name,
        "version": info.version,
        "digests": dict(bundle.digests),
        "execution": info.execution.name,
        "fingerprint": info.execution.fingerprint,
        "commitment": info.commitment,
        "question": asked,
    }


def _check_images(clean: Rows, data: Dataset, folder: Path) -> None:
    """Refuse rows of an image with another label or other pixels."""
    for i, each in enumerate(data.idx.tolist()):
        if each not in clean:
            continue
        digest = pixel_digest(np.ascontiguousarray(data.images[i]))
        if (clean[each]["label"], clean[each]["pixels"]) != (int(data.labels[i]), digest):
            raise TableError(f"{folder}: its image {each} is another one; name another folder")
