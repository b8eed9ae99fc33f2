"""The filterable columns of a bundle's catalogue, in the process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contract.arrays import Ids
from contract.filters import canonical
from contract.names import ITEM_ID
from contract.rules.attributes import Attribute


class CatalogueColumns(Mapping[str, Attribute]):
    """The filterable columns of the items (I,), and of a last row for no item, of which nothing is known:
    what the index in Redis holds of them. A column is read when it is first asked for, and kept."""

    def __init__(self, path: Path, item_ids: Ids, dtypes: Mapping[str, str]) -> None:
        self.path, self.item_ids, self.dtypes = path, item_ids, dtypes
        self._read: dict[str, Attribute] = {}

    def __getitem__(self, name: str) -> Attribute:
        """Gives one column."""
        if name not in self._read:
            self._read[name] = self._column(name)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        """Lists the columns' names."""
        return iter(self.dtypes)

    def __len__(self) -> int:
        """Counts the columns."""
        return len(self.dtypes)

    def _column(self, name: str) -> Attribute:
        table = pq.read_table(self.path, columns=[ITEM_ID, name]).sort_by(ITEM_ID)
        ids = table[ITEM_ID].to_numpy()
        at = np.searchsorted(ids, self.item_ids)
        is_there = np.zeros(len(self.item_ids), dtype=np.bool_)
        if len(ids):
            is_there = ids.take(at, mode="clip") == self.item_ids
        rows = pa.array(np.append(at, 0), mask=np.append(~is_there, True))
        is_known = np.append(np.ones(len(self.item_ids), dtype=np.bool_), False)
        return _attribute(table[name].take(rows).combine_chunks(), self.dtypes[name], is_known)


def _attribute(column: Any, dtype: str, is_known: Any) -> Attribute:
    lengths = np.ones(len(column), dtype=np.int64)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        column = pc.list_flatten(column)
    encoded = pc.dictionary_encode(column)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    values = encoded.dictionary.to_pylist()
    texts = [None if one is None or one != one else canonical(one, dtype) for one in values]
    at = pc.fill_null(encoded.indices, len(values)).to_numpy(zero_copy_only=False)
    return Attribute.of_texts(dtype, texts, at, np.cumsum([0, *lengths]), is_known)
