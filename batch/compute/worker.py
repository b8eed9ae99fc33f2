"""Computes and stores one shard of users after the other. Ray makes as many of these as there are workers."""

from __future__ import annotations

import json
import os
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from redis.exceptions import RedisError

from batch.compute.chain import BatchChain, UserSlates
from batch.errors import explain
from batch.settings import BatchSettings
from contract.arrays import Ids
from contract.batch_files import MADE_AT
from contract.bundle import BundleError, Manifest
from contract.errors import StageError
from contract.keys import slate_key
from contract.names import USER_ID
from contract.slates import StoredSlate
from contract.tensors import PAD_ID
from contract.texts import ITEMS, USERS, Texts
from contract.whole_file import whole_file
from ensemble.settings import EnsembleSettings
from ensemble.stores.client import connect

PATH = "path"  # as Ray Data names the column of paths
STORE = "store"
"""The stage after those of the chain: writing the slates into Redis."""


@dataclass(frozen=True)
class SlateFiles:
    """How the rows of slates are written: ids as callers have them.

    `user_of` and `item_of` give the text of a number, None where nobody's is known; without, an id is a
    number."""

    user_of: Callable[[int], str | None] | None = None
    item_of: Callable[[int], str | None] | None = None

    @classmethod
    def of(cls, manifest: Manifest, bundle: Path, data: Path) -> SlateFiles:
        """Those of a bundle, whose data set was prepared in the folder `data`.

        Raises:
            OSError: the texts of users or items are not there.
        """
        return cls(
            Texts.open(data, USERS).of if manifest.user_id_dtype == "string" else None,
            Texts.open(bundle, ITEMS).of if manifest.item_id_dtype == "string" else None,
        )

    def table(self, slates: UserSlates, made_at_ms: int) -> pa.Table:
        """Takes slates, gives a row for each: `user_id`, `item_ids` and `item_scores`, best first, `degraded`
        and `made_at_ms`."""
        is_item = slates.item_ids != PAD_ID
        ends = pa.array([0, *slates.lengths.cumsum().tolist()], pa.int32())
        return pa.table(
            {
                USER_ID: _owned(slates.user_ids, self.user_of),
                "item_ids": pa.ListArray.from_arrays(ends, _owned(slates.item_ids[is_item], self.item_of)),
                "item_scores": pa.ListArray.from_arrays(ends, pa.array(slates.item_scores[is_item])),
                "degraded": pa.array(slates.degraded, pa.int64()),
                MADE_AT: pa.array([made_at_ms] * len(slates.user_ids), pa.int64()),
            }
        )


def _owned(numbers: Ids, text_of: Callable[[int], str | None] | None) -> pa.Array:
    return pa.array(numbers) if text_of is None else pa.array(map(text_of, numbers.tolist()), pa.string())


@dataclass(frozen=True)
class ShardTask:
    """What a worker needs once: the run, where its slates go, and the settings."""

    run: str
    slates_folder: Path
    chain: EnsembleSettings
    batch: BatchSettings


class ShardWorker:
    """Takes a shard, gives one row that says what became of it; `error` is empty where all is stored.

    The chain is opened at the first shard, so that what keeps it from opening is an `error` like every other
    failure. The file of a shard's slates is written last: where it is, Redis has them.
    """

    def __init__(self, task: ShardTask) -> None:
        self.task = task
        self.opened_at_s = 0.0

    @cached_property
    def chain(self) -> BatchChain:
        """The chain, opened once per process."""
        chain = BatchChain.open(self.task.chain, self.task.batch)
        self.opened_at_s = time.time()
        return chain

    @cached_property
    def files(self) -> SlateFiles:
        """How slates are written into files."""
        manifest, chain = self.chain.bundle.manifest, self.task.chain
        return SlateFiles.of(manifest, chain.bundle, chain.var_dir / "data" / manifest.dataset)

    @cached_property
    def redis(self) -> Any:
        """Where the slates go."""
        return connect(self.task.chain.redis_url, self.task.batch.redis_timeout_ms)

    def __call__(self, shard: pa.Table) -> pa.Table:
        """Computes one whole shard."""
        result: dict[str, Any] = {"error": "", "users": 0, "unknown": 0, "bytes": 0, "stage_s": "{}"}
        try:
            result |= self._compute(shard)
        except RedisError as error:
            result["error"] = explain(error, self.task.chain.redis_url)
        except (StageError, BundleError, OSError) as error:
            result["error"] = f"{error}; the log of Redis, or `make status`, may say more"
        memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        result |= {"pid": os.getpid(), "opened_at_s": self.opened_at_s, "memory_mib": memory_mib}
        return pa.Table.from_pylist([result])

    def _compute(self, shard: pa.Table) -> dict[str, Any]:
        path = _path_of(shard)
        before_us: Counter[str] = Counter(self.chain.stage_us)
        stage_s: dict[str, float] = {STORE: 0.0}
        ids = shard[USER_ID].to_numpy()
        parts, stored = [], 0
        for slates in self.chain.slates(ids, self.task.batch.step_users):
            known, made_at_ms = slates.known(), int(time.time() * 1000)
            started = time.perf_counter()
            stored += self._store(known, made_at_ms)
            stage_s[STORE] += time.perf_counter() - started
            parts.append(self.files.table(known, made_at_ms))
        table = pa.concat_tables(parts)
        with whole_file(self.task.slates_folder / path.name) as file:
            pq.write_table(table, file, compression="zstd")
        for name, microseconds in (self.chain.stage_us - before_us).items():
            stage_s[name] = microseconds / 1e6
        unknown = len(ids) - len(table)
        return {"users": len(table), "unknown": unknown, "bytes": stored, "stage_s": json.dumps(stage_s)}

    def _store(self, slates: UserSlates, made_at_ms: int) -> int:
        """Writes slates into Redis, gives their bytes."""
        pipe = self.redis.pipeline(transaction=False)
        bundle, run, stored = self.chain.bundle.manifest.bundle, self.task.run, 0
        rows = zip(slates.user_ids.tolist(), slates.lengths, slates.degraded.tolist(), strict=True)
        for at, (user_id, n, degraded) in enumerate(rows):
            slate = StoredSlate(
                slates.item_ids[at, :n], slates.item_scores[at, :n], degraded, bundle, run, made_at_ms
            )
            value = slate.encode()
            stored += len(value)
            pipe.set(slate_key(run, user_id), value, ex=self.task.batch.ttl_s)
        pipe.execute()
        return stored


def _path_of(shard: pa.Table) -> Path:
    """Names the file that a block of users is; a block must be one file, or its slates would be a part of
    what their file's name says."""
    paths = shard[PATH].unique().to_pylist()
    if len(paths) != 1 or pq.read_metadata(paths[0]).num_rows != len(shard):
        raise ValueError(f"a block of {len(shard)} users is not one whole shard but of {paths}")
    return Path(paths[0])
