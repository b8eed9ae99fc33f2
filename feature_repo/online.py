"""What Redis holds of a data set: Feast's rows, and what each user has seen. Counts them, writes the latter,
forgets both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from redis import Redis

from contract import names
from contract.feast import event_time_field, feature_keys_pattern, is_feature_key
from contract.keys import (
    batch_runs_key,
    changed_users_key,
    encode_seen,
    materialized_key,
    seen_key,
    seen_prefix,
)
from training.data.prepared import Prepared
from training.features.activity import event_times

_BATCH = 5_000  # keys per round trip


@dataclass(frozen=True)
class Loaded:
    """What was loaded of a data set: up to when, and a hash of every view's rows until then. Kept in Redis
    itself.
    """

    until: str
    digests: dict[str, str] = field(default_factory=dict)


class OnlineStore:
    """The keys of one Redis that `make materialize` writes."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def loaded(self, project: str) -> Loaded | None:
        """Reads what is loaded of a data set; None where Redis is new, or was emptied."""
        value = self.redis.get(materialized_key(project))
        return Loaded(**json.loads(value)) if value else None

    def note(self, project: str, loaded: Loaded) -> None:
        """Remembers what was loaded."""
        self.redis.set(materialized_key(project), json.dumps(asdict(loaded)))

    def forget(self, project: str) -> int:
        """Deletes every row of a data set, gives their number. Feast's own deletion would also hit
        `other_<project>`.
        """
        self.redis.delete(materialized_key(project))
        keys = [key for join_key in (names.USER_ID, names.ITEM_ID) for key in self.keys(project, join_key)]
        for start in range(0, len(keys), _BATCH):
            self.redis.unlink(*keys[start : start + _BATCH])
        return len(keys)

    def keys(self, project: str, join_key: str) -> Iterator[bytes]:
        """Lists the keys of an entity."""
        for key in self.redis.scan_iter(feature_keys_pattern(project), count=_BATCH):
            if is_feature_key(key, join_key, project):
                yield key

    def rows(self, project: str) -> dict[str, int]:
        """Counts the rows of every view that are there."""
        counts = dict.fromkeys(names.VIEWS, 0)
        for join_key, views in ((names.USER_ID, names.USER_VIEWS), (names.ITEM_ID, names.ITEM_VIEWS)):
            keys = list(self.keys(project, join_key))
            for start in range(0, len(keys), _BATCH):
                pipe = self.redis.pipeline(transaction=False)
                for key in keys[start : start + _BATCH]:
                    for view in views:
                        pipe.hexists(key, event_time_field(view))
                found = np.array(pipe.execute(), dtype=np.int64).reshape(-1, len(views))
                for view, count in zip(views, found.sum(axis=0), strict=True):
                    counts[view] += int(count)
        return counts

    def write_seen(self, prepared: Prepared, until: datetime, most: int) -> int:
        """Writes what every user has seen before an instant where it is not there already, deletes the keys
        of all others, gives the users' number. Whose items are others than before is noted as changed.
        """
        project, lists = prepared.dataset.name, seen_items(prepared, until, most)
        entries = list(lists.items())
        for start in range(0, len(entries), _BATCH):
            items = {user_id: encode_seen(some) for user_id, some in entries[start : start + _BATCH]}
            before: Any = self.redis.mget([seen_key(project, user_id) for user_id in items])
            changed = [user for user, old in zip(items, before, strict=True) if old != items[user]]
            if changed:
                self.note_changed(project, changed)
                self.redis.mset({seen_key(project, user_id): items[user_id] for user_id in changed})
                self.note_changed(project, changed)
        kept = {seen_key(project, user_id).encode() for user_id in lists}
        stale = [
            key for key in self.redis.scan_iter(f"{seen_prefix(project)}*", count=_BATCH) if key not in kept
        ]
        for start in range(0, len(stale), _BATCH):
            chunk = stale[start : start + _BATCH]
            forgotten = [int(key.rpartition(b":")[2]) for key in chunk]
            self.note_changed(project, forgotten)
            self.redis.unlink(*chunk)
            self.note_changed(project, forgotten)
        return len(lists)

    def note_changed(self, project: str, user_ids: Sequence[int]) -> None:
        """Notes for the batch job that users changed, by Redis' clock; not where no run ever began, as the
        first one computes everyone.

        Called before they change, so that a crash forgets nobody, and after, as a run may begin in between.
        """
        if not self.redis.exists(batch_runs_key(project)):
            return
        now: Any = self.redis.time()
        for start in range(0, len(user_ids), _BATCH):
            noted = dict.fromkeys(user_ids[start : start + _BATCH], now[0] + now[1] / 1e6)
            self.redis.zadd(changed_users_key(project), noted)


def seen_items(prepared: Prepared, until: datetime, most: int) -> dict[int, np.ndarray]:
    """Lists the items that each user has seen before an instant: newest first, each once, at most `most`."""
    dataset = prepared.dataset
    rows = prepared.interactions[[names.USER_ID, names.ITEM_ID]].assign(
        at=event_times(dataset, prepared.interactions)
    )
    is_seen = rows["at"] < pd.Timestamp(until)
    if dataset.seen_labels != "any":
        is_seen &= (prepared.interactions[dataset.seen_labels] == 1).fillna(False).astype(bool)
    rows = rows[is_seen].iloc[::-1]  # ties keep file order: the last row is the newest
    rows = rows.sort_values([names.USER_ID, "at"], ascending=[True, False], kind="stable")
    rows = rows.drop_duplicates([names.USER_ID, names.ITEM_ID])
    rows = rows[rows.groupby(names.USER_ID).cumcount() < most]
    users, starts = np.unique(rows[names.USER_ID].to_numpy(), return_index=True)
    lists = np.split(rows[names.ITEM_ID].to_numpy(np.int64), starts[1:])
    return dict(zip(users.tolist(), lists, strict=True)) if len(users) else {}
