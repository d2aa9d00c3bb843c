"""Many questions at once: how many are taken up, and what becomes of errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from certserve.endpoints.many import answered
from certserve.errors import Overloaded


class Asker:
    """Questions 0, 1, 2, ...; it counts those that were taken up."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.taken = 0
        self._count = count
        self._error = error

    async def questions(self) -> AsyncIterator[int]:
        """All of them, and then the error."""
        for number in range(self._count):
            self.taken += 1
            yield number
        if self._error is not None:
            raise self._error


async def _square(number: int) -> int:
    await asyncio.sleep(0)
    return number * number


async def _settled() -> None:
    for _ in range(300):
        await asyncio.sleep(0)


def test_all_are_answered() -> None:
    """Each with its own."""

    async def story() -> dict[int, Any]:
        return {question: answer async for question, answer in answered(Asker(100).questions(), _square)}

    assert asyncio.run(story()) == {number: number * number for number in range(100)}


@pytest.mark.parametrize("at_once", [1, 4, 16])
def test_a_listener_who_waits_is_waited_for(at_once: int) -> None:
    """In progress and waiting to be taken away together; one more lies ready to be begun."""

    async def story() -> None:
        asker = Asker(1_000)
        replies = answered(asker.questions(), _square, at_once)
        for taken_away in range(3):
            await anext(replies)
            await _settled()
            assert asker.taken == at_once + taken_away + 1
        await replies.aclose()

    asyncio.run(story())


def test_an_error_is_an_answer() -> None:
    """Of the question that it is about."""

    async def answer(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    async def story() -> dict[int, Any]:
        return {question: found async for question, found in answered(Asker(6).questions(), answer)}

    found = asyncio.run(story())
    assert str(found.pop(3)) == "three"
    assert found == {0: 0, 1: 1, 2: 2, 4: 4, 5: 5}


def test_the_askers_own_error_comes_after_the_answers() -> None:
    """What was asked is answered first."""

    async def story() -> list[int]:
        found = []
        replies = answered(Asker(5, OSError("gone")).questions(), _square)
        for _ in range(5):
            found.append((await anext(replies))[0])
        with pytest.raises(OSError, match="gone"):
            await anext(replies)
        return found

    assert sorted(asyncio.run(story())) == [0, 1, 2, 3, 4]


def test_where_it_is_busy_it_is_asked_again() -> None:
    """After as long as the server says."""
    tries: list[int] = []

    async def answer(number: int) -> int:
        tries.append(number)
        if len(tries) < 3:
            raise Overloaded("busy", retry_after=0.01)
        return number

    async def story() -> list[Any]:
        return [pair async for pair in answered(Asker(1).questions(), answer)]

    assert asyncio.run(story()) == [(0, 0)]
    assert tries == [0, 0, 0]


def test_whoever_leaves_cancels_what_is_in_progress() -> None:
    """None goes on for nobody."""
    ended: list[int] = []

    async def answer(number: int) -> int:
        if number == 0:
            return 0
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(number)
        return number

    async def story() -> None:
        replies = answered(Asker(9).questions(), answer)
        await anext(replies)
        await _settled()
        await replies.aclose()

    asyncio.run(story())
    assert sorted(ended) == [1, 2, 3, 4, 5, 6, 7, 8]
