"""How fast a device has been of late."""

from __future__ import annotations

__all__ = ["Pace"]

_MEMORY_SECONDS = 10.0
_SHORTEST_WAIT = 0.1  # seconds


class Pace:
    """Draws a second while the device is busy with full batches: a moving average, and the best of late.

    What was measured long ago is forgotten: a device that was slow for a while must not be taken to be so for ever.

    Args:
        batches: how many full batches in a row are measured as one, since so many run at once.

    Attributes:
        rate: the average, 0 where nothing is known. best: the best of late, at least the average.
    """

    def __init__(self, batches: int) -> None:
        self._batches = batches
        self._since = 0.0
        self._seen = 0
        self._draws = 0
        self._measured = 0.0
        self.rate = 0.0
        self.best = 0.0

    def start(self, now: float) -> None:
        """A batch is asked for where there was none: what is measured next begins now."""
        self._since = now
        self._seen = self._draws = 0

    def record(self, draws: int, full: bool, now: float) -> None:
        """A batch is back, which was or was not as large as a batch may be."""
        self._seen += 1
        self._draws += draws
        if not full:
            self.start(now)
        elif self._seen == self._batches:
            rate = self._draws / max(now - self._since, 1e-6)
            self.rate = 0.9 * self.rate + 0.1 * rate if self.rate else rate
            self.best = max(self.rate, 0.999 * self.best)
            self._measured = now
            self.start(now)

    def forget_old(self, now: float) -> None:
        """Forget a pace that nothing has confirmed of late."""
        if now - self._measured > _MEMORY_SECONDS:
            self.rate = self.best = 0.0

    def seconds_for(self, draws: int) -> float:
        """How long `draws` take at this pace, at least a tenth of a second; one second where nothing is known."""
        return max(draws / self.rate, _SHORTEST_WAIT) if self.rate else 1.0
