"""Every user and item as the feature store has them at one instant, and candidates made of the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from contract import names
from contract.affinity import LISTS, affinity_columns, user_item_feature_names, user_item_features
from contract.arrays import Array, Ints
from contract.columns import Columns
from contract.dataset import Dataset
from contract.encoders import Encoders
from training.data.prepared import Prepared
from training.data.raw import all_columns, raw_arrays
from training.examples.split import all_user_ids
from training.features.activity import EntityLog, id_of


def candidate_columns(dataset: Dataset) -> frozenset[str]:
    """Names the columns that differ between a user's candidates; all others are of user or context."""
    return frozenset(
        (names.ITEM_ID, *dataset.item_catalog, *dataset.item_activity, *user_item_feature_names(dataset))
    )


def users_as_of(prepared: Prepared, instant: datetime) -> dict[str, Array]:
    """Gives the raw columns of `all_user_ids`: profile where there is one, and activity."""
    frame = pd.DataFrame({names.USER_ID: all_user_ids(prepared)})
    frame = frame.merge(prepared.users, on=names.USER_ID, how="left")
    return _raw(prepared, frame, names.USER, prepared.dataset.user_activity, instant)


def items_as_of(prepared: Prepared, instant: datetime) -> dict[str, Array]:
    """Gives the raw columns of every row of the items table: catalogue and activity."""
    return _raw(prepared, prepared.items, names.ITEM, prepared.dataset.item_activity, instant)


def _raw(
    prepared: Prepared, frame: pd.DataFrame, entity: str, columns: Columns, instant: datetime
) -> dict[str, Array]:
    """Adds the activity of each row's entity from before an instant, as the store keeps it."""
    log = EntityLog.of(prepared, entity)
    at = np.full(len(frame), pd.Timestamp(instant).value)
    spans = log.known_at(frame[id_of(entity)].to_numpy(np.int64), at)
    read = all_columns(prepared.dataset)
    raw = raw_arrays(frame.assign(**log.numbers(spans, columns)), read)
    raw.update({name: lists.padded() for name, lists in log.lists(spans, columns).items()})
    return {name: raw[name] for name in read if name in raw}


@dataclass(frozen=True, eq=False)
class Candidates:
    """Makes the ranker's columns for users and candidate items, context unknown."""

    dataset: Dataset
    encoders: Encoders
    users: Mapping[str, Array]
    items: Mapping[str, Array]

    def numeric(self, features: Sequence[str]) -> tuple[str, ...]:
        """Names those of a model's features that are numeric columns of candidates."""
        of_candidates, fields = candidate_columns(self.dataset), self.encoders.fields
        return tuple(n for n in features if n in of_candidates and fields[n].kind == "numeric")

    def columns(self, users: Ints, items: Ints) -> dict[str, Array]:
        """Takes rows of users (B,) and of their candidates (B,K), gives encoded columns of B * K rows."""
        wide = {name: values[users] for name, values in self.users.items()}
        matches = user_item_features(
            self.dataset,
            {name: self._items_of(wide[name]) for name in LISTS},
            {name: self.items[name][items] for name in affinity_columns(self.dataset)},
        )
        k = items.shape[1]
        encoded = self.encoders.encode_all(wide)
        return {
            **{name: np.repeat(values, k, axis=0) for name, values in encoded.items()},
            **self.encoders.encode_all({n: values[items.ravel()] for n, values in self.items.items()}),
            **self.encoders.encode_all({n: values.ravel() for n, values in matches.items()}),
            **self.encoders.encode_all(
                {name: np.full(items.size, names.NULL_INT) for name in self.dataset.context}
            ),
        }

    def _items_of(self, item_ids: Ints) -> dict[str, Array]:
        """Gives the compared columns of listed items (B,S); those outside the catalogue are null."""
        known = self.items[names.ITEM_ID]
        at = np.minimum(np.searchsorted(known, item_ids), len(known) - 1)
        is_known = known[at] == item_ids
        columns: dict[str, Array] = {names.ITEM_ID: item_ids}
        for name in affinity_columns(self.dataset)[1:]:
            values = self.items[name][at]
            null: Any = names.NULL_INT if values.dtype.kind == "i" else None
            live = is_known if values.ndim == 2 else is_known[:, :, None]
            columns[name] = np.where(live, values, null)
        return columns


def unknown_user(dataset: Dataset) -> dict[str, Array]:
    """Gives the raw columns, of one row, of a user of whom nothing is known."""
    columns = {**dataset.user_profile, **dataset.user_activity}
    frame = pd.DataFrame({name: pd.Series([None], dtype=object) for name in columns})
    arrays = raw_arrays(frame, columns)
    return {names.USER_ID: np.array([-1], dtype=np.int64), **arrays}
