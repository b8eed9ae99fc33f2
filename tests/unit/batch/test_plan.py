"""A run's plan: what another process may go on with, and what is done already."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.runs.plan import PLAN_FILE, RunPlan, write
from contract.keys import new_run_id


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    return RunPlan(
        run="r-1",
        dataset="tiny",
        bundle="tiny-1",
        selection="everyone",
        fingerprint="17-4",
        parent=None,
        n=50,
        k=100,
        max_overfetch=400,
        max_seen=1024,
        retrieval="exact",
        shard_users=2,
        folder=tmp_path / "r-1",
        users=3,
        skipped={"malformed": 1},
    )


def write_ids(path: Path, ids: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"user_id": np.array(ids, dtype=np.int64)}), path)


def test_a_saved_plan_is_loaded(plan: RunPlan) -> None:
    plan.save()
    loaded = RunPlan.load(plan.folder)
    assert loaded == plan
    assert loaded is not None
    assert (loaded.folder, loaded.users, loaded.skipped) == (plan.folder, 3, {"malformed": 1})
    assert sorted(path.name for path in plan.folder.iterdir()) == [PLAN_FILE]


@pytest.mark.parametrize(
    "content",
    [None, "", "no json", "[]", "{}", '"text"', "null", "17", '{"run": "r-1"}', b"\xff\xfe"],
    ids=str,
)
def test_what_is_no_plan_is_not_gone_on_with(tmp_path: Path, content: str | bytes | None) -> None:
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / PLAN_FILE).write_bytes(data)
    assert RunPlan.load(tmp_path) is None


def test_a_plan_of_another_version_is_not_gone_on_with(plan: RunPlan) -> None:
    plan.save()
    file = plan.folder / PLAN_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"later": 1}))
    assert RunPlan.load(plan.folder) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"dataset": "other"},
        {"bundle": "tiny-2"},
        {"selection": "changed"},
        {"fingerprint": "18-5"},
        {"parent": "r-0"},
        {"n": 20},
        {"max_overfetch": 0},
        {"max_seen": 512},
        {"k": 50},
        {"retrieval": "redis"},
        {"shard_users": 3},
    ],
    ids=str,
)
def test_a_run_goes_on_only_with_the_same(plan: RunPlan, changed: dict[str, Any]) -> None:
    assert not plan.continues(replace(plan, **changed))


def test_run_folder_and_counts_do_not_matter(plan: RunPlan, tmp_path: Path) -> None:
    other = replace(plan, run="r-2", folder=tmp_path / "r-2", users=0, skipped={})
    assert plan.continues(other)
    assert other.continues(plan)


def test_what_is_done_is_counted_from_the_files(plan: RunPlan) -> None:
    shards = {"part-00000.parquet": [1, 2], "part-00001.parquet": [3, 4], "part-00002.parquet": [5]}
    for name, ids in shards.items():
        write_ids(plan.users_folder / name, ids)
    assert [shard.name for shard in plan.shards()] == list(shards)
    assert plan.stored() == (0, 0)
    write_ids(plan.slates_folder / "part-00001.parquet", [3])
    assert plan.stored() == (1, 1)
    write_ids(plan.slates_folder / "part-00000.17.tmp", [1])  # what a killed worker left
    write_ids(plan.slates_folder / "part-00002.parquet", [])
    assert plan.stored() == (1, 2)
    assert plan.some_user(plan.slates_folder / "part-00001.parquet") == 3
    assert plan.some_user(plan.slates_folder / "part-00002.parquet") is None


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / PLAN_FILE
    write(path, b"old")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        write(path, b"new")
    assert path.read_bytes() == b"old"


def test_runs_are_named_by_when_they_began() -> None:
    runs = {new_run_id(datetime.now(UTC)) for _ in range(20)}
    assert len(runs) > 1, "two in the same second have different names"
    assert all(len(run) == len("20261121-104500-1a2b") for run in runs)
