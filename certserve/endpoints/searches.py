"""Searches beside everything else that a server does: bounded in number, in work and in what they take from others.

A search runs in a thread of its own, and asks before each pass through the network whether anybody still waits for it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from certserve.errors import Overloaded, Unavailable

__all__ = ["SearchLimits", "Searches"]

Result = TypeVar("Result")

_SHORTEST_WAIT = 0.1  # seconds
_LEAST_PRIORITY = 19
_NICENESS = 5  # of a thread that searches, where others are to come first


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchLimits:
    """What searches may take.

    Attributes:
        at_once: how many run at once, 1 or more. waiting: how many requests may be in progress beside those; None: any.
        largest_passes: rows that a search may send through the network forward and back; None: any number.
        largest_draws: rows that it may send at a time; None: any number.
        threads: of torch for each search, which then also has a lower priority than every other thread (on Linux);
            None: as many as torch takes by itself, at the usual priority.
    """

    at_once: int = 1
    waiting: int | None = None
    largest_passes: int | None = None
    largest_draws: int | None = None
    threads: int | None = None


class Searches:
    """Runs searches, a few at once. Used on one event loop."""

    def __init__(self, limits: SearchLimits) -> None:
        self.limits = limits
        self._pool = ThreadPoolExecutor(
            limits.at_once, thread_name_prefix="certserve-search", initializer=_begin, initargs=(limits.threads,)
        )
        self._present = 0
        self._seconds_each = 0.0  # of a request: a moving average
        self._closing = threading.Event()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place among the requests in progress, which has to be had before anything is done for one.

        Raises:
            Overloaded: there is none left.
        """
        limits = self.limits
        if limits.waiting is not None and self._present >= limits.at_once + limits.waiting:
            wait = self._seconds_each or 1.0
            raise Overloaded(
                f"{self._present} images are being robustified or wait for it; try again later.",
                retry_after=max(wait, _SHORTEST_WAIT),
            )
        self._present += 1
        start = time.monotonic()
        try:
            yield
            each = time.monotonic() - start
            self._seconds_each = 0.9 * self._seconds_each + 0.1 * each if self._seconds_each else each
        finally:
            self._present -= 1

    async def run(self, search: Callable[[Callable[[], None]], Result]) -> Result:
        """What the search gives, which gets a function to call before each pass.

        Cancelled, the search ends where it calls that function next, and gives its thread to another one then.

        Raises:
            Unavailable: it was closed meanwhile. Whatever the search raises.
        """
        left = threading.Event()

        def check() -> None:
            if left.is_set() or self._closing.is_set():
                raise _Stopped

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, search, check)
        except _Stopped:
            raise Unavailable("The server is stopping.") from None
        finally:
            left.set()

    def close(self) -> None:
        """End the searches that run, with the pass that each is in."""
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Stopped(Exception):
    """Nobody waits for the search any more."""


def _begin(threads: int | None) -> None:
    """What a thread that searches does first."""
    if threads is None:
        return
    from certserve.backends.threads import confine

    confine(threads)
    if sys.platform == "linux":  # elsewhere it would be the whole process's
        this = (os.PRIO_PROCESS, threading.get_native_id())
        with suppress(OSError):  # a sandbox may forbid it
            os.setpriority(*this, min(_LEAST_PRIORITY, os.getpriority(*this) + _NICENESS))
