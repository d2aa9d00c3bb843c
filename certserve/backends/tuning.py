"""The numbers of rows that run fastest on this machine: measured by `certserve tune`, and kept for the user.

Tuning changes no answer: only numbers of rows are tried that give the usual ones' logits to the last bit, so the
fingerprint stays what it was. Without it a ladder is used that is good on most machines, and that goes on to larger
batches where the classifier is quick.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from certserve.backends.checks import LADDER, RowCheck, check_rows
from certserve.backends.probes import noisy_copies
from certserve.backends.protocols import DrawingBackend
from certserve.errors import BackendFailed, ModelRefused

__all__ = ["Pace", "candidates_for", "check_ladder", "check_shapes", "kept_ladder", "measure", "remember"]

_log = logging.getLogger(__name__)
_CANDIDATES = (16, 32, 64, 128, 256, 512)
# Bookkeeping costs a batch as much whatever its size; but the more rows, the longer a Predict beside Certifies takes.
_QUICK = 0.016  # seconds: a usual batch that takes less may be twice as large
_QUICK_ROWS = 2 * LADDER[-1]
# For float32 cuDNN has other kernels for other numbers of rows, so that few may be mixed, and a small job may have to
# pay for the largest: more rows would be faster still. The small ones are for large images.
_CUDA_LADDERS = {"float32": (1, 8, 32, 256, 512, 1024), "bfloat16": (1, 8, 32, 256, 512, 1024, 2048, 4096, 8192)}
_CUDA_BATCH_BYTES = 256 << 20
_CUDA_CANDIDATES = (256, 1024, 4096, 8192, 16384)
_AS_GOOD = 0.98  # of the best pace: of those, the smallest number of rows is chosen, which answers sooner
_LARGEST_ROWS = 1 << 16


class _Classifier(Protocol):
    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def parallel(self) -> int: ...

    @property
    def identity(self) -> Mapping[str, str]: ...

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast batches of so many rows run, on all threads that the backend runs at once."""

    rows: int
    draws_per_second: float


def measure(
    backend: _Classifier,
    sigma: float,
    *,
    candidates: Sequence[int],
    seconds: float = 0.5,
    turns: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[Pace], tuple[int, ...]]:
    """The median pace of each candidate, which take turns of so many seconds; and the ladder that follows.

    Raises:
        BackendFailed: the runtime failed on a candidate.
    """
    found: dict[int, list[float]] = {rows: [] for rows in candidates}
    for turn in range(turns + 1):
        for rows, paces in found.items():
            pace = _pace(_run(backend, rows, sigma), rows, backend.parallel, seconds if turn else 0.0, clock)
            if turn:  # the first warms up
                paces.append(pace)
    table = [Pace(rows, statistics.median(paces)) for rows, paces in found.items()]
    best = max(pace.draws_per_second for pace in table)
    largest = min(pace.rows for pace in table if pace.draws_per_second >= _AS_GOOD * best)
    return table, (*(rows for rows in _usual(backend.identity) if rows < largest), largest)


def candidates_for(
    backend: _Classifier, sigma: float, clock: Callable[[], float] = time.perf_counter
) -> tuple[int, ...]:
    """Largest numbers of rows that are worth trying, and give the logits that the usual ones give, bit for bit.

    Raises:
        ModelRefused: as `certserve.backends.checks.check_rows`, of the usual ones.
    """
    usual = _check_usual(backend, sigma, clock)
    tried: tuple[int, ...] = _CANDIDATES if backend.identity["device"] == "cpu" else _CUDA_CANDIDATES
    if usual.shapes[-1] == _QUICK_ROWS:  # with fewer rows there is more of what is not timed here
        tried = tuple(rows for rows in tried if rows > usual.shapes[-1])
    equal = (rows for rows in tried if _gives(backend, sigma, rows, usual.logits))
    return tuple(sorted({usual.shapes[-1], *equal}))


def check_shapes(
    backend: _Classifier, sigma: float, digest: str, clock: Callable[[], float] = time.perf_counter
) -> RowCheck:
    """The numbers of rows to serve a model file with: the ladder kept for it here, else the usual one.

    Raises:
        ModelRefused, OutOfMemory: as `certserve.backends.checks.check_rows`.
    """
    kept = kept_ladder(digest, backend.identity)
    return check_ladder(backend, sigma, kept) if kept else _check_usual(backend, sigma, clock)


def check_ladder(backend: _Classifier, sigma: float, ladder: tuple[int, ...]) -> RowCheck:
    """As `certserve.backends.checks.check_rows`, of shapes that may be larger on a CUDA device."""
    if backend.identity["device"] == "cpu":
        return check_rows(backend, sigma, ladder)
    return check_rows(backend, sigma, ladder, most_bytes=_CUDA_BATCH_BYTES)


