"""Turns table columns into the plain numpy that encoders and user-item features take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from feature_repo import names
from feature_repo.affinity import user_item_feature_names
from feature_repo.dataset import Column, Columns, Dataset, Role

Array = npt.NDArray[Any]


def all_columns(dataset: Dataset) -> Columns:
    """Lists every raw column that a model may read, in a fixed order; the ids first."""
    matches = {name: Column(role=Role.NUMERIC, is_log=True) for name in user_item_feature_names(dataset)}
    return {
        names.USER_ID: dataset.users[names.USER_ID],
        names.ITEM_ID: dataset.items[names.ITEM_ID],
        **dataset.user_profile,
        **dataset.user_activity,
        **dataset.item_catalog,
        **dataset.item_activity,
        **dataset.context,
        **matches,
    }


def raw_arrays(frame: pd.DataFrame, columns: Mapping[str, Column]) -> dict[str, Array]:
    """Takes a table, gives those of `columns` that it has: (rows,), lists (rows, S) padded with null."""
    return {name: raw_array(frame[name], column) for name, column in columns.items() if name in frame}


def raw_array(series: pd.Series, column: Column) -> Array:
    """Takes one column; null becomes `NULL_INT`, NaN or None, by the dtype that `column` states."""
    if column.role is Role.LIST:
        return _padded(series, column)
    if column.role is Role.NUMERIC:
        numbers: Array = series.to_numpy(dtype=np.float32, na_value=np.nan)
        return numbers
    if column.dtype == "string":
        texts: Array = series.to_numpy(dtype=object).copy()
        texts[series.isna().to_numpy()] = None
        return texts
    # Through Int64, not float: large ids survive beside nulls.
    integers: Array = series.astype("Int64").to_numpy(dtype=np.int64, na_value=names.NULL_INT)
    return integers


def _padded(series: pd.Series, column: Column) -> Array:
    lists = [() if np.ndim(value) == 0 else value for value in series]
    lengths = np.minimum(np.fromiter((len(v) for v in lists), np.int64, len(lists)), column.max_length)
    null, dtype = (None, object) if column.dtype == "string" else (names.NULL_INT, np.int64)
    padded: Array = np.full((len(lists), column.max_length), null, dtype)
    is_live = np.arange(column.max_length) < lengths[:, None]
    if is_live.any():
        cut = (value[:length] for value, length in zip(lists, lengths.tolist(), strict=True) if length)
        padded[is_live] = np.concatenate([np.asarray(value, dtype=dtype) for value in cut])
    return padded
