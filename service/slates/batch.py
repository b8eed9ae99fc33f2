"""The stored slate: what a batch run made for the user, without what must not be shown any more."""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import structlog

from contract.routing import CHAMPION
from contract.rules.attributes import ItemAttributes
from contract.slates import (
    Degradation,
    Published,
    Rule,
    SlateSource,
    StoredSlate,
    degradation_mask,
    degradations,
)
from contract.tensors import PAD_ID
from service.failures import DependencyUnavailable, NotStored
from service.limits.deadline import Clock, Deadline
from service.slate import ItemTrace, MovedItem, Provenance, Slate
from service.slates.ladder import SlateRequest
from service.slates.popular import FILTERS
from service.slates.ruled import columns_of, order_by_rules
from service.store.redis_reader import REDIS
from service.variant import Variant

log = structlog.get_logger()

SHARE = 0.5
"""Of the time that is left, what this step may take; the rest is the popular slate's."""
SPARE = 4
"""Items looked at beyond those wanted, so that one that is unavailable seldom costs another round trip."""
_RECOMPUTED = degradation_mask([Degradation.SHORT, Degradation.DISPLAY, Degradation.CAPS])


class BatchStep:
    """Reads the user's slate of the published batch run, and takes out what must not be shown.

    The newest run of the lineage that holds the user counts. Items that the user has seen since, that are not
    available now, that the request excludes or that do not pass its filters are gone; those behind them move
    up. The request's context is not asked for: the slate was made without.
    """

    name = "batch"

    def __init__(self, variant: Variant, unix_clock: Clock = time.time) -> None:
        self._variant, self._unix_clock = variant, unix_clock
        self.published = Published(())
        """What was published when that was last read."""

    async def slate(self, query: SlateRequest) -> Slate:
        """Makes the stored slate.

        Raises:
            NotStored: nothing is published, the user has no slate, or nothing is left of it; also where Redis
                fails and, as far as is known, nothing is published: then nobody misses it, unless it was
                asked for outright.
            DependencyUnavailable: Redis does not answer, or not in time, or what it holds cannot be read.
        """
        request, deadline = query.request, query.deadline.share(SHARE)
        if request.user_id == PAD_ID:
            raise NotStored("no user is named")
        try:
            lineage = (await self.look(self._variant.store_time_s(deadline))).lineage
        except DependencyUnavailable as error:
            if request.source is None and not self.published.lineage:
                raise NotStored(str(error)) from None
            raise
        if not lineage:
            raise NotStored("no run is published")
        time_s = self._variant.store_time_s(deadline)
        stored, seen = await self._variant.store.stored(lineage, request.user_id, time_s)
        if stored is None:
            raise NotStored("no slate is stored for this user")
        if query.arm != CHAMPION and stored.bundle != self._variant.name:
            raise NotStored("the slate that is stored for this user is of another arm's bundle")
        provenance = self._provenance(stored)
        item_ids = stored.item_ids.tolist()
        removed = await self._removed(query, item_ids, seen, deadline)
        attributes = None
        if not query.rules.is_none:
            attributes = await self._attributes(query, item_ids, deadline)
        slate = left_of(stored, query, removed, provenance, attributes)
        if not slate.item_ids:
            raise NotStored("nothing is left of the slate that is stored for this user")
        query.log_fields |= {"run": provenance.run, "age_s": provenance.age_s}
        return slate

    async def look(self, timeout_s: float) -> Published:
        """Reads which run is published, and remembers it.

        Raises:
            DependencyUnavailable: Redis does not answer in time, or the pointer cannot be read.
        """
        self.published = await self._variant.store.published(timeout_s)
        return self.published

    def _provenance(self, stored: StoredSlate) -> Provenance:
        """Says where the slate comes from.

        Raises:
            DependencyUnavailable: it holds what no run writes.
        """
        try:
            made_at = datetime.fromtimestamp(stored.made_at_ms / 1000, UTC)
            if not np.isfinite(stored.item_scores).all() or (stored.item_ids == PAD_ID).any():
                raise ValueError("an item or a score is none")
        except (ValueError, OverflowError, OSError) as error:
            log.warning("damaged", run=stored.run, reason=str(error))
            raise DependencyUnavailable(REDIS, f"a slate of run {stored.run}: {error}") from None
        age_s = max(0.0, self._unix_clock() - made_at.timestamp())
        text = made_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return Provenance(stored.bundle, stored.run, text, round(age_s, 3))

    async def _removed(
        self, query: SlateRequest, item_ids: list[int], seen: list[int], deadline: Deadline
    ) -> dict[int, str]:
        """Which items are not shown, and by which rule; where nobody asks why, only as far as is needed."""
        variant, request = self._variant, query.request
        removed = dict.fromkeys(request.exclude_item_ids, str(Rule.EXCLUDED))
        removed |= dict.fromkeys(seen, str(Rule.SEEN))
        ids = variant.ids
        if ids.items == "string":  # what another bundle had, and this one cannot name
            removed |= {one: str(Rule.UNAVAILABLE) for one in item_ids if ids.item(one) is None}
        left = [item_id for item_id in item_ids if item_id not in removed]
        if query.filters and left:
            passing = await variant.store.passing(left, query.filters, variant.store_time_s(deadline))
            removed |= {item_id: FILTERS for item_id in left if item_id not in passing}
            left = [item_id for item_id in left if item_id in passing]
        start = 0
        needs_all = request.explain or not query.rules.is_none
        for end in (len(left),) if needs_all else (request.n + SPARE, len(left)):
            some = left[start:end]
            if not some:
                break
            gone = await variant.store.unavailable(some, variant.store_time_s(deadline))
            removed |= dict.fromkeys(gone, str(Rule.UNAVAILABLE))
            if len(some) - len(gone) >= request.n:
                break
            start = end
        return removed

    async def _attributes(
        self, query: SlateRequest, item_ids: list[int], deadline: Deadline
    ) -> ItemAttributes:
        """Reads what the items hold in the columns that rules are about."""
        variant, columns = self._variant, columns_of(query.rules)
        held: Mapping[int, Mapping[str, AbstractSet[str]]] = {}
        if columns:
            held = await variant.store.held(item_ids, columns, variant.store_time_s(deadline))
        dtypes = {name: variant.manifest.filters[name] for name in columns}
        return ItemAttributes.of_held([*(held.get(one, {}) for one in item_ids), {}], dtypes)


