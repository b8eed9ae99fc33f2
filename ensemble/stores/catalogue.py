"""The items that can be retrieved, by position: those of the bundle, and those that came after it."""

from __future__ import annotations

from collections.abc import Mapping
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


def _nothing() -> Floats:
    return np.empty((0, 0), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The bundle's items (I), by ascending id, and behind them the new ones (L), in the order in which they
    came. `vectors` (I,D) may be a memory-mapped file; `live` tells what came since, and of which of the
    bundle's items the vector is another now."""

    bundle_ids: Ids
    vectors: Floats
    live: LiveItems = field(default_factory=lambda: LiveItems())

    def grown(self, live: LiveItems) -> Catalogue:
        """Gives the bundle's items with what is known beside its files."""
        grown = Catalogue(self.bundle_ids, self.vectors, live)
        grown.__dict__["bundle_positions"] = self.bundle_positions
        return grown

    @property
    def new_ids(self) -> Ids:
        """The new items' ids, (L,)."""
        return self.live.new_ids

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
            found[is_new] = self.live.new_vectors.take(places, axis=0, mode="clip")
        if len(self._moved):
            at = self._moved.searchsorted(positions)
            is_moved = self._moved.take(at, mode="clip") == positions
            found[is_moved] = self.live.moved_vectors[at[is_moved]]
        return found

    @cached_property
    def beside(self) -> Ints:
        """The positions of the items that stand elsewhere than in the bundle's files, or not in them."""
        new = np.arange(len(self.bundle_ids), len(self.bundle_ids) + len(self.new_ids))
        return np.append(self._moved, new)

    @cached_property
    def _moved(self) -> Ints:
        """The positions of the items whose vector is another now, ascending as their ids."""
        return self.bundle_positions.of(self.live.moved_ids)

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
        of both items. Of an item that is not known, or a new one that was taken out, the prior alone: what
        most people like.
        """
        at = self.positions.of(item_ids)
        is_known: Bools = (at != UNKNOWN) & ~np.isin(item_ids, self.live.gone_ids)
        vectors = np.where(is_known[:, None], self.vectors_of(at), np.float32(0))
        vectors[:, -1] = np.where(is_known, 0, 1)
        return vectors, is_known


@dataclass(frozen=True, eq=False)
class LiveItems:
    """What is known of items beside the bundle's files: the new ones' ids (L,) and vectors (L,D), in the
    order in which they came; the ids (M,), ascending, of the bundle's own whose vector is another since they
    changed, and that (M,D); of all of those, by id, the values in each filterable column, in canonical form;
    and which of the new ones were taken out again, (G,): they keep their places."""

    new_ids: Ids = field(default_factory=_none)
    new_vectors: Floats = field(default_factory=_nothing)
    held: Mapping[int, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    moved_ids: Ids = field(default_factory=_none)
    moved_vectors: Floats = field(default_factory=_nothing)
    gone_ids: Ids = field(default_factory=_none)

    def over(self, item_ids: Ids, vectors: Floats) -> Floats:
        """Takes items of the bundle (I,), ascending, and their vectors (I,D); gives a copy in which those
        stand that are other now, or the same where none is."""
        if not len(self.moved_ids) or not len(item_ids):
            return vectors
        at = item_ids.searchsorted(self.moved_ids)
        is_there = item_ids.take(at, mode="clip") == self.moved_ids
        changed = np.array(vectors, dtype=np.float32)
        changed[at[is_there]] = self.moved_vectors[is_there]
        return changed

    def changed(self, attributes: ItemAttributes, catalogue: Catalogue) -> ItemAttributes:
        """Takes what the bundle's items hold in the filterable columns, gives what those of a grown catalogue
        hold now."""
        places = catalogue.positions.of(np.fromiter(self.held, np.int64, len(self.held))).tolist()
        held = dict(zip(places, self.held.values(), strict=True))
        held.pop(UNKNOWN, None)
        return ItemAttributes(ChangedColumns(attributes.columns, len(catalogue.item_ids), held))
