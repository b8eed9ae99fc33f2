"""The popular slate: what is answered when the ensemble does not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from contract.filters import Filters
from contract.slates import Degradation, Rule, SlateSource
from service.bundle import PopularItem
from service.failures import DependencyUnavailable
from service.schemas import RecommendRequest
from service.slates.ladder import Asked
from service.store.store import Store
from service.triton.tensors import Retrieved, Slate

SEEN = "seen"
"""What an answer lacks where items that the user has seen could not be removed."""

FILTERS = "filters"
"""What an answer lacks where the popular list could not be checked against every filter."""


class PopularSlates:
    """Answers from the popular list alone: no server is asked, nothing can fail."""

    def __init__(self, items: Sequence[PopularItem]) -> None:
        self._items = tuple(items)

    def slate(self, request: RecommendRequest, seen: Collection[int]) -> Slate:
        """Takes the best `n` popular items that are not seen, not excluded, and known to pass the filters.

        An item whose value in a filtered column is not known is left out: breaking a caller's rule is
        worse than a short answer, which says so. Only an explanation looks further than the last item taken.
        """
        seen, excluded = set(seen), set(request.exclude_item_ids)
        kept: list[PopularItem] = []
        retrieved: list[Retrieved] = []
        is_unchecked = False
        for rank, item in enumerate(self._items, 1):
            slate_rank = None
            if item.item_id in seen:
                removed_by: str | None = str(Rule.SEEN)
            elif item.item_id in excluded:
                removed_by = str(Rule.EXCLUDED)
            elif request.filters and not (passes := _passes(item, request.filters)):
                removed_by = FILTERS
                is_unchecked |= passes is None
            else:
                removed_by = None
                if len(kept) < request.n:
                    kept.append(item)
                    slate_rank = len(kept)
            if request.explain:
                retrieved.append(Retrieved(item.item_id, rank, item.score, removed_by, slate_rank=slate_rank))
            elif len(kept) == request.n:
                break
        degraded = [FILTERS] if is_unchecked else []
        if len(kept) < request.n:
            degraded.append(str(Degradation.SHORT))
        return Slate(
            source=SlateSource.POPULAR,
            item_ids=[item.item_id for item in kept],
            scores=[item.score for item in kept],
            degraded=degraded,
            retrieved=retrieved if request.explain else None,
        )


class PopularStep:
    """The last step of the ladder: it asks Redis for what the user has seen, and does without if it must."""

    name = "popular"

    def __init__(self, items: Sequence[PopularItem], store: Store, store_timeout_s: float) -> None:
        self._slates, self._store, self._store_timeout_s = PopularSlates(items), store, store_timeout_s

    async def slate(self, asked: Asked) -> Slate:
        """Makes the popular slate; seen items are removed where Redis answers in the time left."""
        try:
            timeout_s = min(asked.deadline.left_s(), self._store_timeout_s)
            seen = await self._store.seen(asked.request.user_id, timeout_s)
        except DependencyUnavailable:
            slate = self._slates.slate(asked.request, ())
            return replace(slate, degraded=[SEEN, *slate.degraded])
        return self._slates.slate(asked.request, seen)


def _passes(item: PopularItem, filters: Filters) -> bool | None:
    """Whether the item has one of the allowed values in every column; None where that cannot be told."""
    is_told = True
    for column, allowed in filters.items():
        if column not in item.fields:
            is_told = False
            continue
        value = item.fields[column]
        values = value if isinstance(value, list) else [value]
        if not _spellings(values) & _spellings(allowed):
            return False
    return True if is_told else None


def _spellings(values: Sequence[object]) -> set[object]:
    """Each value, and as text: a display field is text whatever its column is."""
    return {*values, *map(str, values)}