def left_of(
    stored: StoredSlate,
    query: SlateRequest,
    removed: Mapping[int, str],
    provenance: Provenance,
    attributes: ItemAttributes | None = None,
) -> Slate:
    """Takes the best `n` items that are not removed, by the rules where there are attributes; `short` is said
    of these, not of what was stored."""
    request, item_ids, scores = query.request, stored.item_ids.tolist(), stored.item_scores.tolist()
    left = [(i, score) for i, score in zip(item_ids, scores, strict=True) if i not in removed]
    moves: list[MovedItem] = []
    ruled = None
    if attributes is not None:
        rows = {item_id: row for row, item_id in enumerate(item_ids)}
        odds = np.minimum.accumulate(np.clip([score for _, score in left], 0, 1 - 1e-9))
        own = 0 if request.rules is None else len(request.rules.boosts)
        ruled = order_by_rules(
            replace(query.rules, boosts=query.rules.boosts[:own]),  # the settings' are in what was stored
            [item_id for item_id, _ in left],
            (odds / (1 - odds)).tolist(),
            attributes,
            [rows[item_id] for item_id, _ in left],
            user_id=request.user_id,
            n=request.n,
            shown=[rows.get(item_id, len(rows)) for item_id in request.shown],
        )
        left, moves = [left[one] for one in ruled.order], ruled.moves
    left = left[: request.n]
    mask = stored.degraded & ~_RECOMPUTED
    if len(left) < request.n:
        mask |= degradation_mask([Degradation.SHORT])
    places = {item_id: place for place, (item_id, _) in enumerate(left, 1)}
    return Slate(
        source=SlateSource.BATCH,
        item_ids=[item_id for item_id, _ in left],
        scores=[score for _, score in left],
        degraded=[str(flag) for flag in degradations(mask)] + (ruled.degraded if ruled else []),
        retrieved=[
            ItemTrace(
                item_id,
                SlateSource.BATCH,
                rank,
                score,
                removed.get(item_id),
                slate_rank=places.get(item_id),
            )
            for rank, (item_id, score) in enumerate(zip(item_ids, scores, strict=True), 1)
        ]
        if request.explain
        else None,
        moves=moves,
        provenance=provenance,
    )
