"""What is done to the data on the second day, while callers ask: each test counts what they get."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bench.chaos.stand import Stand
from bench.load.traffic import Exchange, open_loop
from contract import names
from contract.feast import AVAILABILITY_FIELD, UNAVAILABLE, feature_key
from tests.builders.world import World, eventually
from tests.integration.test_secrets import refused

RATE, SECONDS = 100.0, 4.0


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
    told = [line for line in log.splitlines() if "it is null; if the data set changed" in line]
    assert told
    assert len(told) == len(set(told)) <= 2 * len(fields), "each column once"


def test_a_redis_that_was_emptied_is_told_and_one_command_mends_it(world: World, store: Any) -> None:
    user = world.manifest()["sample_user_ids"][0]
    got = counted(world, store.flushall)
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
    for role, *command in (
        ("training", "-m", "feature_repo", "materialize"),
        ("triton", "-m", "ensemble.publish.index"),
    ):
        done = world.run(role, *command)
        assert done.returncode == 0, done.stderr
    Stand(world.settings).wait_until_well()
    assert eventually(lambda: not world.recommend(user)["degraded"])


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
    before = reasons(counted(world, lambda: None))
    store.delete(f"materialized:{dataset}")  # so that every row is written again
    done: list[Any] = []
    got = counted(
        world, lambda: done.append(world.run("training", "-m", "feature_repo", "materialize")), 15.0
    )
    assert done[0].returncode == 0, done[0].stderr
    found = reasons(got)
    assert {one.status for one in got} == {200}
    for lack in ("unknown_user", "features"):
        assert found[lack] == before[lack] == 0
    assert world.recommend(user)["source"] == "ensemble"
