"""A few calls at once, their results in the order of the items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["in_order"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], together: int) -> Iterator[Result]:
    """The function's result of each item, as many in progress as `together`; none is begun that nobody waits for."""
    left = iter(items)
    with ThreadPoolExecutor(together) as pool:
        running: deque[Future[Result]] = deque()
        while True:
            running.extend(pool.submit(function, item) for item in islice(left, together - len(running)))
            if not running:
                return
            yield running.popleft().result()
