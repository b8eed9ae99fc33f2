"""The popular slate: what is answered when the ensemble does not."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ensemble import contract
from service.bundle import PopularItem
from service.schemas import RecommendRequest
from service.tensors import Retrieved, Slate

FILTERS = "filters"
"""What an answer lacks where the popular list could not be checked against every filter."""


class PopularSlates:
    """Answers from the popular list alone: no server is asked, nothing can fail."""

    def __init__(self, items: Sequence[PopularItem]) -> None:
        self._items = tuple(items)

    def slate(self, request: RecommendRequest, seen: Collection[int]) -> Slate:
        """Takes the best `n` popular items that are not seen, not excluded, and known to pass the filters.

        An item whose value in a filtered column is not known is left out: breaking a caller's rule is
        worse than a short answer, which says so.
        """
        seen, excluded = set(seen), set(request.exclude_item_ids)
        kept: list[PopularItem] = []
        retrieved: list[Retrieved] = []
        is_unchecked = False
        for rank, item in enumerate(self._items, 1):
            passes = _passes(item, request.filters)
            removed_by = (
                str(contract.Rule.SEEN)
                if item.item_id in seen
                else str(contract.Rule.EXCLUDED)
                if item.item_id in excluded
                else None
                if passes
                else FILTERS
            )
            is_unchecked |= removed_by == FILTERS and passes is None
            slate_rank = None
            if removed_by is None and len(kept) < request.n:
                kept.append(item)
                slate_rank = len(kept)
            retrieved.append(Retrieved(item.item_id, rank, item.score, removed_by, slate_rank=slate_rank))
        degraded = [FILTERS] if is_unchecked else []
        if len(kept) < request.n:
            degraded.append(str(contract.Degradation.SHORT))
        return Slate(
            source=contract.Source.POPULAR,
            item_ids=[item.item_id for item in kept],
            scores=[item.score for item in kept],
            degraded=degraded,
            retrieved=retrieved if request.explain else None,
        )


def _passes(item: PopularItem, filters: contract.Filters) -> bool | None:
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
