"""Lookups: the features of the user and of the candidates, as raw named tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from merlin.schema import Schema

from contract import names
from contract.affinity import LISTS, user_item_features
from contract.arrays import Array
from contract.bundle import Inputs
from contract.columns import Column
from contract.dataset import Dataset
from ensemble.stage import Stage, Tensors, tensor
from ensemble.stores.features import FeatureStore
from ensemble.stores.items import ItemSnapshot, ItemTable

CANDIDATE_NUMERIC = "candidate_numeric"
SEEN_ITEM_IDS = "seen_item_ids"
IS_UNKNOWN_USER = "is_unknown_user"


def column_dtype(column: Column) -> Any:
    """Gives the numpy dtype that a raw column has once read."""
    return {"string": np.object_, "float32": np.float32}.get(column.dtype or "int64", np.int64)


def encoded(name: str) -> str:
    """Names what a model takes, beside the raw columns."""
    return f"encoded_{name}"


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
    """Gathers what the ranker takes of the candidates from the table in the process, and counts what they
    share with the user's recent items.

    An item that the store does not hold has null features.
    """

    reads = ("candidate_ids", *LISTS)

    def __init__(self, items: ItemTable, inputs: Inputs, dataset: Dataset, k: int) -> None:
        """Takes the ranker's inputs of candidates: the table's, and the user-item features among them."""
        super().__init__()
        self.items, self.inputs, self.dataset, self.k = items, inputs, dataset, k
        self.of_items = [inputs.numeric.index(name) for name in items.inputs.numeric]
        counts = np.arange(dataset.activity.recent_items + 1, dtype=np.float32)
        self.scaled = {
            name: items.encoders.encode(name, counts)
            for name in inputs.numeric
            if name not in items.inputs.numeric
        }
        """Each user-item feature as encoded, by its count, which is at most S."""

    @property
    def writes(self) -> Schema:
        """The ranker's inputs of candidates, packed: (B,K,columns)."""
        return Schema(packed_tensors(self.inputs, "candidate_", self.k))

    def run(self, candidate_ids: Array, **lists: Array) -> Tensors:  # type: ignore[override]
        """Gathers one row per candidate."""
        items = self.items.snapshot
        rows = items.rows_of(candidate_ids)
        packed = {name: column[rows] for name, column in items.inputs.items()}
        tensors = {encoded(n): a.astype(np.int64) for n, a in packed.items() if n != CANDIDATE_NUMERIC}
        if self.inputs.numeric:
            numeric = np.empty((*rows.shape, len(self.inputs.numeric)), dtype=np.float32)
            if self.of_items:
                numeric[..., self.of_items] = packed[CANDIDATE_NUMERIC]
            for name, scores in self._user_item(items, candidate_ids, rows, lists).items():
                numeric[..., self.inputs.numeric.index(name)] = scores
            tensors[encoded(CANDIDATE_NUMERIC)] = numeric
        return tensors

    def _user_item(self, items: ItemSnapshot, candidate_ids: Array, rows: Array, lists: Tensors) -> Tensors:
        recents: dict[str, Tensors] = {}
        for user_list, ids in lists.items():
            at = items.rows_of(ids)
            recents[user_list] = {names.ITEM_ID: ids} | {c: a[at] for c, a in items.comparable.items()}
        candidates = {names.ITEM_ID: candidate_ids} | {c: a[rows] for c, a in items.comparable.items()}
        counts = user_item_features(self.dataset, recents, candidates)
        return {name: scaled[counts[name].astype(np.intp)] for name, scaled in self.scaled.items()}


def packed_tensors(inputs: Inputs, prefix: str, *axes: int) -> list[object]:
    """Describes what `Inputs.pack` gives, as named tensors (B, *axes, columns)."""
    packed = [tensor(encoded(name), np.int64, *axes, length) for name, length in inputs.lists.items()]
    if inputs.categorical:
        packed.append(tensor(encoded(f"{prefix}categorical"), np.int64, *axes, len(inputs.categorical)))
    if inputs.numeric:
        packed.append(tensor(encoded(f"{prefix}numeric"), np.float32, *axes, len(inputs.numeric)))
    return packed


def _width(column: Column) -> int:
    return column.max_length if column.is_several else 1
