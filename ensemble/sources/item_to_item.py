"""What goes with the user's items, or with the item that others are to be like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contract.arrays import Floats, Ints, filled
from contract.bundle import SourceSpec
from contract.candidates import best_reached, reached
from contract.item_to_item import UNKNOWN, ItemToItem, Reached
from contract.tensors import PAD_ID
from ensemble.sources.source import Users
from ensemble.stores.positions import Positions


class ItemToItemSource:
    """Sums what the table says of a history's items; in the process. Of items that came after the bundle it
    says nothing."""

    is_whole = True

    def __init__(self, spec: SourceSpec, table: ItemToItem, positions: Positions) -> None:
        """Takes the positions of the table's items."""
        self.spec, self.table, self.positions = spec, table, positions

    def candidates(self, users: Users, counts: Sequence[int], width: int) -> Ints:
        """Gives the best of what the history leads to; what is not eligible is left out."""
        found = filled((len(users.vectors), width), UNKNOWN)
        for row, of_user in enumerate(self._reached(users)):
            count = min(counts[row], int(users.survivors[row]), width)
            if count:
                best = best_reached(of_user, users.eligible[row], count)
                found[row, : len(best)] = best
        return found

    def scores(self, users: Users, positions: Ints) -> Floats:
        """Looks up what was summed for each user."""
        positions = np.minimum(positions, len(self.table.items))  # where the sums have no item's: 0
        found = np.zeros(positions.shape, dtype=np.float32)
        for row, of_user in enumerate(self._reached(users)):
            found[row] = of_user.of(positions[row])
        return found

    def _reached(self, users: Users) -> list[Reached]:
        name = self.spec.name
        if name not in users.worked_out:
            users.worked_out[name] = [reached(self.table, one, self.spec) for one in self._histories(users)]
        found: list[Reached] = users.worked_out[name]
        return found

    def _histories(self, users: Users) -> list[Ints]:
        """Gives each user's items (H,); where items like another are wanted, that one."""
        history = self.spec.history
        ids = filled((len(users.vectors), 1), PAD_ID) if history is None else users.features[history]
        histories = list(self.positions.of(ids))
        for row in users.are_like.nonzero()[0]:
            histories[row] = self.positions.of(users.like_item_ids[row : row + 1])
        return histories
