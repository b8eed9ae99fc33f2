"""Retrieval's training examples: an item that a user found, and the user as of just before.

Lists are cut out of every user's interactions only when a batch asks for them, so a million examples with
two lists of fifty take megabytes, not gigabytes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from contract import names
from contract.arrays import Array, Bools, Ints
from contract.dataset import ANY, Dataset
from contract.encoders import PAD_CODE, Encoders
from training.data.prepared import Prepared
from training.data.raw import raw_arrays
from training.examples.facts import ExampleFacts
from training.examples.split import all_user_ids, rows_of
from training.features.activity import event_times, log_order, snapshot_instants


@dataclass(frozen=True, eq=False)
class Stream:
    """Encoded items, user after user, oldest first; user u's are [starts[u], starts[u + 1])."""

    items: Ints
    starts: Ints

    def newest(self, users: Ints, ends: Ints, size: int) -> Ints:
        """Takes users (B,) and where to stop (B,), gives the last `size` items, newest first, (B,S)."""
        at = ends[:, None] - 1 - np.arange(size)
        is_there = at >= self.starts[users][:, None]
        if not len(self.items):
            return np.full(at.shape, PAD_CODE, dtype=np.int64)
        return np.where(is_there, self.items[np.maximum(at, 0)], PAD_CODE)


@dataclass(frozen=True, eq=False)
class UserHistories:
    """What is known of every user at any point of their interactions, encoded."""

    user_ids: Ints
    """Ascending; their rows are what `users` means below."""

    profile: dict[str, Array]
    recent: Stream
    positive: Stream
    positives_before: Ints
    """How many positives lie before each place of `recent`; one longer than it."""
    order: Ints
    """The place of each of `recent` among the prepared interactions."""
    times: Ints
    lengths: dict[str, int]

    @classmethod
    def of(cls, prepared: Prepared, encoders: Encoders) -> UserHistories:
        """Encodes all interactions, in the order of `log_order`."""
        dataset, rows = prepared.dataset, prepared.interactions
        times = event_times(dataset, rows).astype("int64").to_numpy()
        user_ids = all_user_ids(prepared)
        user_rows = np.searchsorted(user_ids, rows[names.USER_ID].to_numpy(np.int64))
        order = log_order(prepared, user_rows)
        codes = encoders.encode(names.ITEM_ID, rows[names.ITEM_ID].to_numpy(np.int64)[order]).astype(np.int64)
        is_positive = (rows[dataset.target] == 1).to_numpy(np.bool_, na_value=False)[order]
        starts = np.searchsorted(user_rows[order], np.arange(len(user_ids) + 1)).astype(np.int64)
        before = np.concatenate([[0], np.cumsum(is_positive)]).astype(np.int64)
        columns = {names.USER_ID: dataset.users[names.USER_ID], **dataset.user_profile}
        profiles = prepared.users.set_index(names.USER_ID, drop=False).reindex(user_ids)
        profiles[names.USER_ID] = user_ids
        return cls(
            user_ids=user_ids,
            profile={**encoders.encode_all(raw_arrays(profiles, columns))},
            recent=Stream(codes, starts),
            positive=Stream(codes[is_positive], before[starts]),
            positives_before=before,
            order=order,
            times=times[order],
            lengths={
                name: encoders.fields[name].length
                for name in (names.USER_RECENT_ITEM_IDS, names.USER_RECENT_POSITIVE_ITEM_IDS)
            },
        )

    def columns(self, users: Ints, ends: Ints) -> dict[str, Array]:
        """Takes rows of users (B,) and where their history stops (B,), gives their encoded columns."""
        recent = self.recent.newest(users, ends, self.lengths[names.USER_RECENT_ITEM_IDS])
        ends = self.positives_before[ends]
        positive = self.positive.newest(users, ends, self.lengths[names.USER_RECENT_POSITIVE_ITEM_IDS])
        return {
            **{name: values[users] for name, values in self.profile.items()},
            names.USER_RECENT_ITEM_IDS: recent,
            names.USER_RECENT_POSITIVE_ITEM_IDS: positive,
        }

    def ends_before(self, users: Ints, instants: Ints) -> Ints:
        """Finds the first interaction of users (B,) that is not before `instants` (B,), in ns."""
        low, high = self.recent.starts[users], self.recent.starts[users + 1]
        while (low < high).any():
            middle = (low + high) // 2
            is_before = self.times[np.minimum(middle, len(self.times) - 1)] < instants
            low, high = (
                np.where((low < high) & is_before, middle + 1, low),
                np.where((low < high) & ~is_before, middle, high),
            )
        return low

    def as_of(self, users: Ints, instant: datetime) -> dict[str, Array]:
        """Gives the encoded columns of users (B,) as the store has them at an instant."""
        return self.columns(users, self.ends_before(users, np.full(len(users), pd.Timestamp(instant).value)))


