"""What is done to the data on the second day, while callers ask: each test counts what they get."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from redis.exceptions import OutOfMemoryError

from bench.chaos.stand import Stand
from bench.load.traffic import Exchange, open_loop
from contract import names
from contract.feast import AVAILABILITY_FIELD, UNAVAILABLE, feature_key
from contract.keys import materialized_key
from tests.builders.world import World, eventually
from tests.integration.test_secrets import refused

RATE, SECONDS = 100.0, 4.0
NEW_ID = 900_001


@pytest.fixture
def world(harmed: World) -> Iterator[World]:
    """Servers that are well before and after."""
    Stand(harmed.settings).wait_until_well()
    yield harmed
    Stand(harmed.settings).wait_until_well()


@pytest.fixture
def store(world: World) -> Iterator[Any]:
    with world.redis() as client:
        yield client


def counted(
    world: World, do: Callable[[], object], seconds: float = SECONDS, **fields: Any
) -> list[Exchange]:
    """What callers get at the rate for some seconds, while something is done a second after their first."""
    users = world.manifest()["sample_user_ids"]
    load = open_loop(world.ports["PORT"], users, rate=RATE, duration_s=seconds, **fields)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(do)
        exchanges = asyncio.run(load).exchanges
        done.result()
    assert len(exchanges) > 0.8 * RATE * seconds
    return list(exchanges)


def reasons(exchanges: list[Exchange]) -> Counter[str]:
    """What answers lack and how often; an answer that is not 200 counts by its status."""
    found: Counter[str] = Counter()
    for one in exchanges:
        found.update(json.loads(one.body)["degraded"] if one.status == 200 else [f"status {one.status}"])
    return found


def materialize(world: World) -> CompletedProcess[str]:
    """Brings to Redis what is computed; in a world of tests nothing is computed again."""
    return world.run("training", "-m", "feature_repo", "materialize")


def mend(world: World) -> None:
    """Does what `make materialize export` does, the one command that mends, and waits until all is well."""
    for done in (materialize(world), world.run("triton", "-m", "ensemble.publish.index")):
        assert done.returncode == 0, done.stderr
    Stand(world.settings).wait_until_well()
    user = world.manifest()["sample_user_ids"][0]
    assert eventually(lambda: not world.recommend(user)["degraded"])


def shown(world: World, **body: Any) -> list[int]:
    """The items that a known user gets."""
    user = world.manifest()["sample_user_ids"][0]
    return [item["item_id"] for item in world.recommend(user, n=20, **body)["items"]]


def test_an_item_that_is_not_available_or_whose_row_is_gone_is_in_no_slate_of_any_source(
    world: World, store: Any
) -> None:
    dataset = world.manifest()["dataset"]
    with refused(world):
        assert eventually(lambda: world.recommend(1, n=20)["source"] == "popular")
        popular = shown(world)
    gone, removed = popular[0], popular[1]
    keys = {item: feature_key(names.ITEM_ID, item, dataset) for item in (gone, removed)}
    before = {item: store.dump(key) for item, key in keys.items()}
    Stand(world.settings).wait_until_well()
    try:
        store.hset(keys[gone], AVAILABILITY_FIELD, UNAVAILABLE)
        store.delete(keys[removed])
        assert eventually(lambda: not {gone, removed} & set(shown(world)))
        got = counted(world, lambda: None)
        items = Counter(item["item_id"] for one in got for item in json.loads(one.body)["items"])
        assert {one.status for one in got} == {200}
        assert items[gone] + items[removed] == 0
        Stand(world.settings).supervisor.stop("triton")
        assert eventually(lambda: world.recommend(1, n=20)["source"] == "popular")
        assert eventually(lambda: not {gone, removed} & set(shown(world)))
        got = counted(world, lambda: None)
        items = Counter(item["item_id"] for one in got for item in json.loads(one.body)["items"])
        assert {one.status for one in got} == {200}
        assert items[gone] + items[removed] == 0
        assert set(popular[2:6]) & set(items), "the others are shown"
    finally:
        for item, value in before.items():
            store.restore(keys[item], 0, value, replace=True)
        Stand(world.settings).supervisor.start("triton")


def test_a_column_of_another_type_or_gone_is_null_and_told_and_never_a_failure(
    world: World, store: Any
) -> None:
    dataset, user = world.manifest()["dataset"], world.manifest()["sample_user_ids"][0]
    key = feature_key(names.USER_ID, user, dataset)
    before = store.dump(key)
    fields = [field for field in store.hkeys(key) if not field.startswith(b"_ts:")]
    text = bytes((2 << 3 | 2, 4)) + b"text"  # Feast's message of a string
    assert "features" not in world.recommend(user)["degraded"]
    try:
        for change in ("retyped", "dropped"):
            store.restore(key, 0, before, replace=True)
            if change == "retyped":
                store.hset(key, mapping=dict.fromkeys(fields, text))
            else:
                store.hdel(key, *fields)
            answer = world.recommend(user)
            assert answer["source"] == "ensemble", answer["degraded"]
            assert "features" in answer["degraded"]
            assert answer["items"]
        got = counted(world, lambda: None)
        assert {one.status for one in got} == {200}
        lacking = sum("features" in json.loads(one.body)["degraded"] for one in got)
        assert lacking == sum(one.user_id == user for one in got), "that user's answers, and no others"
    finally:
        store.restore(key, 0, before, replace=True)
    assert "features" not in world.recommend(user)["degraded"]
    log = (world.var / "log" / "triton.log").read_text()
    warnings = [line for line in log.splitlines() if "it is null; if the data set changed" in line]
    assert warnings
    assert len(warnings) == len(set(warnings)) <= 2 * len(fields), "each column once"


def test_columns_that_change_and_people_who_come_harm_no_answer_of_the_bundle_that_serves(
    world: World, tmp_path: Path
) -> None:
    """A column of users and one of items is retyped, one of each dropped and one added."""
    folder, users = world.var / "data" / world.manifest()["dataset"], world.manifest()["sample_user_ids"]
    before = {user: shown_to(world, user) for user in users}
    assert "unknown_user" in world.recommend(NEW_ID)["degraded"]
    shutil.copytree(folder, saved := tmp_path / "data")
    done: list[CompletedProcess[str]] = []

    def change() -> None:
        done.append(world.run("training", "-m", "tests.builders.changed_columns", str(folder), str(NEW_ID)))
        done.append(materialize(world))

    try:
        got = counted(world, change, 10.0)
        assert [one.returncode for one in done] == [0, 0], done[-1].stderr
        assert_nothing_is_missing(got)
        whole = [one for one in got if not json.loads(one.body)["degraded"]]  # the others: a busy machine
        assert len(whole) > 20
        assert all(items_of(one) == before[int(one.user_id)] for one in whole)
        assert "unknown_user" not in world.recommend(NEW_ID)["degraded"], "who came is known"
    finally:
        shutil.rmtree(folder)
        shutil.copytree(saved, folder)
        assert materialize(world).returncode == 0
    assert {user: shown_to(world, user) for user in users} == before
    assert "unknown_user" in world.recommend(NEW_ID)["degraded"]


def assert_nothing_is_missing(got: list[Exchange]) -> None:
    """Each was answered, of a user whose features are all there; a busy machine may have been late."""
    assert {one.status for one in got} == {200}
    found = reasons(got)
    assert found["unknown_user"] == found["features"] == found["partial_index"] == 0, found


def items_of(exchange: Exchange) -> tuple[int, ...]:
    """The items that an answer holds."""
    return tuple(item["item_id"] for item in json.loads(exchange.body)["items"])


def shown_to(world: World, user: int) -> tuple[int, ...]:
    """The items that a user gets."""
    return tuple(item["item_id"] for item in world.recommend(user)["items"])


@pytest.mark.parametrize("how", ["FLUSHALL", "restarted empty"])
def test_a_redis_that_was_emptied_is_told_and_one_command_mends_it(
    world: World, store: Any, how: str
) -> None:
    user, supervisor = world.manifest()["sample_user_ids"][0], Stand(world.settings).supervisor

    def restart_empty() -> None:
        supervisor.stop("redis")
        for file in ("appendonlydir", "dump.rdb"):
            path = world.var / "redis" / file
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        supervisor.start("redis")

    got = counted(world, store.flushall if how == "FLUSHALL" else restart_empty)
    assert {one.status for one in got} == {200}
    assert eventually(
        lambda: (
            "unknown_user" in world.recommend(user)["degraded"]
            or world.recommend(user)["source"] == "popular"
        )
    )
    assert all(json.loads(one.body)["items"] for one in got)
    status = world.stack("status").stdout
    assert "not ready" in status
    assert "make materialize export" in status
    mend(world)


def test_a_redis_at_its_memory_limit_goes_on_answering_and_says_so(world: World, store: Any) -> None:
    store.delete(materialized_key(world.manifest()["dataset"]))  # so that every row is to be written
    store.config_set("maxmemory", store.info("memory")["used_memory"] // 2)
    done: list[CompletedProcess[str]] = []
    try:
        got = counted(world, lambda: done.append(materialize(world)), 6.0)
        assert done[0].returncode == 1
        assert "it is full: raise its maxmemory" in done[0].stderr.splitlines()[-1]
        assert_nothing_is_missing(got)
        assert "at its memory limit" in world.stack("status").stdout
    finally:
        store.config_set("maxmemory", 0)
    mend(world)


def test_answers_of_a_redis_that_evicts_are_marked_and_one_command_mends_it(world: World, store: Any) -> None:
    limit = store.info("memory")["used_memory"]
    store.config_set("maxmemory-policy", "allkeys-lru")
    try:
        while store.info("stats")["evicted_keys"] < 100:
            limit -= 2**16
            store.config_set("maxmemory", limit)
            with suppress(OutOfMemoryError):
                store.set("filler", b"x")
        assert eventually(lambda: bool(world.recommend(1)["degraded"]), 10.0)
        got = counted(world, lambda: None)
        assert {one.status for one in got} == {200}
        assert all(json.loads(one.body)["degraded"] for one in got), "each is marked"
        status = world.stack("status").stdout
        assert "keys (allkeys-lru): set maxmemory-policy noeviction" in status
        assert "make materialize export" in status
    finally:
        store.config_set("maxmemory", 0)
        store.config_set("maxmemory-policy", "noeviction")
        store.delete("filler")
    mend(world)


def test_a_caller_with_a_tiny_budget_harms_nobody_else(world: World) -> None:
    user, triton = world.manifest()["sample_user_ids"][0], Stand(world.settings).pids()["triton"]

    def others() -> list[Any]:
        return [world.recommend(user) for _ in range(20)]

    meanwhile: list[Any] = []
    got = counted(world, lambda: meanwhile.extend(others()), latency_budget_ms=11)
    assert {one.status for one in got} == {200}
    assert reasons(got)["ensemble_late"] > 0
    assert reasons(got)["ensemble_unavailable"] == 0
    assert not any("ensemble_unavailable" in one["degraded"] for one in meanwhile)
    assert {(one["source"], *one["degraded"]) for one in others()} == {("ensemble",)}
    assert Stand(world.settings).pids()["triton"] == triton, "it crashes where calls are cancelled"


def test_materialising_under_load_makes_nobody_unknown(world: World, store: Any) -> None:
    dataset, user = world.manifest()["dataset"], world.manifest()["sample_user_ids"][0]
    before = counted(world, lambda: None)
    store.delete(materialized_key(dataset))  # so that every row is written again
    done: list[Any] = []
    got = counted(world, lambda: done.append(materialize(world)), 15.0)
    assert done[0].returncode == 0, done[0].stderr
    assert_nothing_is_missing(before)
    assert_nothing_is_missing(got)
    assert world.recommend(user)["source"] == "ensemble"
