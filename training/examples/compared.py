"""What items are compared by, numbered: how many of a user's recent items are like a row's item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from contract import names
from contract.affinity import BITS, affinity_columns, as_bits, user_item_features
from contract.arrays import Array, Floats, Ints
from contract.dataset import Dataset
from training.data.prepared import Prepared, to_numpy
from training.examples.split import rows_of
from training.features.activity import ListSpans

CHUNK = 32_768
"""Rows at a time: their lists, and each compared with an item, are in memory together."""


@dataclass(frozen=True, eq=False)
class ComparedItems:
    """The compared columns of every item of the catalogue or the log, and last a row of nulls."""

    dataset: Dataset
    ids: Ints
    """Ascending."""
    table: dict[str, Array]
    """Of each column its values, numbered, one row more than `ids`: (I+1,) or (I+1,L)."""

    @classmethod
    def of(cls, prepared: Prepared) -> ComparedItems:
        """Numbers the columns; items that are not in the catalogue are compared by themselves alone."""
        dataset, catalogue = prepared.dataset, prepared.items[names.ITEM_ID].to_numpy(np.int64)
        ids = np.union1d(catalogue, prepared.interactions[names.ITEM_ID].to_numpy(np.int64))
        table: dict[str, Array] = {names.ITEM_ID: _comparable(ids)}
        for name in affinity_columns(dataset)[1:]:
            values = _comparable(to_numpy(prepared.items[name], dataset.items[name]))
            table[name] = values[np.append(rows_of(catalogue, ids), -1)]
        return cls(dataset, ids, table)

    def matches(self, item_ids: Ints, recents: Mapping[str, ListSpans]) -> dict[str, Floats]:
        """Takes the item of each row (rows,) and its user's lists, gives the user-item features, (rows,)."""
        items = rows_of(self.ids, item_ids)
        # -1, the row of nulls, for what is unknown and for the padding.
        numbered = {n: replace(r, values=rows_of(self.ids, r.values)) for n, r in recents.items()}
        parts = []
        for at in range(0, max(len(items), 1), CHUNK):
            rows = slice(at, at + CHUNK)
            lists = {name: self._facts(r.take(rows).padded(-1)) for name, r in numbered.items()}
            parts.append(user_item_features(self.dataset, lists, self._facts(items[rows][:, None])))
        return {name: np.concatenate([part[name][:, 0] for part in parts]) for name in parts[0]}

    def _facts(self, rows: Ints) -> dict[str, Array]:
        return {name: values[rows] for name, values in self.table.items()}


def _comparable(values: Array) -> Array:
    """Numbers the values of an item column, (I,) or lists (I,L), so that they match alike in fewer bytes.

    Appends a row of nulls. Lists of few distinct values become bits, (I+1,).
    """
    codes, distinct = pd.factorize(values.ravel())
    null = np.iinfo(np.int32).min
    is_known = codes >= 0
    if values.dtype.kind == "i":
        is_known &= values.ravel() != names.NULL_INT
    numbered = np.where(is_known, codes, null).astype(np.int32).reshape(values.shape)
    numbered = np.concatenate([numbered, np.full((1, *values.shape[1:]), null, dtype=np.int32)])
    return as_bits(numbered, numbered != null) if values.ndim > 1 and len(distinct) <= BITS else numbered
