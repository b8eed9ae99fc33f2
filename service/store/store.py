"""What the gateway reads beside the ensemble's slates: cards, what a user has seen, and stored slates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol, runtime_checkable

from contract.filters import Filters
from contract.ids import OwnId
from contract.routing import GatewayReport
from contract.shown import Shown
from contract.slates import Published, StoredSlate
from contract.watched import Watched

Card = dict[str, str | None]
"""An item's display fields."""


@runtime_checkable
class Store(Protocol):
    """Reads within a time limit, in one round trip each.

    Every method raises `DependencyUnavailable` where the store does not answer in `timeout_s` seconds, or
    holds something that cannot be read.
    """

    async def seen(self, user_id: int, timeout_s: float) -> list[int]:
        """Items that the user has seen, newest first; empty for a user without any."""

    async def cards(self, item_ids: Sequence[int], timeout_s: float) -> dict[int, Card]:
        """Display fields of those of the items that have any."""

    async def published(self, timeout_s: float) -> Published:
        """Which batch run is read now, or was a moment ago."""

    async def stored(
        self, runs: Sequence[str], user_id: int, timeout_s: float
    ) -> tuple[StoredSlate | None, list[int]]:
        """The user's slate in the first of these runs that has one, and what the user has seen."""

    async def unavailable(self, item_ids: Sequence[int], timeout_s: float) -> set[int]:
        """Those of the items that are not available now, or were not a few seconds ago."""

    async def passing(self, item_ids: Sequence[int], filters: Filters, timeout_s: float) -> set[int]:
        """Those of the items that are known to pass the filters."""

    async def held(
        self, item_ids: Sequence[int], columns: Sequence[str], timeout_s: float
    ) -> Mapping[int, Mapping[str, AbstractSet[str]]]:
        """What the items hold in these columns, in canonical form, as far as that is known."""

    async def materialized_at(self, timeout_s: float) -> float:
        """When features were last brought here, Unix time in seconds; NaN where that is not known."""

    async def live_items(self, since: int, timeout_s: float) -> tuple[int, dict[int, OwnId | None]]:
        """How often items changed live, and which did since it was so often: their own ids, None of those
        that were taken out."""

    def drop(self, item_ids: Iterable[int]) -> None:
        """Forgets what is at hand of some items."""

    async def watched(self, timeout_s: float) -> Watched | None:
        """What the watch found last; None where nobody watches."""

    async def note_shown(self, notes: Sequence[Shown], timeout_s: float) -> None:
        """Keeps the notes of what was shown, for whoever archives them."""

    async def routing(self, timeout_s: float) -> bytes | None:
        """The routing record as it stands there; None where there is none."""

    async def replace_routing(self, before: str, after: str, timeout_s: float) -> bool:
        """Replaces the record, and says so, if it still is `before`; empty where there was none."""

    async def report(self, gateway: str, report: GatewayReport, timeout_s: float) -> None:
        """Keeps what this gateway says of the record."""

    def beside(self, bundle: str) -> Store:
        """The store of another bundle of the same data set, over the same connections."""

    async def check(self, timeout_s: float) -> str:
        """Says in a few words what was found."""
