"""Where slices run. One contract: a label for each draw, in order, whatever shares the batch.

Other questions about the model (its detectors' verdicts, say) are answered on the same threads, in turn with batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from certserve.errors import BackendFailed
from certserve.sampling.sampler import Sampler
from certserve.sampling.slices import Slice
from certserve.sampling.source import DrawSource

__all__ = ["Executor", "ThreadExecutor", "Worker"]


def _no_questions(question: Any) -> Any:
    raise BackendFailed(f"Nothing here answers {type(question).__name__}.")


class Worker(NamedTuple):
    """What runs a model: its sampler, what is known of it, and what answers other questions about it."""

    sampler: Sampler
    known: object
    answer: Callable[[Any], Any] = _no_questions


class Executor(Protocol):
    """Runs slices of the jobs it has been told of."""

    @property
    def largest_batch(self) -> int:
        """The largest number of draws worth submitting at once."""

    @property
    def half_batch(self) -> int:
        """About half as many, if so many are run without waste; else as many."""

    @property
    def parallel(self) -> int:
        """How many batches it runs at once."""

    @property
    def num_classes(self) -> int:
        """Labels are 0..num_classes - 1, and num_classes for a draw without finite logits."""

    @property
    def alive(self) -> bool:
        """Whether slices can still be run."""

    def admit(self, job: int, source: DrawSource) -> None:
        """Make a job's input known under its number; slices name it by that number."""

    def forget(self, job: int) -> None:
        """The job's input is no longer needed; slices already submitted still run."""

    def submit(self, batch: Sequence[Slice]) -> Future[list[npt.NDArray[np.uint16]]]:
        """Run slices of admitted jobs; the future holds one array of labels for each slice, in order.

        Cancelling the future succeeds only while the batch has not begun, and then it never runs.
        """

    def ask(self, question: object) -> Future[Any]:
        """Answer a question other than draws, in its turn among the batches, where the model is.

        Question and answer are picklable. Cancelling is as for `submit`.
        """

    def close(self) -> None:
        """Give back what the executor alone holds; slices still with it may fail."""


class ThreadExecutor:
    """Runs slices on the threads of `device`; executors of several models that share a device share its threads."""

    def __init__(
        self, sampler: Sampler, device: ThreadPoolExecutor, answer: Callable[[Any], Any] = _no_questions
    ) -> None:
        self._sampler = sampler
        self._answer = answer
        self._device = device
        self._sources: dict[int, DrawSource] = {}

    @property
    def largest_batch(self) -> int:
        return self._sampler.largest_batch

    @property
    def half_batch(self) -> int:
        return self._sampler.half_batch

    @property
    def parallel(self) -> int:
        return self._sampler.parallel

    @property
    def num_classes(self) -> int:
        return self._sampler.num_classes

    @property
    def alive(self) -> bool:
        return True

    def admit(self, job: int, source: DrawSource) -> None:
        self._sources[job] = source

    def forget(self, job: int) -> None:
        self._sources.pop(job, None)

    def submit(self, batch: Sequence[Slice]) -> Future[list[npt.NDArray[np.uint16]]]:
        work = [(self._sources[piece.job], piece) for piece in batch]
        return self._device.submit(self._sampler.labels, work)

    def ask(self, question: object) -> Future[Any]:
        return self._device.submit(self._answer, question)

    def close(self) -> None:
        self._sources.clear()
