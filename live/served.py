"""What answers are about: the features of their users and items, as the store has them, and what would be
retrieved."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow.parquet as pq

from contract.arrays import Array
from contract.bundle import ITEM_TABLE_FILE
from contract.columns import Role
from contract.drift import SLATE, nearest, watched
from contract.names import USER_ID
from contract.shown import Shown
from contract.slates import SlateSource
from ensemble.bundle import LoadedBundle
from ensemble.stores.features import FeatureStore, to_columns


class ServedValues:
    """Reads the features of what was shown, and runs the user tower of the bundle that showed it."""

    def __init__(self, bundle: LoadedBundle, features: FeatureStore) -> None:
        self._bundle, self._features = bundle, features

    def of(self, notes: Sequence[Shown]) -> dict[str, Array]:
        """Takes answers of the bundle, gives what is counted of them, by name.

        Of slates, those count that are like the reference's: the ensemble's, asked for without more, their
        places not drawn by chance; and of scores, those of a request without context.
        """
        bundle, dataset = self._bundle, self._bundle.dataset
        users = np.array([note.user_id for note in notes], np.int64)
        rows = self._features.read_users(users)
        columns = {**rows.columns, USER_ID: users}
        vectors = bundle.user_tower(
            {name: bundle.encoders.encode(name, columns[name]) for name in bundle.user_tower.features}
        )
        plain = [note for note in notes if _is_like_the_reference(note)]
        slates = [item for note in plain for item in note.item_ids[:SLATE]]
        found = nearest(vectors, bundle.item_vectors).ravel()
        scores = [score for note in plain if not note.context for score in note.scores[:SLATE]]
        return watched(
            dataset,
            rows.columns,
            vectors,
            self._items(np.array(slates, np.int64)),
            {name: values[found] for name, values in self._catalogue.items()},
            np.array(scores, np.float32),
        )

    def _items(self, item_ids: Array) -> dict[str, Array]:
        """Reads each item once, gives a row for each time that it stands there."""
        each, places = np.unique(item_ids, return_inverse=True)
        if not len(each):
            return {}
        columns = self._features.read_items(each).columns
        return {name: values[places] for name, values in columns.items()}

    @cached_property
    def _catalogue(self) -> dict[str, Array]:
        """The categories of the bundle's catalogue, in the order of its vectors: so many items are retrieved
        that the store is not asked for them."""
        kinds = (Role.CATEGORICAL, Role.LIST)
        columns = {n: c for n, c in self._bundle.dataset.item_catalog.items() if c.role in kinds}
        table = pq.read_table(self._bundle.folder / ITEM_TABLE_FILE, columns=list(columns))
        return to_columns(columns, list(zip(*(table[name].to_pylist() for name in columns), strict=True)))


def _is_like_the_reference(note: Shown) -> bool:
    return note.is_plain and note.source == SlateSource.ENSEMBLE and min(note.chances, default=0) == 1
