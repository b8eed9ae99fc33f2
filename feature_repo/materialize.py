"""Brings computed features into Redis, as a difference: what is new or changed is written by Feast, what is
gone is deleted last, and nothing else is touched. What a bundle that can be served reads and the data set has
otherwise, or no more, is put aside before.

What was loaded is kept twice: the rows in `var/feast/{dataset}/loaded`, and hashes of their files in Redis.
While they agree, a row in Redis is the loaded one if it has its event time. Else, as after a crash, every row
is written again over what is there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from redis import Redis
from redis.exceptions import RedisError

from contract import names
from contract.activity import view_of
from contract.archive import forget_users
from contract.arrays import Ids
from contract.batch_files import slate_files
from contract.bundles import bundles_folder
from contract.dataset import DatasetError
from contract.environment import RedisUrl, explain_redis
from contract.features import STATE, view_file
from feature_repo.bundle_columns import columns_to_keep
from feature_repo.computed import ACTIVITY, Computed, ids_of, key_of
from feature_repo.connection import connection_string
from feature_repo.difference import Difference, Stored, difference, seconds_of
from feature_repo.feast_store import FeastStore
from feature_repo.later import LaterEvents
from feature_repo.live_items import without_live_items
from feature_repo.online import OnlineStore
from feature_repo.settle import Settlement

Say = Callable[[str], None]
LOADED = "loaded"
ENTITIES = ((names.USER_ID, names.USER_VIEWS), (names.ITEM_ID, names.ITEM_VIEWS))


@dataclass(frozen=True)
class Arrived:
    """What Redis holds after a materialisation, counted there, and what was done: by view."""

    rows: dict[str, int]
    written: dict[str, int]
    deleted: dict[str, int]
    seen_users: int
    as_of: datetime


def materialize(folder: Path, url: RedisUrl, *, say: Say = print) -> Arrived:
    """Brings the computed features and seen items of a prepared data set, such as `var/data/kuairand`, into
    Redis, and counts what is there then. Who is gone goes from the files of batch runs as well.

    Raises:
        DatasetError: nothing was computed, Redis does not answer, refused or lost rows, Feast failed, a file
            of slates cannot be written anew, or another run is at it.
    """
    folder = folder.resolve()
    computed, project = Computed.read(folder), folder.name
    feast = FeastStore(folder.parents[1], project, connection_string(url))
    say(f"features of {project} as of {computed.made.as_of:%Y-%m-%d %H:%M:%S} UTC")
    with _alone(feast.folder), _explained(url):
        online = OnlineStore(Redis(**url.connection_kwargs()), project)
        online.redis.ping()
        feast.apply()
        work = _Work.found(computed, online, feast)
        work.do()
        online.note_time()
        feast.note_loaded(work.computed.made)
    arrived = work.arrived
    for view, count in arrived.rows.items():
        say(
            f"{view}: {count:,} rows in Redis, {arrived.written[view]:,} written, "
            f"{arrived.deleted[view]:,} deleted"
        )
    say(f"seen: {arrived.seen_users:,} users in Redis")
    return arrived


@dataclass(frozen=True)
class _Work:
    """What one run has to do: by view the differences, and of whose changing rows there are events that were
    not computed; who else has seen something else, (U,), and by view whose rows Redis has."""

    online: OnlineStore
    feast: FeastStore
    computed: Computed
    differences: Mapping[str, Difference]
    live: Mapping[str, Collection[int]]
    settlement: Settlement
    unlike: Ids
    ids: Mapping[str, Ids]

    @classmethod
    def found(cls, computed: Computed, online: OnlineStore, feast: FeastStore) -> _Work:
        """Compares what was computed with what Redis has."""
        computed, stored = without_live_items(computed, _stored(online), *online.live_items())
        differences = _differences(computed, stored, online.loaded() or {}, feast.folder / LOADED)
        unlike = online.unlike_seen(computed.seen)
        settlement = _settlement(computed, differences, unlike, online, feast.var_dir)
        live = _live(differences, settlement)
        differences = {view: _without(d, live.get(view, ())) for view, d in differences.items()}
        ids = {view: one.ids for view, one in stored.items()}
        return cls(online, feast, computed, differences, live, settlement, unlike, ids)

    def do(self) -> None:
        """Writes, deletes, and looks whether all arrived; what was loaded is noted last, so that the run
        after one that died does all of it.

        Raises:
            DatasetError: rows did not arrive.
        """
        online, loaded = self.online, self.feast.folder / LOADED
        columns = columns_to_keep(self.computed.dataset, bundles_folder(self.feast.var_dir), online.bundles())
        changed = _changed_users(self.differences)
        online.note_changed(changed)
        is_same = all(d.is_empty for d in self.differences.values()) and not any(self.live.values())
        if not is_same:
            online.note_loaded(None)
            online.keep(columns, self.ids)
            self._write()
            self._settle()
        online.write_seen(self.computed.seen, self.unlike, self.settlement.seen)
        self._delete({one.view for one in columns})
        online.let_go(columns, self.ids)
        online.forget_seen(np.setdiff1d(self.unlike, ids_of(self.computed.seen)), self.settlement.seen)
        online.note_changed(changed)
        self._check_arrival()
        if not is_same:
            _write_loaded(loaded, self.differences)
            online.note_loaded(_hashes(loaded))

    @property
    def arrived(self) -> Arrived:
        """What Redis holds now."""
        differences = self.differences
        return Arrived(
            {view: len(d.rows) for view, d in differences.items()},
            {view: int(np.count_nonzero(d.is_written)) for view, d in differences.items()},
            {view: len(d.gone) for view, d in differences.items()},
            len(self.computed.seen),
            self.computed.made.as_of,
        )

    def _write(self) -> None:
        """Writes rows by Feast; not those which the stream has written since they were computed."""
        for view, d in self.differences.items():
            is_still = ~np.isin(ids_of(d.rows), np.array([*self.live.get(view, ())], dtype=np.int64))
            rows = d.rows.filter(pa.array(d.is_written & is_still))
            if not len(rows):
                continue
            old = d.rows.filter(pa.array(d.too_new & is_still))
            self.online.date_back(key_of(view), view, ids_of(old), seconds_of(old))
            self.feast.write(view, rows.select([name for name in rows.column_names if name != STATE]))

    def _settle(self) -> None:
        """Folds what happened since into the rows of activity that change, and writes their states."""
        for entity in (names.USER, names.ITEM):
            d = self.differences[view_of(entity)]
            computed = dict(zip(ids_of(d.rows).tolist(), d.rows[STATE].to_pylist(), strict=True))
            written = {*ids_of(d.written).tolist(), *self.live[view_of(entity)]}
            self.settlement.rows(entity, sorted(written), computed)

    def _delete(self, of_kept: Collection[str]) -> None:
        """Deletes what has no source any more; a row last, so that the run after one that died finds it.
        A view that has no column any more keeps its rows, where it is among those of kept columns."""
        for entity, (key, views) in zip((names.USER, names.ITEM), ENTITIES, strict=True):
            here = [ids_of(self.differences[view].rows) for view in views]
            remaining = np.unique(
                np.concatenate([*here, np.array([*self.live[view_of(entity)]], dtype=np.int64)])
            )
            for view in views:
                d = self.differences[view]
                gone = np.setdiff1d(d.gone, remaining)
                if key == names.USER_ID:
                    self.online.note_removed(gone, remaining)
                    forget_users(slate_files(self.feast.var_dir, self.online.project), gone)
                    self.online.delete_slates(gone)
                else:
                    self.online.delete_cards(gone)
                self.settlement.delete_rows(entity, gone.tolist())
                lost = np.intersect1d(d.gone, remaining)
                if view in ACTIVITY:
                    self.settlement.delete_activity(entity, lost.tolist())
                    self.online.delete_fields(key, view, lost, d.gone_columns, row=False)
                else:
                    columns = [*d.rows.column_names[2:], *d.gone_columns]
                    is_row = len(d.rows.column_names) > 2 or view not in of_kept
                    self.online.delete_fields(key, view, lost, columns, row=is_row)
                if d.gone_columns:
                    self.online.delete_fields(key, view, ids_of(d.rows), d.gone_columns, row=False)

    def _check_arrival(self) -> None:
        """Looks whether the rows that were written are in Redis; the others were before.

        Raises:
            DatasetError: some did not arrive.
        """
        for view, d in self.differences.items():
            ids, seconds = ids_of(d.written), seconds_of(d.written)
            there = self.online.stored(key_of(view), [view], ids)[view].seconds
            is_there = there >= seconds if view in ACTIVITY else there == seconds
            arrived = int(np.count_nonzero(is_there))
            if arrived < len(ids):
                raise DatasetError(
                    f"{view}: {arrived} of {len(ids)} rows arrived in Redis; look for evictions (maxmemory), "
                    "then run `make materialize` again"
                )


@contextmanager
def _explained(url: RedisUrl) -> Iterator[None]:
    """Turns whatever Redis refuses in its body into one line.

    Raises:
        DatasetError: the Redis at `url` does not answer, or refused.
    """
    try:
        yield
    except RedisError as error:
        raise DatasetError(f"Redis at {url.address}: {explain_redis(error)}") from None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second run of the same data set out; a run that dies leaves no lock.

    Raises:
        DatasetError: another run is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatasetError(f"{folder.name} is being materialised already; wait for it to end") from None
        yield


def _stored(online: OnlineStore) -> dict[str, Stored]:
    return {view: s for key, views in ENTITIES for view, s in online.stored(key, views).items()}


def _differences(
    computed: Computed, stored: Mapping[str, Stored], noted: Mapping[str, str], loaded_folder: Path
) -> dict[str, Difference]:
    loaded, now, hashes = _read_loaded(loaded_folder), datetime.now(UTC), _hashes(loaded_folder)
    return {
        view: difference(
            view,
            table,
            loaded.get(view),
            stored[view],
            is_known=view in loaded and hashes[view] == noted.get(view),
            at=now,
        )
        for view, table in computed.views.items()
    }


def _settlement(
    computed: Computed,
    differences: Mapping[str, Difference],
    unlike: Ids,
    online: OnlineStore,
    var_dir: Path,
) -> Settlement:
    """Reads what happened since features were computed: to whose rows change and who have seen anything else,
    or to everybody where no event was folded before."""
    later = LaterEvents(online.redis, computed.dataset, var_dir, computed.made.horizon)
    if online.note_rates(computed.made.rates):
        users, items = (differences[view].changed.tolist() for view in ACTIVITY)
        later.wanted = {names.USER: {*users, *unlike.tolist()}, names.ITEM: {*items}}
    effective = later.effective()
    later.read()
    return Settlement(
        online.redis, computed.dataset, computed.made.rates, computed.made.horizon, later, effective
    )


def _live(differences: Mapping[str, Difference], settlement: Settlement) -> dict[str, list[int]]:
    """Tells whose rows change and have events that were not computed, by view of activity."""
    found = {}
    for entity in (names.USER, names.ITEM):
        view = view_of(entity)
        ids = {*differences[view].changed.tolist()}
        if settlement.later.wanted is None:
            ids.update(settlement.later.ids(entity))
        found[view] = settlement.live(entity, sorted(ids))
    return found


def _without(d: Difference, live: Collection[int]) -> Difference:
    """Keeps those of whom something happened since from being gone."""
    return replace(d, gone=np.setdiff1d(d.gone, np.array([*live], dtype=np.int64)))


def _changed_users(differences: Mapping[str, Difference]) -> list[int]:
    changed: list[int] = np.unique(
        np.concatenate([differences[view].changed for view in names.USER_VIEWS])
    ).tolist()
    return changed


def _read_loaded(folder: Path) -> dict[str, pa.Table]:
    """Reads the rows that were loaded last; none where they are missing or damaged."""
    try:
        return {view: pq.read_table(folder / view_file(view)) for view in names.VIEWS}
    except (OSError, ValueError):
        return {}


def _write_loaded(folder: Path, differences: Mapping[str, Difference]) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for view, d in differences.items():
            pq.write_table(d.rows, temporary / view_file(view), compression="zstd")
        shutil.rmtree(folder, ignore_errors=True)  # without it everything is written again
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _hashes(folder: Path) -> dict[str, str]:
    """Gives a hash of the file of each view's loaded rows; none where they are missing."""
    files = {view: folder / view_file(view) for view in names.VIEWS}
    return {
        view: hashlib.sha256(file.read_bytes()).hexdigest() for view, file in files.items() if file.is_file()
    }
