"""The items that can be retrieved, by position: those of the bundle, and those that came after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from contract.arrays import Array, Bools, Floats, Ids, Ints
from contract.item_to_item import UNKNOWN
from contract.rules.attributes import ChangedColumns, ItemAttributes
from contract.tensors import PAD_ID
from ensemble.stores.positions import Positions


def _none() -> Ids:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The bundle's items (I), by ascending id, and behind them the new ones (L), in the order in which they
    came. `vectors` (I,D) may be a memory-mapped file; `new_vectors` are (L,D)."""

    bundle_ids: Ids
    vectors: Floats
    new_ids: Ids = field(default_factory=_none)
    new_vectors: Floats = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))

    def grown(self, new_ids: Ids, new_vectors: Floats) -> Catalogue:
        """Gives the bundle's items and these new ones (L,), (L,D)."""
        grown = Catalogue(self.bundle_ids, self.vectors, new_ids, new_vectors)
        grown.__dict__["bundle_positions"] = self.bundle_positions
        return grown

    @cached_property
    def item_ids(self) -> Ids:
        """All ids, by position, (I + L,)."""
        return np.concatenate([self.bundle_ids, self.new_ids])

    @property
    def width(self) -> int:
        """D."""
        return int(self.vectors.shape[1])

    @cached_property
    def bundle_positions(self) -> Positions:
        """Finds the bundle's items alone: what its files speak of."""
        return Positions(self.bundle_ids)

    @cached_property
    def positions(self) -> Positions:
        """Finds items in it by their ids."""
        return self.bundle_positions.grown(self.new_ids) if len(self.new_ids) else self.bundle_positions

    def ids_of(self, positions: Ints) -> Ids:
        """Gives the ids of positions, in the same shape; `PAD_ID` for `UNKNOWN`."""
        return self._padded_ids.take(positions, mode="wrap")

    @cached_property
    def _padded_ids(self) -> Ids:
        return np.append(self.item_ids, PAD_ID)

    def vectors_of(self, positions: Array) -> Floats:
        """Gives the vectors of positions (..., D); any, where one is none of the catalogue's."""
        if not len(self.bundle_ids):
            found = np.zeros((*positions.shape, self.width), dtype=np.float32)
        else:
            found = self.vectors.take(positions, axis=0, mode="clip")
        if len(self.new_ids):
            is_new = positions >= len(self.bundle_ids)
            places = positions[is_new] - len(self.bundle_ids)
            found[is_new] = self.new_vectors.take(places, axis=0, mode="clip")
        return found

    def products(self, vectors: Floats, positions: Ints) -> Floats:
        """Gives the inner products of vectors (B,D) with items by position (B,R), 0 for `UNKNOWN`."""
        products: Floats = (self.vectors_of(positions) @ vectors[:, :, None])[:, :, 0]
        products[positions == UNKNOWN] = 0
        return products

    def scores(self, item_ids: Ids, vector: Floats) -> Floats:
        """Gives the inner product of a vector (D,) with each item's; all items must be of the catalogue."""
        scores: Floats = self.vectors_of(self.positions.of(item_ids)) @ vector
        return scores

    def likeness(self, item_ids: Ids) -> tuple[Floats, Bools]:
        """Takes items (B,), gives vectors (B,D) that find those like them, and which items are known, (B,).

        An item's own vector without its prior, the last coordinate: the inner product with it is the cosine
        of both items. Of an item that is not known, the prior alone: what most people like.
        """
        at = self.positions.of(item_ids)
        is_known: Bools = at != UNKNOWN
        vectors = np.where(is_known[:, None], self.vectors_of(at), np.float32(0))
        vectors[:, -1] = np.where(is_known, 0, 1)
        return vectors, is_known


@dataclass(frozen=True, eq=False)
class LiveItems:
    """What is known of items beside the bundle's files: the new ones' ids (L,) and vectors (L,D), in the
    order in which they came, and of those and of changed ones, by id, the values in each filterable column,
    in canonical form."""

    new_ids: Ids
    new_vectors: Floats
    held: dict[int, dict[str, frozenset[str]]]

    def changed(self, attributes: ItemAttributes, catalogue: Catalogue) -> ItemAttributes:
        """Takes what the bundle's items hold in the filterable columns, gives what those of a grown catalogue
        hold now."""
        places = catalogue.positions.of(np.fromiter(self.held, np.int64, len(self.held))).tolist()
        held = dict(zip(places, self.held.values(), strict=True))
        held.pop(UNKNOWN, None)
        return ItemAttributes(ChangedColumns(attributes.columns, len(catalogue.item_ids), held))
