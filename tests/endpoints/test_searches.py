"""Searches: how many there may be, how they end, and what their threads leave to others."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from certserve.endpoints.searches import Searches, SearchLimits
from certserve.errors import Overloaded, Unavailable


@pytest.fixture
def searches() -> Iterator[Searches]:
    made = Searches(SearchLimits(waiting=1))
    yield made
    made.close()


class Endless:
    """A search that asks before each pass whether to go on, and counts them; it fails where nothing ever ends it."""

    def __init__(self) -> None:
        self.passes = 0
        self.begun, self.ended = threading.Event(), threading.Event()

    def __call__(self, check: Callable[[], None]) -> None:
        try:
            end = time.monotonic() + 30
            while time.monotonic() < end:
                check()
                self.passes += 1
                self.begun.set()
                time.sleep(0.01)
            raise AssertionError("nothing ended the search")
        finally:
            self.ended.set()


def test_places_are_limited_and_come_back(searches: Searches) -> None:
    with searches.place(), searches.place():
        with pytest.raises(Overloaded, match="2 images") as caught, searches.place():
            pass
        assert caught.value.retry_after > 0
    with searches.place(), searches.place():
        pass


def test_a_place_comes_back_after_a_failure(searches: Searches) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), searches.place(), searches.place():
            raise ZeroDivisionError


def test_without_a_limit_there_is_always_one() -> None:
    made = Searches(SearchLimits())
    places = [made.place() for _ in range(50)]
    for place in places:
        place.__enter__()
    made.close()


def test_the_hint_is_how_long_requests_take(searches: Searches) -> None:
    with searches.place():
        time.sleep(0.3)
    with searches.place(), searches.place(), pytest.raises(Overloaded) as caught, searches.place():
        pass
    assert 0.3 <= caught.value.retry_after < 1.0


async def _begun(search: Endless) -> None:
    assert await asyncio.to_thread(search.begun.wait, 30)


def test_cancelled_it_ends_and_the_thread_is_free(searches: Searches) -> None:
    search = Endless()

    async def leave() -> Any:
        task = asyncio.create_task(searches.run(search))
        await _begun(search)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await asyncio.wait_for(searches.run(lambda check: "next"), 30)

    assert asyncio.run(leave()) == "next"
    assert search.ended.is_set()


def test_out_of_time_it_ends(searches: Searches) -> None:
    search = Endless()

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await searches.run(search)
        assert await asyncio.to_thread(search.ended.wait, 30)

    asyncio.run(wait())
    assert search.passes


def test_one_that_waits_for_the_thread_leaves_without_having_begun(searches: Searches) -> None:
    first, second = Endless(), Endless()

    async def leave() -> None:
        running = asyncio.create_task(searches.run(first))
        await _begun(first)
        waiting = asyncio.create_task(searches.run(second))
        await asyncio.sleep(0.1)
        waiting.cancel()
        running.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        await asyncio.wait_for(searches.run(lambda check: None), 30)

    asyncio.run(leave())
    assert second.passes == 0


def test_closing_ends_what_runs() -> None:
    made, search = Searches(SearchLimits()), Endless()

    async def close() -> None:
        task = asyncio.create_task(made.run(search))
        await _begun(search)
        await asyncio.to_thread(made.close)
        with pytest.raises(Unavailable, match="stopping"):
            await task

    asyncio.run(close())


def test_what_a_search_raises_is_raised(searches: Searches) -> None:
    def fails(check: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(searches.run(fails))


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has no priority of its own elsewhere")
def test_a_bounded_search_has_few_threads_of_low_priority() -> None:
    torch = pytest.importorskip("torch")

    def how(check: object) -> tuple[int, int]:
        return torch.get_num_threads(), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    usual = how(None)
    bounded, free = Searches(SearchLimits(threads=usual[0] + 1)), Searches(SearchLimits())
    try:
        threads, niceness = asyncio.run(bounded.run(how))
        assert (threads, niceness) == (usual[0] + 1, min(19, usual[1] + 5))
        assert asyncio.run(free.run(how)) == usual == how(None)
    finally:
        bounded.close()
        free.close()
