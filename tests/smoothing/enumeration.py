"""Every way that votes can fall, and how probable it is, in exact fractions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction


def compositions(n: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to give n votes to `parts` classes."""
    if parts == 1:
        yield (n,)
        return
    for first in range(n + 1):
        for rest in compositions(n - first, parts - 1):
            yield (first, *rest)


def multinomial(counts: tuple[int, ...], p: tuple[Fraction, ...]) -> Fraction:
    """The probability of the counts, where class c has p[c]."""
    ways, left = 1, sum(counts)
    for count in counts:
        ways, left = ways * math.comb(left, count), left - count
    return Fraction(ways) * math.prod(q**c for q, c in zip(p, counts, strict=True))
