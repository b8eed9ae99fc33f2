"""Which items of the catalogue may become candidates of a user at all."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from contract.arrays import Bools
from contract.filters import Condition
from contract.rules.attributes import ItemAttributes
from contract.tensors import PAD_ID
from ensemble.sources.source import Users
from ensemble.stores.items import ItemTable
from ensemble.stores.positions import Positions

KEPT = 64
"""Filters whose items are remembered: what one caller asks for, it asks for again."""


class EligibleItems:
    """Marks them, for sources in the process."""

    def __init__(
        self, positions: Positions, items: ItemTable, attributes: Callable[[], ItemAttributes]
    ) -> None:
        """Takes the positions of the catalogue, whose items the table holds in the same order, and what gives
        the items' attributes: they are read when somebody filters."""
        self.positions, self.items, self.attributes = positions, items, attributes
        self._passing = lru_cache(KEPT)(self._found)

    def of(self, users: Users) -> Bools:
        """Gives (B,I+1): available, neither seen nor excluded, and passing the user's filters; the last
        column stands for `UNKNOWN`, which nobody may get."""
        available = self.items.available[: len(self.positions)]
        eligible = np.zeros((len(users.vectors), len(self.positions) + 1), dtype=np.bool_)
        eligible[:, : len(available)] = available
        flat, width = eligible.reshape(-1), eligible.shape[1]
        for ids in (users.seen_item_ids, users.exclude_item_ids):
            at = np.flatnonzero(ids != PAD_ID)
            gone = self.positions.of(ids.reshape(-1)[at]) % width  # `UNKNOWN` becomes the last column
            flat[at // ids.shape[1] * width + gone] = False
        for row, filters in enumerate(users.filters):
            if filters:
                eligible[row, :-1] &= self._passing(tuple(filters.items()))
        return eligible

    def _found(self, filters: tuple[tuple[str, Condition], ...]) -> Bools:
        everything = np.arange(len(self.positions))
        return self.attributes().passes(dict(filters), everything)
