"""The filterable columns of a bundle's catalogue, in the process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contract.arrays import Ids
from contract.filters import canonical
from contract.names import ITEM_ID
from contract.rules.attributes import Attribute, ItemAttributes


def read_attributes(path: Path, item_ids: Ids, dtypes: Mapping[str, str]) -> ItemAttributes:
    """Reads the columns of the items (I,), and of a last row for no item, of which nothing is known: what the
    index in Redis holds of them."""
    if not dtypes:
        return ItemAttributes({})
    table = pq.read_table(path, columns=[ITEM_ID, *dtypes]).sort_by(ITEM_ID)
    ids = table[ITEM_ID].to_numpy()
    at = np.searchsorted(ids, item_ids)
    is_there = np.zeros(len(item_ids), dtype=np.bool_)
    if len(ids):
        is_there = ids.take(at, mode="clip") == item_ids
    rows = pa.array(np.append(at, 0), mask=np.append(~is_there, True))
    is_known = np.append(np.ones(len(item_ids), dtype=np.bool_), False)
    return ItemAttributes(
        {
            name: _attribute(table[name].take(rows).combine_chunks(), dtype, is_known)
            for name, dtype in dtypes.items()
        }
    )


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
