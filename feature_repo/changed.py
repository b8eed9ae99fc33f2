"""Finds the users whose features are others than those written before, by comparing the files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contract import names
from contract.arrays import Bools, Ids
from training.features.tables import FOLDER

_NULL = "\0"  # stands for a null within a list, which no number or text is written as


def changed_users(folder: Path, tables: Mapping[str, pa.Table]) -> Ids:
    """Takes a data set's prepared folder and the views' new rows, gives who changed, ascending, int64 (U,).

    Compared is what is known of a user at last, whenever it was learnt. Where no rows were written before,
    or they had other columns, everyone changed.
    """
    found = []
    for view in names.USER_VIEWS:
        new, path = _last(tables[view]), folder / FOLDER / f"{view}.parquet"
        old = _last(pq.read_table(path)) if path.is_file() else new.slice(0, 0)
        found.append(_changed(old, new))
    return np.unique(np.concatenate(found))


def _changed(old: pa.Table, new: pa.Table) -> Ids:
    old_ids, new_ids = _ids(old), _ids(new)
    if old.schema.remove_metadata() != new.schema.remove_metadata():
        return np.union1d(old_ids, new_ids)
    both, in_old, in_new = np.intersect1d(old_ids, new_ids, assume_unique=True, return_indices=True)
    differs = np.zeros(len(both), dtype=np.bool_)
    for name in new.column_names:
        if name not in (names.USER_ID, names.EVENT_TIMESTAMP):
            differs |= _differ(old[name].take(in_old), new[name].take(in_new))
    return np.concatenate([both[differs], np.setxor1d(old_ids, new_ids, assume_unique=True)])


def _last(table: pa.Table) -> pa.Table:
    """Takes rows in the order of their user and time, gives the last one of each user."""
    ids = _ids(table)
    return table.take(np.flatnonzero(np.append(ids[1:] != ids[:-1], len(ids) > 0)))


def _ids(table: pa.Table) -> Ids:
    ids: Ids = table[names.USER_ID].to_numpy()
    return ids


def _differ(old: pa.ChunkedArray, new: pa.ChunkedArray) -> Bools:
    """Tells where two columns (U,) differ; nulls are equal."""
    one, other = _flat(old.combine_chunks()), _flat(new.combine_chunks())
    differs = pc.or_(
        pc.fill_null(pc.not_equal(one, other), False), pc.not_equal(pc.is_null(one), pc.is_null(other))
    )
    flags: Bools = differs.to_numpy(zero_copy_only=False)
    return flags


def _flat(column: pa.Array) -> pa.Array:
    """Writes lists as texts, which Arrow compares; all else stays."""
    if not pa.types.is_list(column.type):
        return column
    texts = pc.fill_null(column.values.cast(pa.string()), _NULL)
    lists = pa.ListArray.from_arrays(column.offsets, texts, mask=pc.is_null(column))
    return pc.binary_join(lists, "\x1f")
