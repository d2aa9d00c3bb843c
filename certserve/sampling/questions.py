"""Questions about images that are not draws, on the device and in turn with an engine's batches.

A request's images are asked about in pieces, few of which are with the executor at once, so that draws wait for a
piece at most. A piece that fails is asked about once more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from certserve.errors import BackendFailed, Overloaded, Unavailable
from certserve.sampling.engine import Engine
from certserve.sampling.executor import Executor

__all__ = ["Questions"]

_SHORTEST_WAIT = 0.1  # seconds


class Questions:
    """Asks an executor. Made and used on the engine's event loop.

    Args:
        engine: whose executor it is. largest_rows: images that may be waiting or asked about.
    """

    def __init__(self, engine: Engine, executor: Executor, *, largest_rows: int = 1024) -> None:
        self._engine, self._executor = engine, executor
        self._largest_rows = largest_rows
        self._rows = 0
        self._seconds_each = 0.0  # of a row: a moving average
        self._room = asyncio.Semaphore(executor.parallel + 1)

    @property
    def rows(self) -> int:
        """Images that are waiting or asked about."""
        return self._rows

    def check_room(self, rows: int) -> None:
        """Return if so many images may be asked about now.

        Raises:
            Overloaded: too many wait. Unavailable: the engine has stopped.
        """
        if not self._engine.alive:
            raise Unavailable("The sampling engine has stopped.")
        if self._rows + rows > self._largest_rows:
            wait = self._rows * self._seconds_each if self._seconds_each else 1.0
            raise Overloaded(
                f"{self._rows} images are waiting; try again later.", retry_after=max(wait, _SHORTEST_WAIT)
            )

    async def ask(self, pieces: Sequence[object], rows: int) -> list[Any]:
        """The answer to each piece of a question about so many images, in order; cancelling forgets them.

        Raises:
            Overloaded, Unavailable: as `check_room`. BackendFailed: the model failed on a piece, twice.
        """
        self.check_room(rows)
        self._rows += rows
        start = time.monotonic()
        tasks = [asyncio.create_task(self._one(piece)) for piece in pieces]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            self._rows -= rows
        each = (time.monotonic() - start) / rows
        self._seconds_each = 0.9 * self._seconds_each + 0.1 * each if self._seconds_each else each
        return answers

    async def _one(self, piece: object) -> Any:
        async with self._room:
            try:
                return await self._attempt(piece)
            except BackendFailed:
                pass
            try:
                return await self._attempt(piece)
            except BackendFailed as error:
                raise BackendFailed("The model failed on this request's images, twice.") from error

    async def _attempt(self, piece: object) -> Any:
        if not self._engine.alive:
            raise Unavailable("The sampling engine is stopping.")
        answer = asyncio.wrap_future(self._executor.ask(piece))
        ended = asyncio.create_task(self._engine.ended())
        try:
            await asyncio.wait({answer, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done() or answer.cancelled():
                raise Unavailable("The sampling engine is stopping.")
            return answer.result()
        finally:
            ended.cancel()
            answer.cancel()
