"""The gateway's store without a server, for its tests."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from contract.filters import Filters, passes
from contract.ids import OwnId
from contract.routing import GatewayReport
from contract.shown import Shown
from contract.slates import Published, StoredSlate
from contract.watched import Watched
from service.store.store import Card


class MemoryStore:
    """Gives what it was told; the same suite holds it and the real store."""

    def __init__(
        self,
        seen: Mapping[int, Sequence[int]],
        cards: Mapping[int, Card],
        published: Published = Published(()),  # noqa: B008  (frozen)
        slates: Iterable[tuple[int, StoredSlate]] = (),
        unavailable: Collection[int] = (),
        columns: Mapping[int, Mapping[str, AbstractSet[str]]] | None = None,
    ) -> None:
        """Takes slates with the users they are for, and by item the values of columns, in canonical form."""
        self._seen, self._cards, self._published = seen, cards, published
        self._slates = {(slate.run, user_id): slate for user_id, slate in slates}
        self._unavailable, self._columns = unavailable, columns or {}
        self.live: dict[int, OwnId | None] = {}
        self.shown: list[Shown] = []
        self.finding: Watched | None = None
        self.record: bytes | None = None
        self.reported: GatewayReport | None = None

    async def seen(self, user_id: int, timeout_s: float) -> list[int]:  # noqa: ARG002  (memory is never late)
        """Copies the user's list."""
        return list(self._seen.get(user_id, ()))

    async def cards(self, item_ids: Sequence[int], timeout_s: float) -> dict[int, Card]:  # noqa: ARG002
        """Copies the cards that exist."""
        return {item_id: dict(self._cards[item_id]) for item_id in item_ids if item_id in self._cards}

    async def published(self, timeout_s: float) -> Published:  # noqa: ARG002
        """Gives what it was told."""
        return self._published

    async def stored(
        self, runs: Sequence[str], user_id: int, timeout_s: float
    ) -> tuple[StoredSlate | None, list[int]]:
        """Looks through the runs in turn."""
        found = (self._slates.get((run, user_id)) for run in runs)
        return next((slate for slate in found if slate), None), await self.seen(user_id, timeout_s)

    async def unavailable(self, item_ids: Sequence[int], timeout_s: float) -> set[int]:  # noqa: ARG002
        """Looks each item up."""
        return {item_id for item_id in item_ids if item_id in self._unavailable}

    async def passing(
        self,
        item_ids: Sequence[int],
        filters: Filters,
        timeout_s: float,  # noqa: ARG002
    ) -> set[int]:
        """Compares the values."""
        return {item_id for item_id in item_ids if passes(filters, self._columns.get(item_id, {}))}

    async def held(
        self,
        item_ids: Sequence[int],
        columns: Sequence[str],
        timeout_s: float,  # noqa: ARG002
    ) -> Mapping[int, Mapping[str, AbstractSet[str]]]:
        """Copies the values."""
        by_item = {item_id: self._columns.get(item_id, {}) for item_id in item_ids}
        return {
            one: {name: values[name] for name in columns if name in values} for one, values in by_item.items()
        }

    async def materialized_at(self, timeout_s: float) -> float:  # noqa: ARG002
        """Knows of none."""
        return math.nan

    async def live_items(
        self,
        since: int,
        timeout_s: float,  # noqa: ARG002
    ) -> tuple[int, dict[int, OwnId | None]]:
        """Gives what it was told, `live`."""
        return (len(self.live), dict(self.live) if since < len(self.live) else {})

    def drop(self, item_ids: Iterable[int]) -> None:
        """Has nothing beside what it was told."""

    async def watched(self, timeout_s: float) -> Watched | None:  # noqa: ARG002
        """Gives what it was told."""
        return self.finding

    async def note_shown(self, notes: Sequence[Shown], timeout_s: float) -> None:  # noqa: ARG002
        """Keeps them in a list."""
        self.shown.extend(notes)

    async def routing(self, timeout_s: float) -> bytes | None:  # noqa: ARG002
        """Gives what it was told."""
        return self.record

    async def replace_routing(self, before: str, after: str, timeout_s: float) -> bool:  # noqa: ARG002
        """Compares and replaces."""
        is_same = (self.record or b"").decode() == before
        if is_same:
            self.record = after.encode()
        return is_same

    async def report(self, gateway: str, report: GatewayReport, timeout_s: float) -> None:  # noqa: ARG002
        """Keeps the last one."""
        self.reported = report

    def beside(self, bundle: str) -> MemoryStore:  # noqa: ARG002
        """Is of every bundle."""
        return self

    async def check(self, timeout_s: float) -> str:  # noqa: ARG002
        """Is always there."""
        return "in memory"
