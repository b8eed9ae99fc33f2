"""Reads what training computed of a data set: the last row of every key, and what users have seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from contract import names
from contract.dataset import Dataset, DatasetError
from contract.features import FEATURE_SET_FILE, FOLDER, SEEN_FILE, STATE, FeatureSet, state_file, view_file

ACTIVITY = (names.USER_ACTIVITY, names.ITEM_ACTIVITY)
"""Views whose rows the stream of events writes as well."""
REMEDY = "compute them (`python -m training features`, or `make materialize`)"


@dataclass(frozen=True, eq=False)
class Computed:
    """The rows of every view, one per key in ascending order, and the users' seen items. Rows of activity
    have `STATE`, what they are folded from, as their last column."""

    dataset: Dataset
    made: FeatureSet
    views: dict[str, pa.Table]
    seen: pa.Table

    @classmethod
    def read(cls, folder: Path) -> Computed:
        """Reads the files of a prepared data set, such as `var/data/kuairand`.

        Raises:
            DatasetError: they are missing, damaged, or of other columns than `dataset.yaml` declares.
        """
        dataset, features = Dataset.load(folder), folder / FOLDER
        try:
            made = FeatureSet.read(features)
            views = {view: last_rows(pq.read_table(features / view_file(view))) for view in names.VIEWS}
            states = {view: pq.read_table(features / state_file(view)) for view in ACTIVITY}
            seen = pq.read_table(features / SEEN_FILE)
        except (OSError, ValueError) as error:
            raise DatasetError(f"{features}: no features can be read ({error}); {REMEDY}") from None
        for view, table in views.items():
            declared = [key_of(view), names.EVENT_TIMESTAMP, *dataset.view_columns(view)]
            if table.column_names != declared:
                raise DatasetError(
                    f"{features / view_file(view)}: has the columns {', '.join(table.column_names)}, and "
                    f"dataset.yaml declares {', '.join(declared)}; {REMEDY}"
                )
            if not dataset.view_columns(view):
                views[view] = table.slice(0, 0)  # Feast has no view without a feature
        for view, table in states.items():
            if not np.array_equal(ids_of(table), ids_of(views[view])):
                raise DatasetError(f"{features / state_file(view)}: is of other ids than its view; {REMEDY}")
            views[view] = views[view].append_column(STATE, table[STATE])
        return cls(dataset, made, views, seen)


def find(var_dir: Path, data: str) -> Path:
    """Finds the data set whose features were computed for `DATA`, last where there are several.

    Raises:
        DatasetError: there are none.
    """
    found = []
    for file in (var_dir / "data").glob(f"*/{FOLDER}/{FEATURE_SET_FILE}"):
        try:
            made = FeatureSet.read(file.parent)
        except (OSError, ValueError):
            continue
        if data in (made.data, made.dataset):
            found.append((made.made_at, file.parents[1]))
    if not found:
        raise DatasetError(f"no features were computed for DATA={data} in {var_dir / 'data'}; {REMEDY}")
    return max(found)[1]


def key_of(view: str) -> str:
    """Names the id column of a view."""
    return names.USER_ID if view in names.USER_VIEWS else names.ITEM_ID


def ids_of(table: pa.Table) -> npt.NDArray[np.int64]:
    """Takes a table whose first column is the id, gives the ids (rows,)."""
    ids: npt.NDArray[np.int64] = table.column(0).to_numpy()
    return ids


def last_rows(table: pa.Table) -> pa.Table:
    """Takes rows in the order of their key and time, gives the last one of each key."""
    ids = ids_of(table)
    return table.take(np.flatnonzero(np.append(ids[1:] != ids[:-1], len(ids) > 0)))
