"""What callers get while a server is down, and how the servers come back."""

from __future__ import annotations

import os
import signal

import pytest

from tests.builders.world import World, eventually

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def user(demo: object, own_world: World) -> int:
    assert demo
    return int(own_world.manifest()["sample_user_ids"][0])


def source(world: World, user: int) -> str:
    return str(world.recommend(user)["source"])


def test_without_triton_the_popular_slate_is_answered_without_seen_items(own_stack: World, user: int) -> None:
    own_stack.supervisor.stop("triton")
    answer = own_stack.recommend(user)
    assert answer["source"] == "popular"
    assert "ensemble_unavailable" in answer["degraded"]
    assert len(answer["items"]) == 10
    assert "seen" not in answer["degraded"]
    own_stack.supervisor.start("triton")
    assert eventually(lambda: source(own_stack, user) == "ensemble")


def test_a_killed_redis_and_a_killed_gateway_come_back_with_what_they_had(
    own_stack: World, user: int
) -> None:
    slate = own_stack.recommend(user)["items"]
    before = own_stack.pids()
    os.kill(before["redis"], signal.SIGKILL)
    os.kill(before["gateway"], signal.SIGKILL)

    def is_back() -> bool:
        try:
            return source(own_stack, user) == "ensemble"
        except Exception:
            return False

    assert eventually(is_back)
    assert [item["item_id"] for item in own_stack.recommend(user)["items"]] == [
        item["item_id"] for item in slate
    ]
    assert own_stack.pids()["triton"] == before["triton"]


def test_redis_down_at_start_is_answered_and_recovered_from(own_world: World, user: int) -> None:
    own_world.up("triton", "gateway")
    answer = own_world.recommend(user)
    assert answer["source"] == "popular"
    assert len(answer["items"]) == 10
    own_world.up("redis")
    assert eventually(lambda: source(own_world, user) == "ensemble")


def test_an_item_missing_in_feast_is_no_error(own_stack: World, user: int) -> None:
    top = own_stack.recommend(user)["items"][0]["item_id"]
    with own_stack.redis() as client:
        item_key = b"item_id"
        needle = int(top).to_bytes(8, "little", signed=True)
        keys = [key for key in client.scan_iter(count=1000) if item_key in key and needle in key]
        assert keys, "Feast wrote the item"
        client.delete(*keys)
    # The table of item features is read anew within its bound of staleness.
    assert eventually(lambda: own_stack.recommend(user, explain=True)["source"] == "ensemble", 5.0)
    answer = own_stack.recommend(user, n=100)
    assert answer["source"] == "ensemble"
    assert len(answer["items"]) > 10
