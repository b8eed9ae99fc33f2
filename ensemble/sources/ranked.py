"""One list of items for everyone, best first: what is popular."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contract.arrays import Floats, Ints, filled
from contract.bundle import SourceSpec
from contract.candidates import best_first
from contract.item_to_item import UNKNOWN
from ensemble.sources.source import Users

AHEAD = 4
"""How many times as many items as wanted are looked at first, before the whole list is."""


class RankedItems:
    """Gives the first items of the list that the user may get; in the process."""

    is_whole = True

    def __init__(self, spec: SourceSpec, item_scores: Floats) -> None:
        """Takes each item's score (I,), by position; an item of 0 is not in the list."""
        self.spec, self.item_scores = spec, np.append(item_scores, np.float32(0)).astype(np.float32)
        self.ranked = best_first(item_scores, len(item_scores))

    def candidates(self, users: Users, counts: Sequence[int], width: int) -> Ints:
        """Walks down the list; what is not eligible is left out."""
        found = filled((len(users.vectors), width), UNKNOWN)
        for row in range(len(found)):
            count = min(counts[row], int(users.survivors[row]), width)
            for ranked in (self.ranked[: AHEAD * count], self.ranked):
                best = ranked[users.eligible[row].take(ranked)][:count]
                if len(best) == count or len(ranked) == len(self.ranked):
                    break
            found[row, : len(best)] = best
        return found

    def scores(self, users: Users, positions: Ints) -> Floats:  # noqa: ARG002  (the same for everyone)
        """Looks up the items' scores."""
        return self.item_scores[positions]  # the last one is that of `UNKNOWN`
