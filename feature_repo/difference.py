"""Finds what has to change in Redis: computed rows held against the loaded ones, and against what is there.

A row's event time, in the whole seconds that Feast stores, is how Redis tells which row it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from contract import names
from feature_repo.computed import ACTIVITY, ids_of

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
MISSING = -(2**63)
"""The event time of a row that is not in Redis."""
_NULL = "\0"  # stands for a null within a list, which no number or text is written as


@dataclass(frozen=True, eq=False)
class Stored:
    """What Redis holds of a view: ids (E,) ascending, and each row's event time in seconds (E,), or
    `MISSING`."""

    ids: Ids
    seconds: Ids

    @property
    def count(self) -> int:
        """How many rows there are."""
        return int(np.count_nonzero(self.seconds != MISSING))

    def of(self, ids: Ids) -> Ids:
        """Gives the event times of other ids (rows,)."""
        if not len(self.ids):
            return np.full(len(ids), MISSING)
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[at] == ids, self.seconds[at], MISSING)


@dataclass(frozen=True, eq=False)
class Difference:
    """What one view needs."""

    rows: pa.Table
    """Every row as Redis shall hold it, one per key."""
    is_written: Flags
    """Which of them must be written (rows,)."""
    too_new: Flags
    """Which of those stand in Redis under a time that Feast would take for newer (rows,)."""
    gone: Ids
    """Ids whose row is in Redis and no longer among the rows."""
    gone_columns: list[str]

    @property
    def written(self) -> pa.Table:
        """The rows to write."""
        return self.rows.filter(pa.array(self.is_written))

    @property
    def changed(self) -> Ids:
        """Whose row is written or goes, ascending."""
        return np.union1d(ids_of(self.rows)[self.is_written], self.gone)

    @property
    def is_empty(self) -> bool:
        """Whether Redis is as it shall be."""
        return not (self.is_written.any() or len(self.gone) or self.gone_columns)


def difference(
    view: str, computed: pa.Table, loaded: pa.Table | None, stored: Stored, *, is_known: bool, at: datetime
) -> Difference:
    """Takes a view's computed and last loaded rows, one per key, and what Redis holds.

    `is_known` is whether Redis held just the loaded rows after they were loaded. Where it is not, all are
    written. A row of activity that is newer than what was loaded is so by events that came since.
    """
    loaded = computed.slice(0, 0) if loaded is None else loaded
    differs, in_loaded = _compare(computed, loaded)
    rows = _as_loaded(computed, loaded, differs, in_loaded, at) if view in names.FACTS else computed
    seconds = seconds_of(rows)
    there = stored.of(ids_of(rows))
    is_written = differs | (there < seconds if view in ACTIVITY else there != seconds)
    if not is_known:
        is_written[:] = True
    held = stored.ids[stored.seconds != MISSING]
    return Difference(
        rows,
        is_written,
        is_written & (there >= seconds),
        np.setdiff1d(held, ids_of(rows), assume_unique=True),
        [name for name in loaded.column_names if name not in rows.column_names],
    )


def seconds_of(table: pa.Table) -> Ids:
    """Gives the event times of rows (rows,) in the seconds that Feast stores."""
    micros = table[names.EVENT_TIMESTAMP].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    seconds: Ids = np.trunc(micros / 1e6).astype(np.int64)
    return seconds


def _as_loaded(
    computed: pa.Table, loaded: pa.Table, differs: Flags, in_loaded: Ids, at: datetime
) -> pa.Table:
    """Gives facts their time: of a row that was loaded what it was, of a changed one `at`, when that was
    found, of a new one its own."""
    place = computed.column_names.index(names.EVENT_TIMESTAMP)
    field = computed.schema.field(place)
    own, was = (t[names.EVENT_TIMESTAMP].cast(field.type).to_numpy() for t in (computed, loaded))
    times = own.copy()
    is_old = in_loaded >= 0
    times[is_old] = was[in_loaded[is_old]]
    times[is_old & differs] = np.datetime64(at.replace(tzinfo=None), "s")
    return computed.set_column(place, field, pa.array(times, field.type))


def _compare(new: pa.Table, old: pa.Table) -> tuple[Flags, Ids]:
    """Tells which new rows are others than the old ones, whenever they hold from, and where each one's old
    row is (rows,), -1 where there is none."""
    new_ids, old_ids = ids_of(new), ids_of(old)
    _both, in_new, in_old = np.intersect1d(new_ids, old_ids, assume_unique=True, return_indices=True)
    place = np.full(len(new_ids), -1)
    place[in_new] = in_old
    differs = np.ones(len(new_ids), dtype=np.bool_)
    if new.schema.remove_metadata() == old.schema.remove_metadata():
        differs[in_new] = False
        for name in new.column_names[1:]:
            if name != names.EVENT_TIMESTAMP:
                differs[in_new] |= _differ(old[name].take(in_old), new[name].take(in_new))
    return differs, place


def _differ(old: pa.ChunkedArray, new: pa.ChunkedArray) -> Flags:
    """Tells where two columns (rows,) differ; nulls are equal."""
    one, other = _flat(old.combine_chunks()), _flat(new.combine_chunks())
    differs = pc.or_(
        pc.fill_null(pc.not_equal(one, other), False), pc.not_equal(pc.is_null(one), pc.is_null(other))
    )
    flags: Flags = differs.to_numpy(zero_copy_only=False)
    return flags


def _flat(column: pa.Array) -> pa.Array:
    """Writes lists as texts, which Arrow compares; all else stays."""
    if not pa.types.is_list(column.type):
        return column
    texts = pc.fill_null(column.values.cast(pa.string()), _NULL)
    lists = pa.ListArray.from_arrays(column.offsets, texts, mask=pc.is_null(column))
    return pc.binary_join(lists, "\x1f")
