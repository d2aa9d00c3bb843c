"""When to look, and what each look may spend: all of it fixed before any draw.

Looks fall on draw indices that follow from the plan alone, never on what a batch happened to bring; else the same
key would give other answers on another machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import overload

__all__ = ["EveryLook", "doubling_looks", "even_radii", "look_alphas", "split_alpha"]

_LAST_SHARE = 0.8
_RUNNER_UP_SHARE = 0.125
_ROUNDING = 1.0 - 1e-15  # so that shares of alpha never add up to more than it


class EveryLook(Sequence[int]):
    """A look at each multiple of `step` draws below `n`, and one at `n`; takes no memory.

    Args:
        step: draws from look to look, >= 1. n: the last look, >= 1.

    Raises:
        ValueError: an argument below 1.
    """

    def __init__(self, step: int, n: int) -> None:
        if step < 1 or n < 1:
            raise ValueError(f"step and n must be at least 1, not {step!r} and {n!r}")
        self._step = step
        self._n = n

    def __len__(self) -> int:
        return -(-self._n // self._step)

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...

    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        return min(range(1, len(self) + 1)[index] * self._step, self._n)

    def __contains__(self, draws: object) -> bool:
        return isinstance(draws, int) and 0 < draws <= self._n and (draws % self._step == 0 or draws == self._n)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EveryLook) and (self._step, self._n) == (other._step, other._n)

    def __hash__(self) -> int:
        return hash((self._step, self._n))

    def __repr__(self) -> str:
        return f"EveryLook({self._step}, {self._n})"


def doubling_looks(n: int, first: int = 200) -> tuple[int, ...]:
    """Looks at `first`, twice that, and so on, up to two thirds of `n`, and at `n` (1 <= first; n >= 1)."""
    if n < 1 or first < 1:
        raise ValueError(f"n and first must be at least 1, not {n!r} and {first!r}")
    looks = []
    while 3 * first <= 2 * n:
        looks.append(first)
        first *= 2
    return (*looks, n)


def look_alphas(alpha: float, count: int) -> tuple[float, ...]:
    """What each of `count` looks may spend: 80 % the last, the others equal parts of the rest; at most `alpha` in all.

    Within 0.5 % of the radius of a fixed plan for n >= 10,000 and p >= .6. One look spends it all.
    """
    if count == 1:
        return (alpha,)
    early = alpha * (1.0 - _LAST_SHARE) / (count - 1) * _ROUNDING
    return (*[early] * (count - 1), alpha * _LAST_SHARE * _ROUNDING)


def split_alpha(alpha: float) -> tuple[float, float]:
    """What a two-class bound spends on the label and on the runner-up, together at most `alpha`.

    The split hardly matters to the radius; most certificates rest on the label's bound, so it gets seven eighths.
    """
    runner_up = alpha * _RUNNER_UP_SHARE
    return math.nextafter(alpha - runner_up, 0.0), runner_up


def even_radii(first: float, step: float, count: int) -> tuple[float, ...]:
    """`count` radii from `first` on, `step` apart (input units): the grid on which a target may grow."""
    return tuple(first + i * step for i in range(count))
