"""A batch run from its users to what is read, on real Redis and real Ray."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.compute.job import BatchJob
from batch.compute.users import Selection
from batch.errors import BatchError
from batch.runs.changes import ChangedUsers
from batch.runs.records import RunRecord, RunState
from batch.runs.registry import RunRegistry
from contract.keys import batch_lock_key, removed_users_key, slate_key
from contract.slates import Published, StoredSlate
from tests.builders.batch import UNKNOWN_USERS, BatchWorld
from tests.builders.triton import make_world

LISTED = ["105", "106", "105", "x", None, "107", "7", str(10**15)]
"""Three known users, one of them twice, two malformed entries, two of whom nothing is known."""
RENEWED = {105, 106, 107}


@dataclass
class Life:
    """What was there after each of three runs: for everyone, again, and for some users."""

    world: BatchWorld
    records: list[RunRecord] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    slates: list[list[dict[int, StoredSlate]]] = field(default_factory=list)
    done: list[list[tuple[int, int]]] = field(default_factory=list)
    said: list[list[str]] = field(default_factory=list)

    def run(self, job: BatchJob, selection: Selection) -> None:
        """Runs, and notes what is there then: the slates of this and of all former runs."""
        self.done.append([])
        job.progress = lambda *counts: self.done[-1].append(counts)
        self.records.append(job.run(selection))
        self.published.append(registry(self.world).published())
        self.slates.append([self.world.slates(record.run) for record in self.records])


def registry(world: BatchWorld) -> RunRegistry:
    return RunRegistry(world.redis, world.world.dataset.name)


@pytest.fixture(scope="module")
def other_bundle(batch_world: BatchWorld) -> str:
    """Writes another bundle of the same data set, gives its name."""
    folder = batch_world.var / "bundles" / "tiny-2"
    make_world(folder, users=len(batch_world.world.user_ids), items=200, bundle="tiny-2")
    return folder.name


@pytest.fixture(scope="module")
def life(batch_world: BatchWorld, one_ray: int, other_bundle: str) -> Life:
    """Runs three times."""
    batch_world.forget()
    life = Life(batch_world)
    for selection in (
        Selection(),
        Selection(),
        Selection(users=batch_world.list_users("some.parquet", LISTED)),
    ):
        job, said = batch_world.job(workers=one_ray)
        batch_world.promote(batch_world.var / "bundles" / other_bundle)  # meanwhile
        life.said.append(said)
        life.run(job, selection)
        batch_world.promote(batch_world.world.folder)
    return life


def test_everyone_has_a_slate_of_whom_anything_is_known(life: Life) -> None:
    record, known = life.records[0], life.world.world.user_ids[1:]
    assert set(life.slates[0][0]) == set(known)
    assert record.state is RunState.PUBLISHED
    assert (record.users, record.done) == (len(life.world.user_ids), len(known))
    assert record.skipped == {"unknown": len(UNKNOWN_USERS) + 1}
    assert (record.n, record.k, record.selection, record.parent) == (20, 40, "everyone", None)
    assert life.published[0] == Published((record.run,))


def test_what_is_read_is_what_the_parquet_files_say(life: Life) -> None:
    record, stored = life.records[0], life.slates[0][0]
    folder = life.world.var / "batch" / "tiny" / record.run / "slates"
    table = pq.read_table(folder)
    assert len(list(folder.iterdir())) == -(-record.users // 64)
    assert sorted(table["user_id"].to_pylist()) == sorted(stored)
    for row in table.to_pylist():
        slate = stored[row["user_id"]]
        assert slate.item_ids.tolist() == row["item_ids"]
        assert slate.item_scores.tolist() == row["item_scores"]
        assert (slate.degraded, slate.made_at_ms) == (row["degraded"], row["made_at_ms"])
        assert (slate.bundle, slate.run) == ("tiny-1", record.run)
        assert record.started_at_s - 1 <= slate.made_at_ms / 1000 <= (record.ended_at_s or 0) + 1
        assert 0 < len(slate.item_ids) <= 20 or slate.degraded


def test_each_slate_lives_as_long_as_the_settings_say(life: Life) -> None:
    redis, run = life.world.redis, life.records[1].run
    lives = [redis.ttl(slate_key(run, user_id)) for user_id in life.slates[-1][1]]
    ttl_s = life.world.batch().ttl_s
    assert ttl_s - 600 < min(lives) <= max(lives) <= ttl_s


def test_what_it_cost_is_on_record(life: Life) -> None:
    for record in life.records:
        assert registry(life.world).get(record.run) == record
        assert record.start_up_s > 0
        assert record.compute_s > 0
        assert record.bytes_per_user > 100
        assert record.peak_mib["driver"] > 10
        assert record.peak_mib["workers"] > 10
        assert {"lookup_user_features", "score_candidates", "order_candidates", "store"} <= set(
            record.stage_s
        )
    sizes = [len(slate.encode()) for slate in life.slates[0][0].values()]
    assert life.records[0].bytes_per_user == pytest.approx(np.mean(sizes))


def test_how_far_it_is_is_shown(life: Life) -> None:
    users = len(life.world.user_ids)
    done = life.done[0]
    assert done[-1] == (users, users)
    assert done == sorted(done)
    assert len(done) == -(-users // 64)
    assert life.said[0][0].endswith("1,004 users (everyone), bundle tiny-1")
    assert life.said[0][1].startswith(f"run {life.records[0].run} is read now: 1,000 slates, ")


def test_the_former_run_is_kept_until_the_next_but_one(life: Life) -> None:
    one, two, three = (record.run for record in life.records)
    assert life.published[1] == Published((two,), (one,))
    assert len(life.slates[1][0]) == len(life.slates[1][1]) == 1000
    assert life.published[2] == Published((three, two), (two,))
    assert not life.slates[2][0], "nothing reads the first run any more"
    assert len(life.slates[2][1]) == 1000


def test_a_run_for_some_users_renews_what_is_published(life: Life) -> None:
    record = life.records[2]
    assert record.parent == life.records[1].run
    assert set(life.slates[2][2]) == RENEWED
    assert record.skipped == {"malformed": 2, "duplicate": 1, "unknown": 2}
    assert (record.users, record.done) == (5, 3)
    assert "2 malformed skipped, 1 duplicate skipped" in life.said[2][0]
    for user_id in RENEWED:
        renewed, former = life.slates[2][2][user_id], life.slates[2][1][user_id]
        assert renewed.run == record.run
        assert renewed.made_at_ms > former.made_at_ms
        assert renewed.item_ids.tolist() == former.item_ids.tolist()


def test_a_run_stays_with_the_bundle_that_it_began_with(life: Life) -> None:
    assert {record.bundle for record in life.records} == {"tiny-1"}
    assert {slate.bundle for slate in life.slates[-1][1].values()} == {"tiny-1"}


def test_nothing_is_left_at_work(life: Life) -> None:
    assert life.world.redis.get(batch_lock_key("tiny")) is None
    folders = {path.name for path in (life.world.var / "batch" / "tiny").iterdir()}
    assert folders == {record.run for record in life.records}
    assert not list((life.world.var / "batch").rglob("*.tmp"))


def test_rays_servers_listen_on_loopback_alone(one_ray: int) -> None:
    assert one_ray
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = {
        place.laddr.ip
        for process in family
        for place in process.net_connections("tcp")
        if place.status == psutil.CONN_LISTEN
    }
    assert listening
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_some_users_of_another_bundle_need_a_full_run_first(life: Life, other_bundle: str) -> None:
    world, before = life.world, registry(life.world).published()
    url = world.list_users("some.parquet", LISTED)
    world.promote(world.var / "bundles" / other_bundle)
    job, _ = world.job()
    world.promote(world.world.folder)
    with pytest.raises(BatchError, match="is of bundle tiny-1, not of tiny-2; run `make batch` for everyone"):
        job.run(Selection(users=url))
    assert registry(world).published() == before


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("empty.parquet", pa.array([], pa.int64()), "no users; nothing to compute"),
        ("garbage.parquet", ["x", None], r"no users \(2 malformed\)"),
        ("", None, "not found; name a Parquet file"),
    ],
)
def test_a_wrong_list_leaves_what_is_published(
    life: Life, name: str, values: object, said: str, tmp_path: object
) -> None:
    world = life.world
    before, records = registry(world).published(), registry(world).last()
    folders = sorted((world.var / "batch" / "tiny").iterdir())
    url = world.list_users(name, values) if name else f"{tmp_path}/nothing.parquet"
    job, _ = world.job()
    with pytest.raises(BatchError, match=said):
        job.run(Selection(users=url))
    assert registry(world).published() == before
    assert registry(world).last() == records
    assert sorted((world.var / "batch" / "tiny").iterdir()) == folders
    assert world.redis.get(batch_lock_key("tiny")) is None


def test_some_users_alone_need_something_to_renew(batch_world: BatchWorld) -> None:
    batch_world.forget()
    job, _ = batch_world.job()
    with pytest.raises(BatchError, match="nothing is published that some users' slates could renew; run"):
        job.run(Selection(users=batch_world.list_users("some.parquet", LISTED)))


def test_without_a_bundle_it_says_how_to_make_one(batch_world: BatchWorld) -> None:
    link = batch_world.var / "bundles" / "current"
    link.unlink()
    try:
        with pytest.raises(BatchError, match=r"manifest\.json: not found; run `make train promote`"):
            batch_world.job()
    finally:
        batch_world.promote(batch_world.world.folder)


def test_a_shard_that_fails_publishes_nothing(batch_world: BatchWorld, one_ray: int) -> None:
    batch_world.forget()
    folder = shutil.copytree(batch_world.world.folder, batch_world.var / "bundles" / "broken")
    batch_world.promote(folder)
    job, _ = batch_world.job(workers=one_ray)
    (folder / "ranker.onnx").unlink()
    with pytest.raises(BatchError, match=r"ranker\.onnx"):
        job.run(Selection())
    (record,) = registry(batch_world).last()
    assert record.state is RunState.FAILED
    assert "ranker.onnx" in record.error
    assert registry(batch_world).published() == Published(())
    assert not batch_world.slates(record.run)


def test_a_cluster_by_address_from_the_command_line(batch_world: BatchWorld, one_ray: int) -> None:
    """Only those who changed, and only they are published; then nobody is noted as changed."""
    import ray

    assert one_ray == 2
    batch_world.forget()
    changes = ChangedUsers(batch_world.redis, "tiny")
    changes.note(np.array([110, 111, 9]), 1.0)
    address = ray.get_runtime_context().gcs_address
    report = batch_world.var / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "batch", "--changed", "--only", "--report", str(report)],
        env=os.environ | batch_world.environment(address=address),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    record = RunRecord.decode(report.read_bytes())
    assert registry(batch_world).published() == Published((record.run,))
    assert set(batch_world.slates(record.run)) == {110, 111}
    assert record.skipped == {"unknown": 1}
    assert changes.count() == 0
    assert "3 users (changed), bundle tiny-1" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_user_who_is_removed_while_a_run_computes_is_in_nothing_that_it_publishes(
    batch_world: BatchWorld, one_ray: int
) -> None:
    batch_world.forget()
    redis, (gone, remaining) = batch_world.redis, batch_world.world.user_ids[1:3]

    def remove(*_: int) -> None:
        redis.sadd(removed_users_key("tiny"), gone)  # as a materialisation does, when its slate is written

    users = batch_world.list_users("two.parquet", [gone, remaining])
    job, _ = batch_world.job(remove, workers=one_ray)
    record = job.run(Selection(users=users, is_alone=True))
    assert set(batch_world.slates(record.run)) == {remaining}
    files = batch_world.var / "batch" / "tiny" / record.run / "slates"
    assert pq.read_table(files)["user_id"].to_pylist() == [remaining]
    assert (record.users, record.done, record.state) == (2, 1, RunState.PUBLISHED)
    assert not redis.exists(removed_users_key("tiny"))
