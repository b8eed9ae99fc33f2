"""The batch job with a Redis that asks for user and password, and over TLS."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from batch.compute.users import Selection
from contract.environment import AUTHENTICATION_FAILED, RedisUrl
from tests.builders.batch import BatchWorld
from tests.builders.guarded_redis import as_user, entered


@pytest.mark.parametrize("how", ["user", "tls"])
def test_a_run_is_computed_published_and_told_for_the_documented_user(
    batch_world: BatchWorld, one_ray: int, tmp_path: Path, how: str
) -> None:
    batch_world.forget()
    some = batch_world.world.user_ids[1:40]
    with entered(batch_world.url, tmp_path, how) as url:
        guarded = replace(batch_world, url=url)
        job, _ = guarded.job(workers=one_ray)
        record = job.run(Selection(users=guarded.list_users("some.parquet", some), is_alone=True))
        status = run_batch(guarded, "status")
    assert set(batch_world.slates(record.run)) == set(some)
    assert status.returncode == 0, status.stderr
    assert record.run in status.stdout


def test_a_wrong_password_is_told_as_one_and_without_it(batch_world: BatchWorld) -> None:
    right = as_user(batch_world.url)
    wrong = RedisUrl(f"redis://{right.user}:wr0ng@{right.address}")
    for arguments in (("status",), ("run",)):
        done = run_batch(replace(batch_world, url=wrong), *arguments)
        assert done.returncode == 1
        assert AUTHENTICATION_FAILED in done.stderr
        assert done.stderr.count("\n") == 1
        assert "wr0ng" not in done.stdout + done.stderr


def run_batch(world: BatchWorld, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of the job as its user does."""
    return subprocess.run(
        [sys.executable, "-m", "batch", *arguments],
        env=os.environ | world.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
