"""The secret that keys the noise, epoch by epoch: one is current, and a request keeps the one it began with.

Who knows the secret of an epoch can choose images after their noise. So a secret may be published only when no
request is drawn with it any more, and must never be current again afterwards.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from certserve.noise.keystream import Secret

__all__ = ["Epochs"]

_log = logging.getLogger(__name__)


class Epochs:
    """The secrets of one server; used on its event loop only."""

    def __init__(self, secret: Secret) -> None:
        self._current = secret
        self._past: set[str] = set()
        self._requests: Counter[str] = Counter()

    @property
    def current(self) -> Secret:
        """What the next question is drawn with."""
        return self._current

    def begin(self, secret: Secret) -> bool:
        """Draw every later question with `secret`; False if that is what was done already.

        Raises:
            ValueError: it was current before, and may be public by now.
        """
        if secret == self._current:
            return False
        if secret.commitment in self._past:
            raise ValueError(
                f"the secret with commitment {secret.commitment} keyed an earlier epoch; make another one "
                "(`certserve secret rotate`)"
            )
        ended = self._current.commitment
        self._past.add(ended)
        self._current = secret
        running = self._requests[ended]
        _log.info("a new epoch: commitment %s; %d requests go on under %s", secret.commitment, running, ended)
        self._forget_unused(ended)
        return True

    @contextmanager
    def held(self) -> Iterator[Secret]:
        """The current secret, for one request: it counts as in use until the request has ended."""
        secret = self._current
        self._requests[secret.commitment] += 1
        try:
            yield secret
        finally:
            self._requests[secret.commitment] -= 1
            self._forget_unused(secret.commitment)

    def _forget_unused(self, commitment: str) -> None:
        if self._requests[commitment] == 0:
            del self._requests[commitment]
            if commitment != self._current.commitment:
                _log.info("no request is drawn with the secret of commitment %s here any more", commitment)
