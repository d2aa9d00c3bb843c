"""What runs a base classifier, as the rest of the package sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from certserve.noise.arithmetic import Arithmetic
from certserve.noise.keystream import Key

__all__ = ["Backend", "Batch", "DrawingBackend", "Source"]


class Backend(Protocol):
    """A base classifier: a deterministic function of each row alone."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one input."""

    @property
    def num_classes(self) -> int:
        """How many logits a row gets."""

    @property
    def parallel(self) -> int:
        """How many threads may ask for logits at once."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What the logits depend on besides weights and input: runtime, version, precision, device, threads."""

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of shape (rows, num_classes) for noisy pixels of shape (rows, *shape).

        Raises:
            BackendFailed: the runtime failed on these rows.
        """


class Source(Protocol):
    """One input's noisy copies, as `certserve.sampling.source.DrawSource` describes them."""

    @property
    def key(self) -> Key: ...

    @property
    def pixels(self) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]: ...

    @property
    def sigma(self) -> float: ...

    @property
    def arithmetic(self) -> Arithmetic: ...

    def write(self, draws: str, first: int, rows: npt.NDArray[np.float32]) -> None: ...


class Batch(Protocol):
    """Room for so many noisy copies, where the classifier takes them from; for one thread at a time."""

    def write(self, start: int, count: int, source: Source, draws: str, first: int) -> None:
        """Put draws first..first + count - 1 of one set into the rows from `start`."""

    def clear(self, start: int, stop: int) -> None:
        """Put something finite into rows start..stop - 1."""

    def move_up(self, start: int, stop: int) -> None:
        """Move rows start..stop - 1 to the top."""

    def logits(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Logits of rows start..stop - 1, as `Backend.logits`."""


@runtime_checkable
class DrawingBackend(Protocol):
    """A backend that makes noisy copies itself, where its classifier runs.

    In grid arithmetic its noise comes from a stream of its own.
    """

    @property
    def stream(self) -> str:
        """The name of that stream in certificates."""

    def batch(self, rows: int) -> Batch:
        """Room for so many."""
