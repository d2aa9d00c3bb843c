"""What a verification has found so far: what held, and what did not."""

from __future__ import annotations

from certserve.errors import VerificationFailed

__all__ = ["Ledger"]


class Ledger:
    """Collects claims.

    Attributes:
        checked: what held, a sentence each.
    """

    def __init__(self) -> None:
        self.checked: list[str] = []
        self._discrepancies: list[str] = []

    def claim(self, holds: bool, checked: str, discrepancy: str) -> bool:
        """Note `checked` if it holds and `discrepancy` if it does not; whether it holds."""
        (self.checked if holds else self._discrepancies).append(checked if holds else discrepancy)
        return holds

    def conclude(self) -> None:
        """Raises VerificationFailed: something did not hold; all of it."""
        if self._discrepancies:
            raise VerificationFailed(self._discrepancies)
