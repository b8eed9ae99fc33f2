"""Where an item stands in the catalogue."""

from __future__ import annotations

from copy import copy

import numpy as np
import numpy.typing as npt

from contract.arrays import Ids, Ints, filled
from contract.item_to_item import UNKNOWN

TABLE_SPAN = 8
"""Numbers between the least and the greatest id, per item, up to which a table of them all is kept."""


class Positions:
    """Finds items in the catalogue by their ids: in a table, where the ids lie close together, as counted
    ones do; else by halving."""

    def __init__(self, item_ids: Ids) -> None:
        """Takes the catalogue's ids (I,), ascending."""
        self.item_ids = item_ids
        self._table: npt.NDArray[np.int32] | None = None
        self._new_ids = self._new_positions = np.empty(0, dtype=np.int64)
        if len(item_ids):
            self._first, last = int(item_ids[0]), int(item_ids[-1])
            span = last - self._first + 1
            if span <= TABLE_SPAN * len(item_ids):
                self._table = np.full(span + 1, UNKNOWN, dtype=np.int32)
                self._table[item_ids - self._first] = np.arange(len(item_ids), dtype=np.int32)

    def grown(self, new_ids: Ids) -> Positions:
        """Gives the positions of a catalogue that has these items (L,) as well, in their order, behind the
        first I."""
        grown, order = copy(self), np.argsort(new_ids)
        grown._new_ids, grown._new_positions = new_ids[order], len(self.item_ids) + order
        return grown

    def __len__(self) -> int:
        """Counts the items."""
        return len(self.item_ids) + len(self._new_ids)

    def of(self, item_ids: Ids) -> Ints:
        """Gives the position of each id, in the same shape; `UNKNOWN` where the catalogue has it not."""
        at = self._of_first(item_ids)
        if len(self._new_ids):
            is_other = at == UNKNOWN
            others = item_ids[is_other]
            places = self._new_ids.searchsorted(others)
            is_there = self._new_ids.take(places, mode="clip") == others
            at[is_other] = np.where(is_there, self._new_positions.take(places, mode="clip"), UNKNOWN)
        return at

    def rows_of(self, item_ids: Ids) -> Ints:
        """Gives the row of each id where all that lies by position ends with a row for no item: that row,
        where the catalogue has it not."""
        at = self.of(item_ids)
        return np.where(at == UNKNOWN, len(self), at)

    def _of_first(self, item_ids: Ids) -> Ints:
        if self._table is not None:
            # Unsigned, whatever lies before the first id lies behind the last.
            at = np.minimum((item_ids - self._first).view(np.uint64), len(self._table) - 1)
            return self._table.take(at.view(np.int64)).astype(np.int64)
        if not len(self.item_ids):
            return filled(item_ids.shape, UNKNOWN)
        at = np.searchsorted(self.item_ids, item_ids)
        is_there = self.item_ids.take(at, mode="clip") == item_ids
        return np.where(is_there, at, UNKNOWN)
