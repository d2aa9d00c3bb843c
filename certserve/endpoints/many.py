"""Many questions at once: as many in progress as keep the device busy, answers in the order in which they are ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from certserve.errors import Overloaded

__all__ = ["AT_ONCE", "answered", "patiently"]

AT_ONCE = 16
"""How many questions are in progress at once."""

Question = TypeVar("Question")
Answer = TypeVar("Answer")


async def answered(
    questions: AsyncIterator[Question], answer: Callable[[Question], Awaitable[Answer]], at_once: int = AT_ONCE
) -> AsyncGenerator[tuple[Question, Answer | Exception]]:
    """Each question with its answer, or with what `answer` raised.

    A question is taken up only when fewer than `at_once` are in progress or wait to be taken away, so that neither a
    fast asker nor a slow listener fills the memory. Where the server is busy a question waits, and is asked again.

    Raises:
        Exception: what `questions` raised, once the answers to those before are given.
    """
    ready: asyncio.Queue[tuple[Question, Answer | Exception] | None] = asyncio.Queue()
    room = asyncio.Semaphore(at_once)

    async def ask(question: Question) -> None:
        try:
            ready.put_nowait((question, await patiently(lambda: answer(question))))
        except Exception as error:
            ready.put_nowait((question, error))

    async def feed() -> None:
        failure: Exception | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                try:
                    async for question in questions:
                        await room.acquire()
                        tasks.create_task(ask(question))
                except Exception as error:  # held back: a group that fails cancels the answers in progress
                    failure = error
            if failure is not None:
                raise failure
        finally:
            ready.put_nowait(None)

    feeder = asyncio.create_task(feed())
    try:
        while (pair := await ready.get()) is not None:
            yield pair
            room.release()
        await feeder
    finally:
        feeder.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await feeder


async def patiently(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """What is asked for, asked again while too much waits."""
    while True:
        try:
            return await ask()
        except Overloaded as busy:
            await asyncio.sleep(busy.retry_after)
