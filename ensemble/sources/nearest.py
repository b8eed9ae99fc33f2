"""The items whose vectors are nearest to the user's."""

from __future__ import annotations

from collections.abc import Sequence

from contract.arrays import Floats, Ints
from contract.bundle import SourceSpec
from ensemble.sources.source import Users
from ensemble.stores.catalogue import Catalogue
from ensemble.stores.vectors import VectorIndex


class NearestItems:
    """Searches the index; its scores are inner products."""

    def __init__(self, spec: SourceSpec, index: VectorIndex, catalogue: Catalogue) -> None:
        self.spec, self.index, self.catalogue = spec, index, catalogue

    @property
    def is_whole(self) -> bool:
        """Whether the index holds every item."""
        return self.index.is_whole

    def candidates(self, users: Users, counts: Sequence[int], width: int) -> Ints:
        """Searches the index, in one round trip."""
        ids, _ = self.index.search(users.vectors, counts, users.filters, width)
        return self.catalogue.positions.of(ids)

    def scores(self, users: Users, positions: Ints) -> Floats:
        """Computes each item's inner product with its user."""
        return self.catalogue.products(users.vectors, positions)
