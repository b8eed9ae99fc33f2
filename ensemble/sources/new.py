"""The items that nobody had met when the bundle was made, or that came later; the nearest of them first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contract.arrays import Floats, Ints, filled
from contract.bundle import SourceSpec
from contract.candidates import nearest_first
from contract.item_to_item import UNKNOWN
from ensemble.sources.source import Users
from ensemble.stores.catalogue import Catalogue


class NewItems:
    """Compares the vectors of the new items alone with the user's; in the process."""

    is_whole = True

    def __init__(self, spec: SourceSpec, marks: Floats, catalogue: Catalogue) -> None:
        """Takes what is not 0 where the bundle has an item as new, (I + L,), by position."""
        self.spec, self.catalogue = spec, catalogue
        self.is_listed = np.append(marks != 0, False)  # the last one is that of `UNKNOWN`
        self.is_listed[len(catalogue.bundle_ids) : -1] = True
        self.listed = np.flatnonzero(self.is_listed)
        self.vectors = catalogue.vectors_of(self.listed)

    def candidates(self, users: Users, counts: Sequence[int], width: int) -> Ints:
        """Gives the nearest; what is not eligible is left out."""
        found = filled((len(users.vectors), width), UNKNOWN)
        for row, vector in enumerate(users.vectors):
            count = min(counts[row], int(users.survivors[row]), width)
            if count:
                eligible = users.eligible[row].take(self.listed)
                best = self.listed[nearest_first(self.vectors, vector, eligible, count)]
                found[row, : len(best)] = best
        return found

    def scores(self, users: Users, positions: Ints) -> Floats:
        """Computes the inner products of those that are new."""
        scores = np.zeros(positions.shape, dtype=np.float32)
        rows, columns = self.is_listed[positions].nonzero()
        if len(rows):  # few, if any
            vectors = self.catalogue.vectors_of(positions[rows, columns])
            scores[rows, columns] = (vectors * users.vectors[rows]).sum(axis=1)
        return scores
