"""What Redis holds of a data set: Feast's rows, and what each user has seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from google.protobuf.timestamp_pb2 import Timestamp
from redis import Redis

from contract.feast import (
    event_time_field,
    feature_field,
    feature_id,
    feature_key,
    feature_keys_pattern,
)
from contract.features import SEEN_ITEM_IDS
from contract.keys import (
    activity_rates_key,
    batch_runs_key,
    batch_stored_key,
    bundles_key,
    changed_users_key,
    encode_seen,
    item_card_key,
    kept_columns_key,
    live_items_key,
    materialized_at_key,
    materialized_key,
    removed_users_key,
    seen_key,
    seen_prefix,
    slate_key,
)
from feature_repo.bundle_columns import BundleColumn
from feature_repo.computed import ids_of, key_of
from feature_repo.difference import MISSING, Stored

Ids = npt.NDArray[np.int64]
WriteSeen = Callable[[Mapping[int, Ids]], None]
_BATCH = 5_000  # keys per round trip


class OnlineStore:
    """The keys of one data set in one Redis."""

    def __init__(self, redis: Redis, project: str) -> None:
        self.redis, self.project = redis, project

    def loaded(self) -> dict[str, str] | None:
        """Reads a hash of each view's rows as they were loaded; None while they are written, where that
        failed, and where Redis is new or was emptied.
        """
        value = self.redis.get(materialized_key(self.project))
        return json.loads(value) if value else None

    def note_loaded(self, hashes: Mapping[str, str] | None) -> None:
        """Remembers what was loaded; None while it is not known."""
        if hashes is None:
            self.redis.delete(materialized_key(self.project))
        else:
            self.redis.set(materialized_key(self.project), json.dumps(hashes))

    def live_items(self) -> tuple[Ids, Ids]:
        """Lists the items that were put while serving, and those that were taken out, ascending."""
        rows: Any = self.redis.hgetall(live_items_key(self.project))
        put, gone = (
            np.array(sorted(int(number) for number, row in rows.items() if bool(row) == is_put), np.int64)
            for is_put in (True, False)
        )
        return put, gone

    def note_time(self) -> None:
        """Remembers that the features are as of now, Unix time by Redis' clock."""
        now: Any = self.redis.time()
        self.redis.set(materialized_at_key(self.project), now[0])

    def stored(self, join_key: str, views: Sequence[str], ids: Ids | None = None) -> dict[str, Stored]:
        """Looks which rows there are of an entity's views, and from when each is; of all ids that have any,
        or of some, ascending.
        """
        ids = self._ids(join_key) if ids is None else ids
        seconds = np.full((len(ids), len(views)), MISSING)
        fields, known = [event_time_field(view) for view in views], {None: MISSING}
        for start in range(0, len(ids), _BATCH):
            pipe: Any = self.redis.pipeline(transaction=False)
            for entity_id in ids[start : start + _BATCH].tolist():
                pipe.hmget(feature_key(join_key, entity_id, self.project), fields)
            for row, values in enumerate(pipe.execute(), start):
                for place, value in enumerate(values):
                    if value not in known:
                        known[value] = Timestamp.FromString(value).seconds
                    seconds[row, place] = known[value]
        return {view: Stored(ids, seconds[:, place]) for place, view in enumerate(views)}

    def _ids(self, join_key: str) -> Ids:
        """Lists the ids of an entity that have any row, ascending."""
        found = self.redis.scan_iter(feature_keys_pattern(join_key, self.project), count=_BATCH)
        ids = (feature_id(key, join_key, self.project) for key in found)
        return np.array(sorted({entity_id for entity_id in ids if entity_id is not None}), dtype=np.int64)

    def date_back(self, join_key: str, view: str, ids: Ids, seconds: Ids) -> None:
        """Lets rows (rows,) be older than those that will be written, by a second: Feast writes no row that
        is not newer than what it finds. Nothing else of them changes, so they are read as before.
        """
        for keys in self._batches(join_key, ids):
            pipe: Any = self.redis.pipeline(transaction=False)
            for key, second in zip(keys, seconds[: len(keys)].tolist(), strict=True):
                pipe.hset(key, event_time_field(view), Timestamp(seconds=second - 1).SerializeToString())
            pipe.execute()
            seconds = seconds[len(keys) :]

    def keep(self, columns: Collection[BundleColumn], ids: Mapping[str, Ids]) -> None:
        """Copies columns of all rows, ids by view, to where they are kept; what is kept already stays, and
        what is of another type is not copied."""
        if columns:
            self.redis.sadd(kept_columns_key(self.project), *map(str, columns))
        for view in dict.fromkeys(one.view for one in columns):
            mine = [one for one in columns if one.view == view]
            for keys in self._batches(key_of(view), ids[view]):
                pipe: Any = self.redis.pipeline(transaction=False)
                for key in keys:
                    pipe.hmget(key, [one.source for one in mine])
                for key, values in zip(keys, pipe.execute(), strict=True):
                    for one, value in zip(mine, values, strict=True):
                        if one.fits(value):
                            pipe.hsetnx(key, one.field, value)
                pipe.execute()

    def let_go(self, columns: Collection[BundleColumn], ids: Mapping[str, Ids]) -> None:
        """Deletes from all rows, ids by view, the columns that need no longer be kept."""
        stored: Any = self.redis.smembers(kept_columns_key(self.project))
        gone = {BundleColumn.parse(one.decode()) for one in stored} - set(columns)
        for view in {one.view for one in gone}:
            fields = [one.field for one in gone if one.view == view]
            self._delete_fields(key_of(view), ids[view], fields)
        if gone:
            self.redis.srem(kept_columns_key(self.project), *map(str, gone))

    def note_removed(self, user_ids: Ids, there: Ids) -> None:
        """Tells a batch run that is at work, or will go on, whose rows are gone, before they go; not of users
        who are there again, nor where no run ever began."""
        if not self.redis.exists(batch_runs_key(self.project)):
            return
        key = removed_users_key(self.project)
        removed: Any = self.redis.smembers(key)
        if back := set(map(int, removed)) & set(there.tolist()):
            self.redis.srem(key, *back)
        for start in range(0, len(user_ids), _BATCH):
            self.redis.sadd(key, *user_ids[start : start + _BATCH].tolist())

    def delete_slates(self, user_ids: Ids) -> None:
        """Deletes the slates that batch runs stored for some users, of every run that may have any."""
        runs: Any = self.redis.smembers(batch_stored_key(self.project)) if len(user_ids) else ()
        for run in runs:
            self._unlink(partial(slate_key, run.decode()), user_ids)

    def bundles(self) -> list[str]:
        """Names the bundles that are indexed: those that are served, or may be again."""
        found: Any = self.redis.zrange(bundles_key(self.project), 0, -1)
        return [bundle.decode() for bundle in found]

    def delete_cards(self, item_ids: Ids) -> None:
        """Deletes the cards of some items, of every bundle that is indexed."""
        for bundle in self.bundles() if len(item_ids) else ():
            self._unlink(partial(item_card_key, bundle), item_ids)

    def delete_fields(self, join_key: str, view: str, ids: Ids, columns: Sequence[str], *, row: bool) -> None:
        """Deletes columns of a view from some ids' rows, and where `row` is set its event time as well."""
        fields = [feature_field(view, column) for column in columns]
        fields += [event_time_field(view)] if row else []
        self._delete_fields(join_key, ids, fields)

    def _delete_fields(self, join_key: str, ids: Ids, fields: Sequence[bytes]) -> None:
        for keys in self._batches(join_key, ids) if fields else ():
            pipe: Any = self.redis.pipeline(transaction=False)
            for key in keys:
                pipe.hdel(key, *fields)
            pipe.execute()

    def _unlink(self, key: Callable[[int], str | bytes], ids: Ids) -> None:
        for start in range(0, len(ids), _BATCH):
            self.redis.unlink(*map(key, ids[start : start + _BATCH].tolist()))

    def _batches(self, join_key: str, ids: Ids) -> Iterator[list[bytes]]:
        for start in range(0, len(ids), _BATCH):
            some = ids[start : start + _BATCH].tolist()
            yield [feature_key(join_key, entity_id, self.project) for entity_id in some]

    def unlike_seen(self, seen: pa.Table) -> Ids:
        """Tells of which users Redis holds that they have seen anything else, ascending. Who does so later
        does by the stream, which puts events before what is there: nothing need be written of them."""
        unlike = [np.setdiff1d(np.array(self.seen_users(), dtype=np.int64), ids_of(seen))]
        for values in self._values(seen):
            before: Any = self.redis.mget([seen_key(self.project, user_id) for user_id in values])
            pairs = zip(values.items(), before, strict=True)
            changed = [user_id for (user_id, mine), old in pairs if old != encode_seen(mine)]
            unlike.append(np.array(changed, dtype=np.int64))
        return np.unique(np.concatenate(unlike))

    def write_seen(self, seen: pa.Table, users: Ids, write: WriteSeen | None = None) -> None:
        """Writes what some of the users have seen; they are noted as changed."""
        for values in self._values(seen.filter(pa.array(np.isin(ids_of(seen), users)))):
            self.note_changed([*values])
            (write or self._set_seen)(values)
            self.note_changed([*values])

    def _set_seen(self, values: Mapping[int, Ids]) -> None:
        self.redis.mset({seen_key(self.project, one): encode_seen(items) for one, items in values.items()})

    def _values(self, seen: pa.Table) -> Iterator[dict[int, Ids]]:
        """Gives what users have seen, some at a time."""
        for start in range(0, len(seen), _BATCH):
            some = seen.slice(start, _BATCH).combine_chunks()
            lists = some[SEEN_ITEM_IDS].combine_chunks()
            items, ends = lists.flatten().to_numpy(), np.cumsum(lists.value_lengths().to_numpy())
            yield dict(zip(ids_of(some).tolist(), np.split(items, ends[:-1]), strict=True))

    def seen_users(self) -> list[int]:
        """Lists the users who have seen anything."""
        prefix = seen_prefix(self.project)
        return [int(key[len(prefix) :]) for key in self.redis.scan_iter(f"{prefix}*", count=_BATCH)]

    def forget_seen(self, users: Ids, write: WriteSeen) -> None:
        """Writes that some users have seen nothing."""
        for start in range(0, len(users), _BATCH):
            some = users[start : start + _BATCH].tolist()
            self.note_changed(some)
            write(dict.fromkeys(some, np.zeros(0, dtype=np.int64)))
            self.note_changed(some)

    def note_rates(self, rates: Mapping[str, float | None]) -> bool:
        """Writes the overall rate of each label, gives whether there was any before: without, the stream
        folds no event."""
        return self.redis.set(activity_rates_key(self.project), json.dumps(dict(rates)), get=True) is not None

    def note_changed(self, user_ids: Sequence[int]) -> None:
        """Notes for the batch job that users changed, by Redis' clock; not where no run ever began, as the
        first one computes everyone.

        Called before they change, so that a crash forgets nobody, and after, as a run may begin in between.
        """
        if not self.redis.exists(batch_runs_key(self.project)):
            return
        now: Any = self.redis.time()
        for start in range(0, len(user_ids), _BATCH):
            noted = dict.fromkeys(user_ids[start : start + _BATCH], now[0] + now[1] / 1e6)
            self.redis.zadd(changed_users_key(self.project), noted)
