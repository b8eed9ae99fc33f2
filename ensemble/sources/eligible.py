"""Which items of the catalogue may become candidates of a user at all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from contract.arrays import Bools
from contract.rules.attributes import ItemAttributes
from contract.tensors import PAD_ID
from ensemble.sources.source import Users
from ensemble.stores.items import ItemTable
from ensemble.stores.positions import Positions


class EligibleItems:
    """Marks them, for sources in the process."""

    def __init__(
        self, positions: Positions, items: ItemTable, attributes: Callable[[], ItemAttributes]
    ) -> None:
        """Takes the positions of the catalogue, whose items the table holds in the same order, and what gives
        the items' attributes: they are read when somebody filters."""
        self.positions, self.items, self.attributes = positions, items, attributes

    def of(self, users: Users) -> Bools:
        """Gives (B,I+1): available, neither seen nor excluded, and passing the user's filters; the last
        column stands for `UNKNOWN`, which nobody may get."""
        available = self.items.available[: len(self.positions)]
        eligible = np.zeros((len(users.vectors), len(self.positions) + 1), dtype=np.bool_)
        eligible[:, : len(available)] = available
        flat, width = eligible.reshape(-1), eligible.shape[1]
        for ids in (users.seen_item_ids, users.exclude_item_ids):
            at = (ids.reshape(-1) != PAD_ID).nonzero()[0]
            gone = self.positions.of(ids.reshape(-1)[at]) % width  # `UNKNOWN` becomes the last column
            flat[at // ids.shape[1] * width + gone] = False
        for row, filters in enumerate(users.filters):
            if filters:
                eligible[row] &= self.attributes().passing(filters)
        return eligible
