"""The popular slate: what is answered when the ensemble does not."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from contract.affinity import LISTS
from contract.filters import Filters, held_values, passes
from contract.rules.attributes import ItemAttributes
from contract.rules.order_rules import NO_RULES, CheckedRules
from contract.slates import Degradation, Rule, SlateSource
from contract.tensors import PAD_ID
from service.failures import DependencyUnavailable
from service.schemas import SlateBody
from service.slate import ItemTrace, MovedItem, Slate
from service.slates.ladder import SlateRequest
from service.slates.ruled import order_by_rules
from service.variant import PopularItem, Variant

SEEN = "seen"
"""What an answer lacks where what the user has seen, or what is not available, could not be removed."""

FILTERS = "filters"
"""What an answer lacks where the popular list could not be checked against every filter."""


POOL = 100
"""Popular items of which rules choose."""
EXPLAINED = 200
"""Items of the popular list that an explanation tells of, at least."""


class PopularSlates:
    """Answers from the popular list alone: no server is asked, nothing can fail."""

    def __init__(self, items: Sequence[PopularItem], dtypes: Mapping[str, str]) -> None:
        """Takes the columns that the bundle filters on, with their dtypes."""
        self._items = tuple((item, _held(item, dtypes)) for item in items)
        self._rows = {item.item_id: row for row, (item, _) in enumerate(self._items)}
        self._attributes = ItemAttributes.of_held([*(held for _, held in self._items), {}], dtypes)

    def slate(
        self,
        request: SlateBody,
        filters: Filters,
        seen: Collection[int],
        unavailable: Collection[int] = (),
        rules: CheckedRules = NO_RULES,
    ) -> Slate:
        """Takes the best `n` popular items that are available, not seen, not excluded, and known to pass the
        filters; by the rules, of the best `POOL` such items.

        An item whose value in a filtered column is not known is left out: breaking a caller's rule is
        worse than a short answer, which says so. Only an explanation looks further than the last item taken,
        as far as the first `EXPLAINED` items.
        """
        seen, excluded = set(seen), {*request.exclude_item_ids, request.like_item_id}
        selected: list[PopularItem] = []
        retrieved: list[ItemTrace] = []
        is_unchecked = False
        pool = request.n if rules.is_none else max(POOL, request.n)
        for rank, (item, held) in enumerate(self._items, 1):
            slate_rank = None
            if item.item_id in seen:
                removed_by: str | None = str(Rule.SEEN)
            elif item.item_id in excluded:
                removed_by = str(Rule.EXCLUDED)
            elif item.item_id in unavailable:
                removed_by = str(Rule.UNAVAILABLE)
            elif not passes(filters, held):
                removed_by = FILTERS
                known = filters.keys() & held.keys()
                is_unchecked |= len(known) < len(filters) and passes({c: filters[c] for c in known}, held)
            else:
                removed_by = None
                if len(selected) < pool:
                    selected.append(item)
                    slate_rank = len(selected)
            if request.explain:
                trace = ItemTrace(item.item_id, SlateSource.POPULAR, rank, item.score, removed_by)
                retrieved.append(replace(trace, slate_rank=slate_rank))
            if len(selected) == pool and (not request.explain or rank >= EXPLAINED):
                break
        degraded = [FILTERS] if is_unchecked else []
        moves: list[MovedItem] = []
        if not rules.is_none:
            selected, moves, more = self._by_rules(request, selected, rules)
            degraded += more
            places = {item.item_id: place for place, item in enumerate(selected, 1)}
            retrieved = [replace(one, slate_rank=places.get(one.item_id)) for one in retrieved]
        if len(selected) < request.n:
            degraded.append(str(Degradation.SHORT))
        return Slate(
            source=SlateSource.POPULAR,
            item_ids=[item.item_id for item in selected],
            scores=[item.score for item in selected],
            degraded=degraded,
            retrieved=retrieved if request.explain else None,
            moves=moves,
        )

    def _by_rules(
        self, request: SlateBody, selected: list[PopularItem], rules: CheckedRules
    ) -> tuple[list[PopularItem], list[MovedItem], list[str]]:
        most = max((item.score for item in selected), default=0.0)
        ruled = order_by_rules(
            rules,
            [item.item_id for item in selected],
            [max(0.0, item.score / most) if most > 0 else 0.0 for item in selected],
            self._attributes,
            [self._rows[item.item_id] for item in selected],
            user_id=request.user_id,
            n=request.n,
            shown=[self._rows.get(item_id, len(self._items)) for item_id in request.shown],
        )
        return [selected[one] for one in ruled.order], ruled.moves, ruled.degraded


class PopularStep:
    """The last step of the ladder: it asks Redis for what the user has seen and what is not available, and
    does without if it must."""

    name = "popular"

    def __init__(self, variant: Variant) -> None:
        self._slates = PopularSlates(variant.popular, variant.manifest.filters)
        self._variant = variant
        self._gone: set[int] = set()
        """Items that were not available when last asked about: left out where Redis does not answer."""

    async def slate(self, query: SlateRequest) -> Slate:
        """Makes the popular slate; what is seen or unavailable is removed where Redis answers in time, else
        what is known to have been unavailable.

        What is taken instead of unavailable items may be unavailable too, and is asked about in turn.
        """
        request = query.request
        seen = [item for name in LISTS for item in request.user_features.get(name) or ()]
        unavailable: set[int] = set()
        try:
            if request.user_id != PAD_ID:
                seen += await self._variant.store.seen(request.user_id, self._time_s(query))
            while True:
                slate = self._slates.slate(request, query.filters, seen, unavailable, query.rules)
                gone = await self._variant.store.unavailable(slate.item_ids, self._time_s(query))
                self._gone = self._gone.difference(slate.item_ids) | gone
                if not gone:
                    return slate
                unavailable |= gone
        except DependencyUnavailable:
            gone = unavailable | self._gone
            slate = self._slates.slate(request, query.filters, seen, gone, query.rules)
            return replace(slate, degraded=[SEEN, *slate.degraded])

    def _time_s(self, query: SlateRequest) -> float:
        return self._variant.store_time_s(query.deadline)

    async def filled(self, slate: Slate, query: SlateRequest) -> Slate:
        """Fills a slate that is short up to `n` from the popular list; as it is, where what the user has seen
        cannot be read: better short than seen."""
        request = query.request
        wanted = request.behind(slate.item_ids, n=request.n - len(slate.item_ids))
        more = await self.slate(replace(query, request=wanted))
        if SEEN in more.degraded or not more.item_ids:
            return slate
        is_short = str(Degradation.SHORT) in more.degraded
        return replace(
            slate,
            item_ids=[*slate.item_ids, *more.item_ids],
            scores=[*slate.scores, *more.scores],
            degraded=[
                *(one for one in slate.degraded if is_short or one != Degradation.SHORT),
                *({str(Degradation.CAPS)} & {*more.degraded} - {*slate.degraded}),
            ],
            moves=[*slate.moves, *(one.behind(len(slate.item_ids)) for one in more.moves if one.to_place)],
            retrieved=_explained(slate, more) if request.explain else None,
            filled=len(more.item_ids),
        )


def _explained(slate: Slate, more: Slate) -> list[ItemTrace]:
    """Takes a slate and what it is filled with, gives the traces of both, and of each item one."""
    taken = {one.item_id: one for one in more.retrieved or () if one.slate_rank is not None}
    own = len(slate.item_ids)
    return [
        *(one for one in slate.retrieved or () if one.item_id not in taken),
        *(replace(one, slate_rank=own + (one.slate_rank or 0)) for one in taken.values()),
    ]


def _held(item: PopularItem, dtypes: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """What the item holds in the columns that it tells of; no value of the column's dtype tells nothing."""
    held = {}
    for column in dtypes.keys() & item.fields.keys():
        with suppress(ValueError, TypeError, OverflowError):
            held[column] = held_values(item.fields[column], dtypes[column])
    return held
