"""One batch run, from who is to be computed to what is read: resumed where a former one stopped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from redis.exceptions import RedisError

from batch.compute import users
from batch.compute.progress import RunProgress
from batch.compute.users import Selection
from batch.errors import INTERRUPTED, BatchError, explain, redis_explained
from batch.runs.changes import CHUNK, ChangedUsers
from batch.runs.lock import RunLock
from batch.runs.plan import UNKNOWN, RunPlan
from batch.runs.records import RunRecord, RunState, Trigger
from batch.runs.registry import MOST_PARTIAL, RunRegistry
from batch.settings import BatchSettings
from contract.archive import forget_users
from contract.bundle import BundleError, Manifest, read_dataset, read_manifest
from contract.dataset import DatasetError
from contract.keys import new_run_id, slate_key
from ensemble.settings import EnsembleSettings
from ensemble.stores.client import connect

SAVE_S = 1.0
"""Seconds between two writings of how far a run is."""
KEPT_FOLDERS = 3
PART = "run `make batch` for everyone first, or add --only to publish these users alone"
Progress = Callable[[int, int], None]
"""Takes the users done and the users in all."""


class BatchJob:
    """Runs the batch of one bundle on one Redis."""

    def __init__(
        self,
        chain: EnsembleSettings,
        batch: BatchSettings,
        say: Callable[[str], None],
        progress: Progress = lambda done, of: None,  # noqa: ARG005
    ) -> None:
        """Opens the bundle's manifest; nothing is computed yet.

        Raises:
            BatchError: there is no bundle that can be read.
        """
        try:
            folder = chain.bundle.resolve()
            self.manifest: Manifest = read_manifest(folder)
            self.dataset = read_dataset(folder)
        except BundleError as error:
            raise BatchError(str(error)) from None
        # From here on it is this bundle, whichever is promoted meanwhile.
        self.chain, self.batch = chain.model_copy(update={"bundle_dir": folder}), batch
        self.say, self.progress = say, progress
        self.redis: Any = connect(chain.redis_url, batch.redis_timeout_ms)
        self.registry = RunRegistry(self.redis, self.manifest.dataset)
        self.changes = ChangedUsers(self.redis, self.manifest.dataset)

    @property
    def folder(self) -> Path:
        """Where the runs of this data set are kept."""
        return self.batch.runs(self.chain.var_dir, self.manifest.dataset)

    def run(self, selection: Selection, trigger: Trigger = Trigger.HAND, again: bool = False) -> RunRecord:
        """Computes and publishes; a run that was begun for the same goes on, but not with `again`.

        Raises:
            BatchError: it cannot, says why; what was published stays, and so does what is computed already.
        """
        with (
            redis_explained(self.chain.redis_url),
            RunLock(self.redis, self.manifest.dataset, self.batch.lock_s, self.say) as lock,
        ):
            record, plan = self._begun(selection, trigger, again)
            try:
                record = self._computed(record, plan, lock)
                record = self._published(record, plan, lock)
            except (BatchError, RedisError, KeyboardInterrupt, SystemExit) as error:
                with suppress(RedisError, BatchError):
                    self._note_failure(error, plan, lock)
                raise
            self.say(
                f"run {record.run} is read now: {record.done:,} slates, {record.users_per_s:,.0f} users/s, "
                f"started in {record.start_up_s:.0f} s"
            )
            if selection.is_everyone or selection.changed:
                self.changes.forget(record.started_at_s)
            self._clean(plan)
            return record

    def _note_failure(self, error: BaseException, plan: RunPlan, lock: RunLock) -> None:
        """Writes into the run's record why it ended; not where it may be another's by now, nor where it is
        published already."""
        said = INTERRUPTED
        if isinstance(error, RedisError):
            said = explain(error, self.chain.redis_url)
        elif isinstance(error, BatchError):
            said = str(error)
        record = self.registry.get(plan.run)
        if record is not None and record.is_unfinished and not lock.is_lost:
            self.registry.save(replace(record, state=RunState.FAILED, error=said, ended_at_s=time.time()))

    def _begun(self, selection: Selection, trigger: Trigger, again: bool) -> tuple[RunRecord, RunPlan]:
        """Finds the run that was begun for the same, or begins one."""
        now_s = self.registry.now_s()
        parent = None if selection.is_everyone or selection.is_alone else self._parent()
        selected = self._selected(selection, now_s)
        run = new_run_id(datetime.now(UTC))
        wanted = RunPlan(
            run=run,
            dataset=self.manifest.dataset,
            bundle=self.manifest.bundle,
            selection=selected.description,
            fingerprint=selected.fingerprint,
            parent=parent,
            n=self.batch.n,
            k=self.chain.k,
            max_overfetch=self.chain.max_overfetch,
            max_seen=self.chain.max_seen,
            retrieval=str(self.batch.retrieval),
            shard_users=self.batch.shard_users,
            folder=(self.folder / run).resolve(),
            rules=self.chain.order.model_dump_json(exclude_defaults=True),
        )
        if not again and (found := self._unfinished(wanted, now_s)):
            record, plan = found
            done, skipped = plan.counted()
            through = done + skipped.get(UNKNOWN, 0)
            self.say(f"run {plan.run} goes on: {through:,} of {plan.users:,} users are done")
            return replace(
                record, state=RunState.RUNNING, error="", ended_at_s=None, done=done, skipped=skipped
            ), plan
        try:
            shards = users.write_shards(selected, wanted.users_folder, self.batch.shard_users)
            plan = replace(wanted, users=shards.users, skipped=shards.skipped)
            plan.slates_folder.mkdir()
            plan.save()
        except (BatchError, OSError) as error:
            shutil.rmtree(wanted.folder, ignore_errors=True)
            raise BatchError(str(error)) from None
        record = RunRecord(
            run=run,
            dataset=plan.dataset,
            bundle=plan.bundle,
            trigger=trigger,
            selection=plan.selection,
            started_at_s=now_s,
            parent=parent,
            users=plan.users,
            skipped=plan.skipped,
            n=plan.n,
            k=plan.k,
        )
        self.registry.save(record)
        skips = "".join(f", {count:,} {reason} skipped" for reason, count in plan.skipped.items())
        self.say(f"run {run}: {plan.users:,} users ({plan.selection}){skips}, bundle {plan.bundle}")
        return record, plan

    def _parent(self) -> str:
        lineage = self.registry.published().lineage
        published = self.registry.get(lineage[0]) if lineage else None
        if published is None:
            raise BatchError(f"nothing is published that some users' slates could renew; {PART}")
        if published.bundle != self.manifest.bundle:
            raise BatchError(
                f"run {published.run} is of bundle {published.bundle}, not of {self.manifest.bundle}; {PART}"
            )
        if len(lineage) > MOST_PARTIAL:
            raise BatchError(f"{MOST_PARTIAL} partial runs follow each other by now; {PART}")
        return published.run

    def _selected(self, selection: Selection, now_s: float) -> users.SelectedUsers:
        data = self.chain.var_dir / "data" / self.manifest.dataset
        if selection.users:
            return users.listed(selection.users, self.manifest.user_id_dtype)
        if selection.active_since is not None:
            return users.active_since(data, self.dataset, selection.active_since)
        if selection.changed:
            return users.changed(self.changes, now_s)
        return users.everyone(data)

    def _unfinished(self, wanted: RunPlan, now_s: float) -> tuple[RunRecord, RunPlan] | None:
        """Finds the last run that was begun for the same and has not outlived half of its slates' time."""
        for record in self.registry.last():
            plan = RunPlan.load(self.folder.resolve() / record.run) if record.is_unfinished else None
            is_fresh = now_s - record.started_at_s < self.batch.ttl_s / 2
            if plan is not None and is_fresh and plan.continues(wanted):
                self._forget_lost(plan)
                return record, plan
        return None

    def _computed(self, record: RunRecord, plan: RunPlan, lock: RunLock) -> RunRecord:
        """Computes what is not stored yet."""
        # Ray takes seconds to import, which no other command should wait for.
        from batch.compute.engine import compute, connected
        from batch.compute.worker import ShardTask

        began_s, before_s = time.time(), record.compute_s
        open_shards = [shard for shard in plan.shards() if not plan.slates_of(shard).is_file()]
        if not open_shards:
            return record
        progress = RunProgress(record)
        saved_s = 0.0
        task = ShardTask(plan.run, plan.slates_folder, self.chain, self.batch)
        with connected(self.batch) as workers, closing(compute(open_shards, task, workers)) as results:
            for result in results:
                if result["error"]:
                    raise BatchError(result["error"])
                if lock.is_lost:
                    raise BatchError("the lock was lost while computing; run it again: it goes on")
                record = progress.add(result, began_s, before_s)
                self.progress(record.done + record.skipped.get(UNKNOWN, 0), record.users)
                if time.monotonic() - saved_s > SAVE_S:
                    self.registry.save(record)
                    saved_s = time.monotonic()
        self.registry.save(record)
        return record

    def _forget_lost(self, plan: RunPlan) -> None:
        """Computes a finished shard again where Redis does not have its slates any more."""
        done = [path for shard in plan.shards() if (path := plan.slates_of(shard)).is_file()]
        for path in done:
            user_id = plan.some_user(path)
            if user_id is not None and not self.redis.exists(slate_key(plan.run, user_id)):
                path.unlink()

    def _published(self, record: RunRecord, plan: RunPlan, lock: RunLock) -> RunRecord:
        missing = [shard.name for shard in plan.shards() if not plan.slates_of(shard).is_file()]
        if missing:
            raise BatchError(f"{len(missing)} shards were not computed, {missing[0]} first; run it again")
        # Counted anew: a worker that outlived a former process may have ended a shard of which no row told.
        done, skipped = plan.counted()
        removed = self.changes.removed()
        record = replace(
            record,
            done=done - self._forget_removed(plan, removed),
            skipped=skipped,
            ended_at_s=time.time(),
            state=RunState.PUBLISHED,
        )
        self.registry.publish(record, lock)
        self.changes.forget_removed(removed)
        return record

    def _forget_removed(self, plan: RunPlan, removed: list[int]) -> int:
        """Takes out of the run whose row was removed while it computed, gives how many slates went: a worker
        that knew them still may have written them after."""
        for start in range(0, len(removed), CHUNK):
            self.redis.unlink(*(slate_key(plan.run, user_id) for user_id in removed[start : start + CHUNK]))
        try:
            return forget_users(sorted(plan.slates_folder.iterdir()), np.array(removed, dtype=np.int64))
        except DatasetError as error:
            raise BatchError(str(error)) from None

    def _clean(self, plan: RunPlan) -> None:
        """Deletes the list of users of this run, and the folders of older runs that are no longer wanted."""
        shutil.rmtree(plan.users_folder, ignore_errors=True)
        wanted = {plan.run, *self.registry.published().readable}
        folders = sorted((path for path in self.folder.iterdir() if path.is_dir()), reverse=True)
        for folder in folders[KEPT_FOLDERS:]:
            if folder.name not in wanted:
                shutil.rmtree(folder, ignore_errors=True)
