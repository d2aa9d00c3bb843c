"""What a model must show before it serves: finite, repeatable logits that do not depend on a row's batch-mates.

Certificates assume that every draw is an independent evaluation of one function. A model that couples the rows of
a batch (training-mode normalisation, scales computed from the batch) breaks that: its error is .4, not .001, and
one client could steer another's answer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from certserve.backends.probes import probe_pixels
from certserve.errors import BackendFailed, ModelRefused, OutOfMemory

__all__ = ["LADDER", "RowCheck", "check_rows", "count_classes", "fingerprint"]

LADDER = (1, 8, 32, 64)
"""Numbers of rows a batch may have: one image never pays for 64 padded rows."""

_log = logging.getLogger(__name__)
_LARGEST_BATCH_BYTES = 64 << 20
_PROBES = 16
_COUPLED = 1e-2


class _Classifier(Protocol):
    @property
    def shape(self) -> tuple[int, int, int]: ...

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class RowCheck:
    """What the checks found: the batch shapes that give bit-equal logits, and those logits for the probes."""

    shapes: tuple[int, ...]
    logits: npt.NDArray[np.float32]


def check_rows(
    backend: _Classifier, sigma: float, ladder: tuple[int, ...] = LADDER, *, most_bytes: int = _LARGEST_BATCH_BYTES
) -> RowCheck:
    """Which batch shapes may be mixed, from the ladder's shapes that fit into so many bytes as float32.

    A shape is kept when every probe has the same logits, to the last bit, wherever it stands in the batch and
    whatever its mates are, and when it agrees with the largest shape kept. None is tried that is larger than one
    that finds no memory.

    Raises:
        ModelRefused: the logits are not finite, not repeatable, of the wrong shape, or coupled between rows.
        OutOfMemory: for the smallest shape already.
    """
    dimension = math.prod(backend.shape)
    shapes = [rows for rows in ladder if rows == 1 or rows * dimension * 4 <= most_bytes]
    probes = probe_pixels(backend.shape, _PROBES, sigma)
    steady: dict[int, npt.NDArray[np.float32]] = {}  # each one's logits for the probes
    for rows in shapes:
        try:
            reference = _reference(backend, probes, rows)
            if _independent(backend, probes, reference, rows):
                steady[rows] = reference
        except OutOfMemory as error:
            if not steady:
                raise
            _log.warning("no memory for a batch of %d rows: at most %d (%s)", rows, max(steady), error)
            break
    if not steady:
        raise ModelRefused("the model's logits are not repeatable to the last bit, whatever the number of rows")
    reference = steady[max(steady)]
    return RowCheck(tuple(rows for rows, found in steady.items() if np.array_equal(found, reference)), reference)


def count_classes(backend: _Classifier) -> int:
    """How many logits a row gets.

    Raises:
        ModelRefused: the model is no classifier of any number of rows.
    """
    try:
        logits = backend.logits(np.zeros((2, *backend.shape), dtype=np.float32))
    except BackendFailed as error:
        raise ModelRefused(f"the model does not run on two rows at once: {error}") from error
    if logits.ndim != 2 or len(logits) != 2:
        raise ModelRefused(f"expected logits of shape (rows, classes); two rows gave {logits.shape}")
    return int(logits.shape[1])


def fingerprint(file_digest: str, identity: Mapping[str, str], rows: RowCheck) -> str:
    """SHA-256 over the model file, the runtime's identity and the probes' logits.

    The batch shapes in use are shown to give those logits to the last bit, so they may be tuned without making it
    another f. The arithmetic of the noise is not part of f; certificates and keys name it beside the fingerprint.
    """
    description = {
        "file": file_digest,
        "identity": dict(identity),
        "logits": hashlib.sha256(np.ascontiguousarray(rows.logits, dtype="<f4").tobytes()).hexdigest(),
    }
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _reference(backend: _Classifier, probes: npt.NDArray[np.float32], rows: int) -> npt.NDArray[np.float32]:
    """The probes' logits, in order, in batches of `rows` that hold nothing else (the last one starts over)."""
    results = []
    for start in range(0, len(probes), rows):
        batch = probes[(start + np.arange(rows)) % len(probes)]
        logits = np.asarray(backend.logits(batch))
        if logits.ndim != 2 or len(logits) != rows:
            raise ModelRefused(f"expected logits of shape ({rows}, classes), the model gave {logits.shape}")
        results.append(logits)
    found = np.concatenate(results)[: len(probes)]
    if not np.isfinite(found).all():
        raise ModelRefused("the model's logits for ordinary noisy images are not finite")
    return found


def _independent(
    backend: _Classifier, probes: npt.NDArray[np.float32], reference: npt.NDArray[np.float32], rows: int
) -> bool:
    """Whether each probe keeps its logits, bit for bit, among other mates and in other places.

    Raises:
        ModelRefused: it loses them by more than rounding can explain, even between two equal runs.
    """
    scale = _COUPLED * max(1.0, float(np.abs(reference).max()))
    steady = True
    for shift, mates in enumerate(_mates(probes)):
        # Every second row is checked; of 8 rows or more each probe is, as 5 is prime to 16.
        order = (np.arange(rows) // 2 * 5 + shift) % len(probes)
        checked = np.arange(rows) % 2 == shift % 2
        batch = np.where(checked[:, None, None, None], probes[order], mates)
        logits = backend.logits(batch.astype(np.float32))
        worst = np.abs(logits[checked] - reference[order][checked]).max(initial=0.0)
        if not worst <= scale:
            raise ModelRefused(
                f"a row's logits changed by {worst:.3g} with its batch-mates or from run to run: rows are not "
                "independent; export the model in evaluation mode, without batch statistics or random operations"
            )
        steady = steady and bool(np.array_equal(logits[checked], reference[order][checked]))
    return steady


def _mates(probes: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    """What stands between the probes: nothing, white, very large values, another probe."""
    return [np.zeros_like(probes[0]), np.ones_like(probes[0]), np.full_like(probes[0], 50.0), probes[3], probes[7]]
