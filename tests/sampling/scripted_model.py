"""A sampler for a process of its own, whose model does what the files beside it say. Imported by that process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from certserve.backends.linear import LinearBackend
from certserve.errors import BackendFailed, BundleError
from certserve.sampling.executor import Worker
from certserve.sampling.sampler import Sampler

SHAPE = (3, 8, 8)
CLASSES = 4
TIMEOUT = 30.0
POISON = 6.0  # a draw with a pixel above it ends the process: impossible at sigma 0.5, certain at 10


class Scripted:
    """A linear classifier that does what files tell it.

    It waits while there is a file `hold`, and fails once when there is one called `fail`, or `exit` with what is no
    Exception. One batch takes `hold-one` away and waits until there is `go`.
    """

    shape = SHAPE
    num_classes = CLASSES

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        waves = np.sin(1.7 * np.arange(CLASSES * 192)).astype(np.float32).reshape(CLASSES, 192).astype(np.float64)
        self._linear = LinearBackend(waves, np.linspace(0.0, 1.0, CLASSES), SHAPE)

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self._taken("hold-one"):
            self._wait(lambda: (self._folder / "go").exists())
        self._wait(lambda: not (self._folder / "hold").exists())
        if self._taken("fail"):
            raise BackendFailed("told to")
        if self._taken("exit"):
            raise SystemExit("told to")
        if (pixels > POISON).any():
            os._exit(139)
        return np.asarray(self._linear.logits(pixels))

    def _taken(self, name: str) -> bool:
        """Whether there was such a file; it is gone now."""
        try:
            (self._folder / name).unlink()
        except FileNotFoundError:
            return False
        return True

    def _wait(self, over: Callable[[], bool]) -> None:
        end = time.monotonic() + TIMEOUT
        while not over() and time.monotonic() < end:
            time.sleep(0.005)


def make(folder: str) -> Worker:
    """A sampler, `parallel` from the file of that name, and what is in the file `name`; or the error asked for."""
    path = Path(folder)
    if (path / "broken").exists():
        raise BundleError("the bundle is broken")
    if (path / "dies").exists():
        os._exit(9)
    name = (path / "name").read_text(encoding="utf-8") if (path / "name").exists() else "one"
    parallel = int((path / "parallel").read_text(encoding="utf-8")) if (path / "parallel").exists() else 1
    backend = Scripted(path)
    return Worker(Sampler(backend, (1, 8, 32), parallel), name, backend.logits)
