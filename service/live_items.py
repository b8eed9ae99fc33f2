"""Hears of items that were put, changed or taken out: what is at hand of them is read anew, and new ones have
their names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from contract.ids import OwnId
from service.failures import DependencyUnavailable
from service.variant import Variant

log = structlog.get_logger()

EVERY_S, TIMEOUT_S = 0.5, 1.0
"""Seconds between two looks, and that one may take: nobody waits for it."""


class LiveItemsFollower:
    """Looks again and again, for all bundles that this gateway serves."""

    def __init__(
        self, served: Callable[[], Iterable[Variant]], drop: Callable[[Iterable[int]], None]
    ) -> None:
        """Takes what gives the bundles that are served now, of which the store of the first is asked, and
        what else forgets what it has read of items."""
        self._served, self._drop, self._version = served, drop, 0
        self._names: dict[int, OwnId] = {}
        self._changed: set[int] = set()
        self._is_told = False

    async def follow(self) -> None:
        """Looks until it is cancelled."""
        while True:
            try:
                await self.look()
                self._is_told = False
            except DependencyUnavailable as error:
                if not self._is_told:
                    log.warning("live_items_not_read", reason=str(error))
                self._is_told = True
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Looks once.

        Raises:
            DependencyUnavailable: the store did not answer.
        """
        variants = list(self._served())
        version, changed = await variants[0].store.live_items(self._version, TIMEOUT_S)
        self._names |= {number: own for number, own in changed.items() if own is not None}
        self._changed |= changed.keys()
        for variant in variants:
            variant.ids.live = self._names
            if len(variant.changed) < len(self._changed):  # it has no other
                variant.changed.update(self._changed)
            variant.store.drop(changed)
        self._drop(changed)
        self._version = version
