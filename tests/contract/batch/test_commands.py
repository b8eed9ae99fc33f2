"""`python -m batch`: what its commands print, and one line with a status where they cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from redis import Redis

from batch.runs.changes import ChangedUsers
from batch.runs.lock import RunLock
from batch.runs.records import RunState, Trigger
from batch.runs.registry import RunRegistry
from contract.environment import RedisUrl
from contract.slates import Published
from tests.builders.runs import DATASET, make_record, store_slates

Command = Callable[..., "subprocess.CompletedProcess[str]"]
DONE = {"users": 1000, "done": 990, "skipped": {"unknown": 10}, "compute_s": 2.0}


@pytest.fixture
def command(redis_url: RedisUrl, tmp_path: Path) -> Command:
    def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        variables = {"SHORTLIST_REDIS_URL": redis_url.get_secret_value(), "SHORTLIST_VAR_DIR": str(tmp_path)}
        return subprocess.run(
            [sys.executable, "-m", "batch", *arguments],
            env=os.environ | variables | settings,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def publish(redis: Redis, run: str, **changes: object) -> None:
    record = make_record(run, ended_at_s=float(run.rpartition("-")[2]) + 7.5, **(DONE | changes))
    with RunLock(redis, DATASET) as lock:
        store_slates(redis, run)
        RunRegistry(redis, DATASET).publish(record, lock)


def test_status_shows_the_last_runs_and_what_they_are_to_readers(redis: Redis, command: Command) -> None:
    publish(redis, "r-1", bundle="small-0")
    publish(redis, "r-100", trigger=Trigger.SCHEDULE)
    publish(redis, "r-200", parent="r-100", selection="changed", trigger=Trigger.CHANGES)
    RunRegistry(redis, DATASET).save(
        make_record("r-300", state=RunState.FAILED, error="Redis at x is full", ended_at_s=303.0)
    )
    ChangedUsers(redis, DATASET).note(np.arange(1234), 500.0)
    shown = command("status", "--dataset", DATASET)
    assert shown.returncode == 0, shown.stderr
    lines = {line.split("│")[1].strip(): line for line in shown.stdout.splitlines() if "│ r-" in line}
    assert list(lines) == ["r-300", "r-200", "r-100", "r-1"]
    assert "failed: Redis at x is full" in lines["r-300"]
    for word in ("published", "is read ", "changes: changed", "990", "10 unknown", "7.5 s", "495", "small-1"):
        assert word in lines["r-200"]
    assert "is read where not renewed" in lines["r-100"]
    assert "schedule: everyone" in lines["r-100"]
    assert "small-0" in lines["r-1"]
    assert "1,234 users changed" in shown.stdout


def test_a_run_that_nobody_works_at_is_interrupted(redis: Redis, command: Command) -> None:
    registry = RunRegistry(redis, DATASET)
    registry.save(make_record("r-1"))
    registry.save(make_record("r-2"))
    states = {}
    for name in ("without", "with"):
        if name == "with":
            redis.set("batch_lock:small", "machine, process 7, abc")
        shown = json.loads(command("status", "--dataset", DATASET, "--json").stdout)
        states[name] = [line["state"] for line in shown["lines"]]
    assert states == {"without": ["interrupted", "interrupted"], "with": ["running", "interrupted"]}
    assert shown["at_work"] == "machine, process 7"


def test_json_holds_the_whole_record(redis: Redis, command: Command) -> None:
    publish(redis, "r-1")
    publish(redis, "r-2")
    shown = json.loads(command("status", "--dataset", DATASET, "--json", "--count", "1").stdout)
    assert shown["published"] == {"lineage": ["r-2"], "former": ["r-1"]}
    (line,) = shown["lines"]
    assert line["run"] == "r-2"
    assert line["users_per_s"] == 495.0
    assert line["took_s"] == 7.5
    assert line["skipped"] == {"unknown": 10}
    assert line["standing"] == "is read"


def test_status_without_a_run_says_how_to_begin_one(redis: Redis, command: Command) -> None:
    assert redis.dbsize() == 0
    shown = command("status", "--dataset", DATASET)
    assert shown.stdout == "small: no batch run yet; `make batch` begins one\n"


def test_rollback_switches_back_and_forth(redis: Redis, command: Command) -> None:
    publish(redis, "r-1", bundle="small-0")
    publish(redis, "r-2")
    done = command("rollback", "--dataset", DATASET)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "small: run r-1 of bundle small-0 is read now, no longer r-2; the same command again undoes it\n"
    )
    assert RunRegistry(redis, DATASET).published() == Published(("r-1",), ("r-2",))
    command("rollback", "--dataset", DATASET)
    assert RunRegistry(redis, DATASET).published() == Published(("r-2",), ("r-1",))


@pytest.mark.parametrize(
    ("arguments", "settings", "status", "said"),
    [
        (["rollback", "--dataset", DATASET], {}, 1, "nothing to roll back to: small has no batch run"),
        (["status"], {}, 1, "manifest.json: not found; run `make train promote`"),
        (["rollback"], {}, 1, "or name the data set by --dataset"),
        ([], {}, 1, "manifest.json: not found; run `make train promote`"),
        (
            ["status", "--dataset", DATASET],
            {"SHORTLIST_REDIS_URL": "redis://127.0.0.1:1"},
            1,
            "Redis at 127.0.0.1:1: ",
        ),
        (["status"], {"SHORTLIST_BATCH_N": "1000"}, 2, "SHORTLIST_BATCH_N=1000: "),
        (["--n", "1000"], {}, 2, "--n 1000: Input should be less than or equal to 100"),
        (["--workers", "-1"], {}, 2, "--workers -1: Input should be greater"),
        (["schedule"], {"SHORTLIST_BATCH_CRON": "0 3 * *"}, 2, "SHORTLIST_BATCH_CRON=0 3 * *: "),
        (["schedule"], {"SHORTLIST_BATCH_CRON": "0 3 * * 8"}, 2, "Bad day-of-week; write minute"),
        (
            ["schedule"],
            {"SHORTLIST_BATCH_CRON": "0 3 * * *", "SHORTLIST_BATCH_TIMEZONE": "Mars"},
            2,
            "SHORTLIST_BATCH_TIMEZONE=Mars: ",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    redis: Redis, command: Command, arguments: list[str], settings: dict[str, str], status: int, said: str
) -> None:
    assert redis.dbsize() == 0
    ended = command(*arguments, **settings)
    assert ended.returncode == status
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--active-since", "yesterday"], "yesterday: write it as 2026-11-21 or 2026-11-21T08:00"),
        (["--changed", "--users", "some.parquet"], "not allowed with"),
        (["--only"], "--only needs --users, --active-since or --changed"),
        (["status", "--count", "0"], "--count must be at least 1"),
        (["nonsense"], "invalid choice"),
    ],
)
def test_a_wrong_option_is_told(command: Command, arguments: list[str], said: str) -> None:
    ended = command(*arguments)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_full_redis_does_not_let_a_rollback_lose_what_is_read(redis: Redis, command: Command) -> None:
    publish(redis, "r-1")
    publish(redis, "r-2")
    redis.config_set("maxmemory", 1)
    ended = command("rollback", "--dataset", DATASET)
    assert ended.returncode == 1
    assert "is full; raise its maxmemory" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert RunRegistry(redis, DATASET).published() == Published(("r-2",), ("r-1",))
