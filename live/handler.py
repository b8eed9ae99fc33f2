"""Who handles which streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from live.archive import Archive
from live.streams import Entry
from live.transaction import Transaction


class Handler(Protocol):
    """What is done with the entries of some streams."""

    @property
    def streams(self) -> Sequence[str]:
        """Their keys. Of each, one consumer at a time handles the entries, in their order."""

    @property
    def archive(self) -> Archive | None:
        """Where entries go once they had their effect; without one they are gone with it."""

    def apply(self, entries: Sequence[Entry], transaction: Transaction) -> None:
        """Adds to the transaction what these entries change: it is committed together with the position
        behind them, so each has its effect once. Called anew where somebody changed meanwhile what was read.
        """