@dataclass(frozen=True, eq=False)
class RetrievalExamples(ExampleFacts):
    """Positives (rows,), each with two places in the user's history before which it may be trained."""

    histories: UserHistories
    ends: Ints
    """As of the last snapshot before it."""
    just_before: Ints
    """As of the moment of it."""

    def batch(self, rows: Ints, is_fresh: Bools) -> dict[str, Array]:
        """Takes rows (B,) and whether each is seen just before or as of the snapshot (B,), gives their users'
        encoded columns; (B,), lists (B,S)."""
        ends = np.where(is_fresh, self.just_before[rows], self.ends[rows])
        return self.histories.columns(self.users[rows], ends)

    def some(self, rows: Ints) -> Self:
        """Gives the examples in these rows alone."""
        every = {one.name: getattr(self, one.name) for one in fields(self)}
        some: dict[str, Any] = {name: v[rows] for name, v in every.items() if isinstance(v, np.ndarray)}
        return replace(self, **some)


def retrieval_examples(prepared: Prepared, histories: UserHistories, until: datetime) -> RetrievalExamples:
    """Makes an example of every interaction before `until` that `dataset.retrieval_positives` counts.

    The user is as of the last snapshot before a timed interaction; where nothing was known then, and for a
    history's row, as of just before it. An example never sees itself or anything later.
    """
    dataset, rows = prepared.dataset, prepared.interactions
    times = event_times(dataset, rows)
    user_rows = rows_of(histories.user_ids, rows[names.USER_ID].to_numpy(np.int64))
    order = histories.order
    users = user_rows[order]
    item_ids = prepared.items[names.ITEM_ID].to_numpy(np.int64)
    items = rows_of(item_ids, rows[names.ITEM_ID].to_numpy(np.int64)[order])
    is_timed = rows[dataset.timestamp].notna().to_numpy()[order]
    snapshots = snapshot_instants(dataset, times.min(), times.max()).asi8
    last = np.searchsorted(snapshots, histories.times, side="right") - 1
    at_snapshot = histories.ends_before(users, snapshots[np.maximum(last, 0)])
    just_before = np.arange(len(users))
    has_some = at_snapshot > histories.recent.starts[users]
    ends = np.where(is_timed & has_some, at_snapshot, just_before)

    label = dataset.retrieval_positives
    is_kept = (histories.times < pd.Timestamp(until).value) & (items >= 0)
    if label not in ("", ANY):
        is_kept &= (rows[label] == 1).to_numpy(np.bool_, na_value=False)[order]
    is_target = (rows[dataset.target] == 1).to_numpy(np.bool_, na_value=False)[order]
    # Unsigned: three centuries of nanoseconds are more than int64 holds, and what is kept lies before.
    age_days = (pd.Timestamp(until).value - histories.times).view(np.uint64) / pd.Timedelta(days=1).value
    return RetrievalExamples(
        histories=histories,
        users=users[is_kept],
        ends=ends[is_kept],
        just_before=just_before[is_kept],
        items=items[is_kept],
        is_timed=is_timed[is_kept],
        is_target=is_target[is_kept],
        age_days=age_days[is_kept],
        weights=_weights(dataset, rows)[order][is_kept],
        user_count=len(histories.user_ids),
        item_count=len(item_ids),
    )


def _weights(dataset: Dataset, rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    each = [
        np.where(
            (rows[label] == 1).to_numpy(np.bool_, na_value=False), dataset.interactions[label].weight, 0.0
        )
        for label in dataset.labels
    ]
    weights = np.max(each, axis=0)
    return np.where(weights > 0, weights, 1.0)


def item_columns(prepared: Prepared, encoders: Encoders) -> dict[str, Array]:
    """Encodes what the item tower reads, (I,) or for lists (I,L), in the order of the items table."""
    dataset = prepared.dataset
    columns = {names.ITEM_ID: dataset.items[names.ITEM_ID], **dataset.item_catalog}
    return {**encoders.encode_all(raw_arrays(prepared.items, columns))}
