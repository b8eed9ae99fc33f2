"""Lookups: the features of the user and of the candidates, as raw named tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from merlin.schema import Schema

from ensemble.stage import Array, Stage, Tensors, tensor
from ensemble.stores.features import FeatureStore
from ensemble.stores.items import ItemTable
from feature_repo import names
from feature_repo.affinity import LISTS, affinity_columns
from feature_repo.dataset import Column, Dataset, Role

SEEN_ITEM_IDS = "seen_item_ids"
IS_UNKNOWN_USER = "is_unknown_user"


def column_dtype(column: Column) -> Any:
    """Gives the numpy dtype that a raw column has once read."""
    return {"string": np.object_, "float32": np.float32}.get(column.dtype or "int64", np.int64)


def encoded(name: str) -> str:
    """Names a column's codes, as the models take them, beside the raw column."""
    return f"encoded_{name}"


def recent(user_list: str, column: str) -> str:
    """Names an item column of one of the user's recent-item lists."""
    return f"{user_list}.{column}"


def comparable(column: str) -> str:
    """Names a candidates' item column as it is compared with recent items."""
    return f"candidate.{column}"


class LookupUserFeatures(Stage):
    """Reads what the feature store knows of the users, and what they have seen, in one round trip for the
    batch.

    A user without a live row has null features and `is_unknown_user`; a store that fails, fails the request.
    """

    reads = (names.USER_ID,)

    def __init__(self, store: FeatureStore, dataset: Dataset, max_seen: int) -> None:
        super().__init__()
        self.store, self.dataset, self.max_seen = store, dataset, max_seen

    @property
    def writes(self) -> Schema:
        """The raw user columns (B,1) or (B,S), the seen items, and whether the user is unknown."""
        columns = {n: c for view in names.USER_VIEWS for n, c in self.dataset.view_columns(view).items()}
        tensors = [tensor(n, column_dtype(c), _width(c)) for n, c in columns.items()]
        tensors += [tensor(SEEN_ITEM_IDS, np.int64, self.max_seen), tensor(IS_UNKNOWN_USER, np.bool_, 1)]
        return Schema(tensors)

    def run(self, user_id: Array) -> Tensors:  # type: ignore[override]
        """Reads one row per user."""
        rows = self.store.read_users(user_id[:, 0])
        tensors = {n: a if a.ndim > 1 else a[:, None] for n, a in rows.columns.items()}
        return tensors | {SEEN_ITEM_IDS: rows.seen_item_ids, IS_UNKNOWN_USER: ~rows.is_found[:, None]}


class LookupItemFeatures(Stage):
    """Gathers the candidates' features, raw and encoded, from the table in the process; and for the user-item
    features the columns of the user's recent items.

    An item that the store does not hold has null features.
    """

    reads = ("candidate_ids", *LISTS)

    def __init__(self, items: ItemTable, dataset: Dataset, ranked: tuple[str, ...], k: int) -> None:
        """Takes the item columns that the ranker reads, beside the table."""
        super().__init__()
        self.items, self.dataset, self.k = items, dataset, k
        self.columns = {n: c for view in names.ITEM_VIEWS for n, c in dataset.view_columns(view).items()}
        self.ranked = tuple(n for n in ranked if n == names.ITEM_ID or n in self.columns)
        self.compared = tuple(c for c in affinity_columns(dataset) if c != names.ITEM_ID)

    @property
    def writes(self) -> Schema:
        """Raw columns (B,K) or (B,K,L), the ranker's codes, and the columns compared with recent items."""
        fields = self.items.encoders.fields
        tensors = [tensor(n, column_dtype(c), self.k, *_list_width(c)) for n, c in self.columns.items()]
        for name in self.ranked:
            field = fields[name]
            dtype = np.float32 if field.kind == "numeric" else np.int64
            tensors.append(
                tensor(encoded(name), dtype, self.k, *((field.length,) if field.kind == "list" else ()))
            )
        for name in self.compared:
            width = _list_width(self.columns[name])
            tensors.append(tensor(comparable(name), np.int64, self.k, *width))
            tensors += [tensor(recent(u, name), np.int64, self._recents, *width) for u in LISTS]
        return Schema(tensors)

    @property
    def _recents(self) -> int:
        return self.dataset.activity.recent_items

    def run(self, candidate_ids: Array, **lists: Array) -> Tensors:  # type: ignore[override]
        """Gathers one row per candidate."""
        items = self.items.snapshot
        rows = items.rows_of(candidate_ids)
        tensors = {name: items.columns[name][rows] for name in self.columns}
        tensors |= {encoded(name): items.encoded[name][rows] for name in self.ranked}
        if self.compared:
            recents = {user_list: items.rows_of(ids) for user_list, ids in lists.items()}
            for name in self.compared:
                column = items.comparable[name]
                tensors[comparable(name)] = column[rows]
                tensors |= {recent(u, name): column[at] for u, at in recents.items()}
        return tensors


def _width(column: Column) -> int:
    return column.max_length if column.role is Role.LIST else 1


def _list_width(column: Column) -> tuple[int, ...]:
    return (column.max_length,) if column.role is Role.LIST else ()
