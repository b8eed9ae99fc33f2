"""Every column that a model may read, and a table of them as the plain numpy that encoders take."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from contract import names
from contract.affinity import user_item_feature_names
from contract.arrays import Array
from contract.columns import Column, Columns, Role
from contract.dataset import Dataset
from training.data.prepared import to_numpy


def all_columns(dataset: Dataset) -> Columns:
    """Lists every raw column that both models may read, in a fixed order; the ids first.

    Embeddings are not among them: they are for the towers, which read each user and item once.
    """
    matches = {name: Column(role=Role.NUMERIC, is_log=True) for name in user_item_feature_names(dataset)}
    return {
        names.USER_ID: dataset.users[names.USER_ID],
        names.ITEM_ID: dataset.items[names.ITEM_ID],
        **_apart_from_embeddings(dataset.user_profile),
        **dataset.user_activity,
        **_apart_from_embeddings(dataset.item_catalog),
        **dataset.item_activity,
        **dataset.context,
        **matches,
    }


def _apart_from_embeddings(columns: Columns) -> Columns:
    return {name: column for name, column in columns.items() if column.role is not Role.EMBEDDING}


def raw_arrays(frame: pd.DataFrame, columns: Mapping[str, Column]) -> dict[str, Array]:
    """Takes a table, gives those of `columns` that it has: (rows,), lists (rows, S) padded with null."""
    return {name: to_numpy(frame[name], column) for name, column in columns.items() if name in frame}
