"""Where slices run. One contract: a label for each draw, in order, whatever shares the batch.

Other questions about the model (its detectors' verdicts, say) are answered on the same threads, in turn with batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from certserve.errors import BackendFailed, Unavailable
from certserve.sampling.sampler import Sampler
from certserve.sampling.slices import Slice
from certserve.sampling.source import DrawSource

__all__ = ["Executor", "Labels", "ThreadExecutor", "Work", "Worker"]

Work = Sequence[tuple[DrawSource, Slice]]
"""A batch: slices, and the inputs whose draws they are."""

Labels = list[npt.NDArray[np.uint16]]
"""An array for each slice of a batch, in order."""


def _no_questions(question: Any) -> Any:
    raise BackendFailed(f"Nothing here answers {type(question).__name__}.")


class Worker(NamedTuple):
    """What runs a model: its sampler, what is known of it, and what answers other questions about it."""

    sampler: Sampler
    known: object
    answer: Callable[[Any], Any] = _no_questions


class Executor(Protocol):
    """Runs batches, and answers other questions."""

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
    def ahead(self) -> int:
        """How many batches it must have beside those that run, so as not to wait for the next one."""

    @property
    def num_classes(self) -> int:
        """Labels are 0..num_classes - 1, and num_classes for a draw without finite logits."""

    @property
    def alive(self) -> bool:
        """Whether slices can still be run."""

    def submit(self, take: Callable[[], Work]) -> Future[Labels]:
        """Run the batch that `take` gives, which is called once, as late as may be, here or on another thread.

        The future holds its labels; where the batch is empty, nothing runs, and there are none. Only who closes the
        executor's threads cancels it. A batch that is not empty must not run before this method has returned.

        Raises:
            Exception: nothing can be run any more.
        """

    def forget(self, job: int) -> None:
        """No slice of this job comes any more; those already submitted still run."""

    def ask(self, question: object) -> Future[Any]:
        """Answer a question other than draws, in its turn among the batches, where the model is.

        Question and answer are picklable. Cancelling the future succeeds only while the answer has not begun, and then
        it never does.

        Raises:
            Exception: nothing can be answered any more.
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
    def ahead(self) -> int:
        return 0  # a thread takes its next batch itself

    @property
    def num_classes(self) -> int:
        return self._sampler.num_classes

    @property
    def alive(self) -> bool:
        return True

    def submit(self, take: Callable[[], Work]) -> Future[Labels]:
        return self._start(self._run, take)

    def forget(self, job: int) -> None:
        """Nothing is kept of jobs."""

    def ask(self, question: object) -> Future[Any]:
        return self._start(self._answer, question)

    def close(self) -> None:
        """The threads are the device's."""

    def _start(self, function: Callable[[Any], Any], argument: object) -> Future[Any]:
        try:
            return self._device.submit(function, argument)
        except RuntimeError as error:
            if "cannot schedule new futures" not in str(error):
                raise
            raise Unavailable("The device is closed.") from error  # or Python ends

    def _run(self, take: Callable[[], Work]) -> Labels:
        work = take()
        return self._sampler.labels(work) if work else []
