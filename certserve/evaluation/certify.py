"""A data set in, a table of certificates out; an interrupted run goes on where it stopped."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from certserve.datasets import Dataset
from certserve.endpoints.local import LocalModel
from certserve.endpoints.plans import CertifyPlan, FixedPlan
from certserve.evaluation.in_order import in_order
from certserve.evaluation.tables import ABSTAINED, Row, TableError, append_row, drop_unfinished, read_table
from certserve.noise.keystream import Secret
from certserve.smoothing.outcomes import Bound, Certificate

__all__ = ["Question", "certify_dataset", "secret_of"]

_FIXED = FixedPlan()
_TOGETHER = 3  # images in progress: their last draws share batches, and a late one does not stop the next


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about every image; None means the model's default, as in `CertifyRequest`."""

    sigma: float | None = None
    n0: int | None = None
    n: int | None = None
    alpha: float | None = None
    plan: CertifyPlan = _FIXED
    bound: Bound = Bound.BINARY


def secret_of(table: Path) -> Secret:
    """The secret that keys a table's noise, kept beside it as `TABLE.secret` for its owner to read; made if need be.

    With it, a table that was interrupted and gone on with is the one that an undisturbed run would have given.

    Raises:
        ValueError: the file holds something else. OSError: it cannot be read or made.
    """
    kept = table.with_name(table.name + ".secret")
    if not kept.exists():
        with contextlib.suppress(FileExistsError):  # another run was faster, and its secret counts
            Secret.fresh().to_file(kept)
    kept.chmod(0o600)
    return Secret.from_file(kept)


def certify_dataset(
    model: LocalModel,
    dataset: Dataset,
    question: Question,
    table: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """The table's rows, once every image of the data set has one.

    Rows already in the table are kept, not asked again. Beside it, `TABLE.json` records the question, the
    execution's fingerprint and the commitment to the secret; a table begun with others is refused: one table never
    mixes two.

    Args:
        on_progress: told (images done, images in all) after each.

    Raises:
        TableError: the table was begun with another question, model or execution, or holds other images.
        CertserveError: as `LocalModel.certify`.
    """
    _check_record(model, question, table)
    rows = {row.idx: row for row in _begun(table)}
    labels = dict(zip(dataset.idx.tolist(), dataset.labels.tolist(), strict=True))
    strangers = sorted(idx for idx, row in rows.items() if labels.get(idx) != row.label)
    if strangers:
        raise TableError(f"{table}: holds images {strangers[:5]} that were not asked for; name another file")
    left = [i for i, idx in enumerate(dataset.idx.tolist()) if idx not in rows]
    # In the data set's order: the table is the same however it was made.
    for row in in_order(lambda i: _certify_one(model, dataset, question, i), left, _TOGETHER):
        rows[row.idx] = row
        append_row(table, row)
        if on_progress:
            on_progress(len(rows), len(dataset))
    return [rows[idx] for idx in dataset.idx.tolist()]


def _begun(table: Path) -> list[Row]:
    """The rows that are there; an unfinished last line is removed."""
    if table.exists():
        drop_unfinished(table)
    return read_table(table) if table.exists() and table.stat().st_size else []


def _certify_one(model: LocalModel, dataset: Dataset, question: Question, i: int) -> Row:
    start = time.perf_counter()
    outcome = model.certify(
        np.ascontiguousarray(dataset.images[i]),
        sigma=question.sigma,
        n0=question.n0,
        n=question.n,
        alpha=question.alpha,
        plan=question.plan,
        bound=question.bound,
    )
    seconds = time.perf_counter() - start
    idx, label = int(dataset.idx[i]), int(dataset.labels[i])
    if isinstance(outcome, Certificate):
        return Row(idx, label, outcome.label, outcome.radius, seconds)
    return Row(idx, label, ABSTAINED, 0.0, seconds)


def _check_record(model: LocalModel, question: Question, table: Path) -> None:
    """Write what the table is about, or refuse if it is about something else."""
    info = model.get_model()
    defaults = info.defaults
    record: dict[str, Any] = {
        "model": info.name,
        "version": info.version,
        "execution": info.execution.name,
        "runtime": info.execution.runtime,
        "fingerprint": info.execution.fingerprint,
        "sigma": question.sigma or defaults.sigma,
        "n0": question.n0 or defaults.n0,
        "n": question.n or defaults.n,
        "alpha": question.alpha or defaults.alpha,
        "plan": {"kind": type(question.plan).__name__, **asdict(question.plan)},
        "bound": question.bound.value,
        "commitment": info.commitment,
    }
    beside = table.with_name(table.name + ".json")
    if table.exists() and table.stat().st_size:
        begun = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else None
        if begun != json.loads(json.dumps(record)):
            raise TableError(f"{table}: was begun with another model, execution, question or secret; name another file")
        return
    beside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