def kept_ladder(digest: str, identity: Mapping[str, str]) -> tuple[int, ...] | None:
    """The ladder kept for a model file and what runs it; None where there is none that can be read."""
    try:
        path = _path(digest, identity)
    except RuntimeError:  # a user without a home
        return None
    try:
        ladder = tuple(int(rows) for rows in json.loads(path.read_text(encoding="utf-8"))["shapes"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        _log.warning("%s cannot be used (%s); run `certserve tune` again", path, error)
        return None
    if not ladder or list(ladder) != sorted(set(ladder)) or not 1 <= ladder[0] <= ladder[-1] <= _LARGEST_ROWS:
        _log.warning("%s holds no ladder of batch shapes; run `certserve tune` again", path)
        return None
    return ladder


def remember(digest: str, identity: Mapping[str, str], ladder: Sequence[int]) -> Path:
    """Keep a ladder for the user; the file written.

    Raises:
        OSError: it cannot be written. RuntimeError: this user has no home, and XDG_CACHE_HOME is not set.
    """
    path = _path(digest, identity)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps({"shapes": list(ladder), "of": dict(identity), "file": digest}) + "\n", encoding="utf-8")
    new.replace(path)
    return path


def _gives(backend: _Classifier, sigma: float, rows: int, logits: npt.NDArray[np.float32]) -> bool:
    try:
        return np.array_equal(check_ladder(backend, sigma, (rows,)).logits, logits)
    except (BackendFailed, ModelRefused):  # no memory for so many, or they are not repeatable
        return False


def _check_usual(backend: _Classifier, sigma: float, clock: Callable[[], float]) -> RowCheck:
    """The usual ladder; a processor's goes on to batches of twice the rows where the usual one takes little time.

    These are left out where they would not give the others' logits to the last bit: logits never depend on the clock.
    """
    found = check_ladder(backend, sigma, _usual(backend.identity))
    if backend.identity["device"] != "cpu" or found.shapes[-1] != LADDER[-1]:
        return found
    if _is_quick(backend, sigma, LADDER[-1], clock) and _gives(backend, sigma, _QUICK_ROWS, found.logits):
        return RowCheck((*found.shapes, _QUICK_ROWS), found.logits)
    return found


def _is_quick(backend: _Classifier, sigma: float, rows: int, clock: Callable[[], float]) -> bool:
    """Whether one of two batches of so many rows takes little time; something else may have slowed the other a bit."""
    pixels = noisy_copies(backend.shape, 0, rows, sigma)
    for _ in range(2):
        start = clock()
        backend.logits(pixels)
        seconds = clock() - start
        if seconds < _QUICK:
            return True
        if seconds > 3 * _QUICK:
            return False
    return False


def _usual(identity: Mapping[str, str]) -> tuple[int, ...]:
    if identity["device"] == "cpu":
        return LADDER
    return _CUDA_LADDERS["bfloat16" if identity.get("precision") == "bfloat16" else "float32"]


def _path(digest: str, identity: Mapping[str, str]) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(json.dumps([digest, dict(identity)], sort_keys=True).encode()).hexdigest()
    return folder / "certserve" / "shapes" / f"{name}.json"


def _run(backend: _Classifier, rows: int, sigma: float) -> Callable[[], object]:
    """What runs the classifier on so many rows from where it takes noisy copies; a processor makes these each time."""
    if isinstance(backend, DrawingBackend):
        batches = threading.local()  # a batch is for one thread at a time

        def run() -> object:
            if not hasattr(batches, "own"):
                batches.own = backend.batch(rows)
            return batches.own.logits(0, rows)

        return run
    turns = itertools.count()
    return lambda: backend.logits(noisy_copies(backend.shape, next(turns) * rows, rows, sigma))


def _pace(run: Callable[[], object], rows: int, parallel: int, seconds: float, clock: Callable[[], float]) -> float:
    """Rows a second of runs of so many, again and again on so many threads, twice at least."""
    done: list[int] = []
    failed: list[Exception] = []
    start = 0.0

    def begin() -> None:
        nonlocal start
        start = clock()

    ready = threading.Barrier(parallel, action=begin)

    def work() -> None:
        try:
            run()  # a thread's first run may cost what no other does
            going = _all_there(ready)
            while going:
                run()
                done.append(rows)
                going = clock() - start < seconds
        except Exception as error:
            failed.append(error)
            ready.abort()

    threads = [threading.Thread(target=work) for _ in range(parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return sum(done) / max(clock() - start, 1e-9)


def _all_there(barrier: threading.Barrier) -> bool:
    """Whether all threads have come, once they have or one of them has failed."""
    try:
        barrier.wait()
    except threading.BrokenBarrierError:
        return False
    return True
