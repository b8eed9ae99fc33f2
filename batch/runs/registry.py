"""The batch runs of a data set in Redis: their records, and the pointer to the one that is read.

Keys: `batch_run:{run}` a record, `batch_runs:{dataset}` the runs by the time they began,
`batch_stored:{dataset}` the runs that may have slates, and the contract's pointer `batch:{dataset}`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from batch.errors import BatchError
from batch.runs.lock import RunLock
from batch.runs.records import RunRecord, RunState
from contract.keys import (
    SLATES,
    batch_key,
    batch_run_key,
    batch_runs_key,
    batch_stored_key,
    run_of_slate,
    slate_prefix,
)
from contract.slates import Published

KEPT_RECORDS = 50
MOST_PARTIAL = 8
"""Partial runs in one lineage; beyond them a full run is asked for, as every reading asks each of them."""
CHUNK = 1000
SWITCH = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
if KEYS[3] then
  redis.call('SET', KEYS[3], ARGV[3])
  redis.call('ZADD', KEYS[4], ARGV[4], ARGV[5])
  redis.call('SADD', KEYS[5], ARGV[5])
end
return 1
"""
"""Switches the pointer, and writes the run's record, only while the lock is held: all of it or nothing."""


class RunRegistry:
    """The runs of one data set."""

    def __init__(self, redis: Redis, dataset: str) -> None:
        self.dataset = dataset
        self._redis: Any = redis
        self._runs, self._stored = batch_runs_key(dataset), batch_stored_key(dataset)

    def now_s(self) -> float:
        """The Unix time of Redis, seconds: one clock for the machines that share it."""
        seconds, microseconds = self._redis.time()
        return float(seconds + microseconds / 1e6)

    def published(self) -> Published:
        """Reads which run is read, and which was before it; empty where nothing was published.

        Raises:
            BatchError: the pointer is something else.
        """
        key = batch_key(self.dataset)
        try:
            return Published.decode(self._redis.get(key))
        except ValueError as error:
            raise BatchError(f"{key}: {error}; delete this key of Redis, then run `make batch`") from None

    def save(self, record: RunRecord) -> None:
        """Writes a run's record; the oldest records go."""
        pipe = self._redis.pipeline()
        pipe.set(batch_run_key(record.run), record.encode())
        pipe.zadd(self._runs, {record.run: record.started_at_s})
        if record.is_unfinished:
            pipe.sadd(self._stored, record.run)
        pipe.execute()

    def get(self, run: str) -> RunRecord | None:
        """Reads a run's record; None where there is none that this version reads."""
        return next(iter(self._read([run])), None)

    def last(self, count: int = KEPT_RECORDS) -> list[RunRecord]:
        """Reads the last runs, newest first."""
        return self._read([run.decode() for run in self._redis.zrevrange(self._runs, 0, count - 1)])

    def publish(self, record: RunRecord, lock: RunLock) -> Published:
        """Lets the run be read from now on, in one switch; what was read before it is kept for a rollback,
        and the slates of older runs go.

        Raises:
            BatchError: the lock was lost, so that another run may be at work, or the run renews one that is
                read no more. What was published still is.
        """
        before = self.published()
        if record.run in before.lineage[:1]:  # its process died after the switch
            self._tidy(before, lock)
            return before
        if record.parent is not None and record.parent not in before.lineage[:1]:
            raise BatchError(
                f"run {record.run} renews {record.parent}, which is no longer what is read; run it again"
            )
        lineage = (record.run, *(before.lineage if record.parent else ()))
        after = Published(lineage, before.lineage)
        ended = record.ended_at_s if record.ended_at_s is not None else time.time()
        record = replace(record, state=RunState.PUBLISHED, ended_at_s=ended, error="")
        self._switch(after, lock, record)
        self._tidy(after, lock)
        return after

    def rollback(self, lock: RunLock) -> Published:
        """Lets be read what was before the last switch; the same again undoes it.

        Raises:
            BatchError: there is nothing before it, its slates are gone, or the lock was lost.
        """
        before = self.published()
        if not before.former:
            raise BatchError(f"nothing to roll back to: {self.dataset} has no batch run before the last one")
        whole = before.former[-1]  # the others renew a part of it, and may have found nobody
        if next(self._redis.scan_iter(f"{slate_prefix(whole)}*", count=CHUNK), None) is None:
            raise BatchError(
                f"nothing to roll back to: the slates of run {whole} have expired; promote the bundle that "
                f"is wanted, then run `make batch`"
            )
        after = Published(before.former, before.lineage)
        self._switch(after, lock)
        return after

    def forget(self, run: str) -> int:
        """Deletes the slates of a run, gives their number.

        Raises:
            BatchError: it is read, or may be rolled back to.
        """
        if run in self.published().readable:
            raise BatchError(f"run {run} is read, or may be rolled back to; its slates stay")
        return self._unlink([run])

    def _tidy(self, published: Published, lock: RunLock) -> None:
        """Ends what a publication makes pointless: slates of older runs, and runs that were not finished.

        Those would publish what they computed before this one.

        Whatever fails here, the next publication does; this one stands.
        """
        with contextlib.suppress(RedisError):
            if lock.is_lost:
                return  # another run may be at work by now, and what it stores stays
            readable = published.readable
            doomed = {run.decode() for run in self._redis.smembers(self._stored)} - readable
            for other in self._read(sorted(doomed)):
                if other.is_unfinished:
                    self.save(replace(other, state=RunState.ABANDONED))
            self._unlink(doomed)
            self._trim(readable)

    def _switch(self, after: Published, lock: RunLock, record: RunRecord | None = None) -> None:
        keys: list[Any] = [lock.key, batch_key(self.dataset)]
        values: list[Any] = [lock.token, after.encode()]
        if record is not None:
            keys += [batch_run_key(record.run), self._runs, self._stored]
            values += [record.encode(), record.started_at_s, record.run]
        if not self._redis.eval(SWITCH, len(keys), *keys, *values):
            lock.note_lost()
            raise BatchError(
                f"the lock of {self.dataset} was lost: Redis was away, or this process stood still, beyond "
                f"SHORTLIST_BATCH_LOCK_S. Nothing was published; run it again: it goes on where it stopped"
            )

    def _read(self, runs: list[str]) -> list[RunRecord]:
        values = self._redis.mget([batch_run_key(run) for run in runs]) if runs else []
        records = []
        for value in values:
            with contextlib.suppress(ValueError):  # another version wrote it
                records += [RunRecord.decode(value)] if value else []
        return records

    def _unlink(self, runs: Iterable[str]) -> int:
        runs = set(runs)
        if not runs:
            return 0
        pattern = f"{slate_prefix(next(iter(runs)))}*" if len(runs) == 1 else SLATES
        chunk: list[bytes] = []
        count = 0
        for key in self._redis.scan_iter(pattern, count=CHUNK):
            if run_of_slate(key) in runs:
                chunk.append(key)
                count += 1
            if len(chunk) == CHUNK:
                self._redis.unlink(*chunk)
                chunk = []
        if chunk:
            self._redis.unlink(*chunk)
        self._redis.srem(self._stored, *runs)
        return count

    def _trim(self, readable: set[str]) -> None:
        old = [run.decode() for run in self._redis.zrange(self._runs, 0, -KEPT_RECORDS - 1)]
        if gone := [run for run in old if run not in readable]:
            self._redis.zrem(self._runs, *gone)
            self._redis.delete(*map(batch_run_key, gone))
