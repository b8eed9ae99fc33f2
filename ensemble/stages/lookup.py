"""Lookups: the features of the user and of the candidates, as raw named tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from merlin.schema import Schema

from contract import names
from contract.affinity import LISTS, user_item_counts
from contract.arrays import Array
from contract.bundle import Inputs
from contract.columns import Column
from contract.dataset import Dataset
from contract.tensors import PAD_ID
from contract.user_features import Given, decode_user_features
from ensemble.stage import Stage, Tensors, tensor
from ensemble.stores.features import FeatureStore, to_columns
from ensemble.stores.items import ItemSnapshot, ItemTable

CANDIDATE_NUMERIC = "candidate_numeric"
SEEN_ITEM_IDS = "seen_item_ids"
IS_UNKNOWN_USER = "is_unknown_user"
LACKS_FEATURES = "lacks_features"
IS_LACKING_USER, IS_LACKING_ITEMS = "is_lacking_user", "is_lacking_items"


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
    Features that the request brings along are taken in place of the row, and what it leaves out is null; the
    recent items among them count as seen, unless only those of a label do.
    """

    reads = (names.USER_ID, "user_features")

    def __init__(self, store: FeatureStore, dataset: Dataset, taken: Sequence[str], max_seen: int) -> None:
        """Takes the store, and the columns that are made use of later."""
        super().__init__()
        self.store, self.dataset, self.taken, self.max_seen = store, dataset, frozenset(taken), max_seen
        self.columns = {n: c for view in names.USER_VIEWS for n, c in dataset.view_columns(view).items()}
        self.dtypes = dataset.user_features
        self.seen_lists = LISTS if dataset.seen_labels == "any" else ()

    @property
    def writes(self) -> Schema:
        """The raw user columns (B,1) or (B,S), the seen items, whether the user is unknown, and whether the
        request's features lack some that are made use of, and whether a known user's columns are not those of
        the bundle."""
        tensors = [tensor(n, column_dtype(c), _width(c)) for n, c in self.columns.items()]
        tensors += [tensor(SEEN_ITEM_IDS, np.int64, self.max_seen)]
        return Schema(
            [
                *tensors,
                *(tensor(name, np.bool_, 1) for name in (IS_UNKNOWN_USER, LACKS_FEATURES, IS_LACKING_USER)),
            ]
        )

    def run(self, user_id: Array, user_features: Array) -> Tensors:  # type: ignore[override]
        """Reads one row per user."""
        rows = self.store.read_users(user_id[:, 0])
        tensors: Tensors = {n: a if a.ndim > 1 else a[:, None] for n, a in rows.columns.items()}
        tensors[SEEN_ITEM_IDS] = rows.seen_item_ids
        tensors[IS_UNKNOWN_USER] = (~rows.is_found & (user_id[:, 0] != PAD_ID))[:, None]
        tensors[IS_LACKING_USER] = rows.is_lacking[:, None]
        tensors[LACKS_FEATURES] = np.zeros(user_id.shape, dtype=np.bool_)
        for row in np.nonzero(user_features.any(axis=1))[0].tolist():
            self._take(decode_user_features(user_features[row], self.dtypes), tensors, row)
        return tensors

    def _take(self, given: Given, tensors: Tensors, row: int) -> None:
        """Writes what the request gave of its user into a row."""
        columns = to_columns(self.columns, [[given.get(name) for name in self.columns]])
        for name, column in columns.items():
            tensors[name][row] = column[0]
        seen = [*(item for name in self.seen_lists for item in given.get(name) or ())]
        seen = [*dict.fromkeys([*seen, *tensors[SEEN_ITEM_IDS][row].tolist()])][: self.max_seen]
        tensors[SEEN_ITEM_IDS][row] = PAD_ID
        tensors[SEEN_ITEM_IDS][row, : len(seen)] = seen
        tensors[IS_UNKNOWN_USER][row] = tensors[IS_LACKING_USER][row] = False
        tensors[LACKS_FEATURES][row] = bool(self.taken - given.keys())


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
        """The ranker's inputs of candidates, packed: (B,K,columns), and whether one's columns are not those
        of the bundle."""
        packed = packed_tensors(self.inputs, "candidate_", self.k)
        return Schema([*packed, tensor(IS_LACKING_ITEMS, np.bool_, 1)])

    def run(self, candidate_ids: Array, **lists: Array) -> Tensors:  # type: ignore[override]
        """Gathers one row per candidate."""
        items = self.items.snapshot
        rows = items.rows_of(candidate_ids)
        packed = {name: column.take(rows, axis=0) for name, column in items.inputs.items()}
        tensors = {encoded(n): a.astype(np.int64) for n, a in packed.items() if n != CANDIDATE_NUMERIC}
        if self.inputs.numeric:
            numeric = np.empty((*rows.shape, len(self.inputs.numeric)), dtype=np.float32)
            if self.of_items:
                numeric[..., self.of_items] = packed[CANDIDATE_NUMERIC]
            for name, scores in self._user_item(items, candidate_ids, rows, lists).items():
                numeric[..., self.inputs.numeric.index(name)] = scores
            tensors[encoded(CANDIDATE_NUMERIC)] = numeric
        is_lacking = (items.is_lacking[rows] & (candidate_ids != PAD_ID)).any(axis=1, keepdims=True)
        return tensors | {IS_LACKING_ITEMS: is_lacking}

    def _user_item(self, items: ItemSnapshot, candidate_ids: Array, rows: Array, lists: Tensors) -> Tensors:
        recents: dict[str, Tensors] = {}
        for user_list, stored in lists.items():
            ids = stored[:, : self.dataset.activity.recent_items]
            at = items.rows_of(ids)
            recents[user_list] = {names.ITEM_ID: ids} | {c: a[at] for c, a in items.comparable.items()}
        candidates = {names.ITEM_ID: candidate_ids} | {c: a[rows] for c, a in items.comparable.items()}
        counts = user_item_counts(self.dataset, recents, candidates)
        return {name: scaled.take(counts[name]) for name, scaled in self.scaled.items()}


def packed_tensors(inputs: Inputs, prefix: str, *axes: int) -> list[object]:
    """Describes what `Inputs.pack` gives, as named tensors (B, *axes, columns)."""
    packed = [tensor(encoded(name), np.int64, *axes, length) for name, length in inputs.lists.items()]
    packed += [tensor(encoded(name), np.float32, *axes, length) for name, length in inputs.embeddings.items()]
    if inputs.categorical:
        packed.append(tensor(encoded(f"{prefix}categorical"), np.int64, *axes, len(inputs.categorical)))
    if inputs.numeric:
        packed.append(tensor(encoded(f"{prefix}numeric"), np.float32, *axes, len(inputs.numeric)))
    return packed


def _width(column: Column) -> int:
    return column.max_length if column.is_several else 1
