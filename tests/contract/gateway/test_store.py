"""`StoreSuite`: what any store must do. The memory twin and a real Redis run the same tests."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from ensemble import contract
from service.bundle import Card
from service.errors import DependencyUnavailable
from service.redis_store import RedisStore
from service.store import MemoryStore, Store

pytestmark = pytest.mark.anyio

BUNDLE, DATASET = "b1", "tiny"
COLUMNS = {"item_genre": "string", "item_year": "int64", "item_price": "float32"}
WORLD: dict[str, Any] = {"dataset": DATASET, "columns": COLUMNS}
SEEN = {7: [30, 20, 2**62]}
CARDS: dict[int, Card] = {1: {"item_title": "Ünder “quotes”"}, 2: {"item_title": None}}


class StoreSuite:
    """Needs a fixture `store` that holds SEEN and CARDS."""

    async def test_keeps_the_protocol(self, store: Store) -> None:
        assert isinstance(store, Store)

    async def test_seen_items_keep_their_order(self, store: Store) -> None:
        assert await store.seen(7, 5) == [30, 20, 2**62]

    async def test_a_user_without_seen_items_has_none(self, store: Store) -> None:
        assert await store.seen(8, 5) == []

    async def test_cards_come_back_by_item_and_missing_ones_are_left_out(self, store: Store) -> None:
        assert await store.cards([2, 99, 1], 5) == {2: CARDS[2], 1: CARDS[1]}

    async def test_no_items_need_no_cards(self, store: Store) -> None:
        assert await store.cards([], 5) == {}

    async def test_the_check_says_something(self, store: Store) -> None:
        assert await store.check(5)


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore(SEEN, CARDS)


class TestRedisStore(StoreSuite):
    @pytest.fixture
    async def store(self, redis_process: Any) -> AsyncIterator[RedisStore]:
        fill(redis_process.port)
        store = RedisStore(redis_process.address, BUNDLE, timeout_s=5, kept_cards=3, **WORLD)
        await store.open()
        yield store
        await store.close()

    async def test_cards_of_another_bundle_are_not_mixed_in(
        self, store: RedisStore, redis_process: Any
    ) -> None:
        with redis.Redis(port=redis_process.port) as client:
            client.set(contract.item_card_key("b2", 3), contract.encode_card({"item_title": "other"}))
        assert await store.cards([3], 5) == {}

    async def test_many_cards_take_one_command(self, store: RedisStore, redis_process: Any) -> None:
        with redis.Redis(port=redis_process.port) as client:
            await store.cards(list(range(500)), 5)
            stats: Any = client.info("commandstats")
        assert stats["cmdstat_mget"]["calls"] == 1
        assert "cmdstat_get" not in stats

    async def test_a_damaged_value_is_told_and_not_served(
        self, store: RedisStore, redis_process: Any
    ) -> None:
        with redis.Redis(port=redis_process.port) as client:
            client.set(contract.seen_key(5), b"12345")
            client.set(contract.item_card_key(BUNDLE, 5), b"{")
        with pytest.raises(DependencyUnavailable, match="seen:5"):
            await store.seen(5, 5)
        with pytest.raises(DependencyUnavailable, match="item_card:b1:5"):
            await store.cards([5], 5)

    async def test_readers_of_one_turn_share_a_command(self, store: RedisStore, redis_process: Any) -> None:
        found = await asyncio.gather(store.seen(7, 5), store.cards([2, 1], 5), store.seen(8, 5))
        assert list(found) == [SEEN[7], {2: CARDS[2], 1: CARDS[1]}, []]
        with redis.Redis(port=redis_process.port) as client:
            stats: Any = client.info("commandstats")
        assert stats["cmdstat_mget"]["calls"] == 1

    async def test_cards_are_read_once_and_the_oldest_make_room(
        self, store: RedisStore, redis_process: Any
    ) -> None:
        with redis.Redis(port=redis_process.port) as client:
            for item_id in range(10, 15):
                client.set(contract.item_card_key(BUNDLE, item_id), contract.encode_card({"item_title": "x"}))

            def reads() -> int:
                stats: Any = client.info("commandstats")
                return int(stats["cmdstat_mget"]["calls"])

            await store.cards([10, 11, 12], 5)
            assert len(await store.cards([12, 10], 5)) == 2
            assert reads() == 1
            assert len(await store.cards([13, 14, 12], 5)) == 3  # 10 and 11 make room
            assert len(await store.cards([12, 13, 14], 5)) == 3
            assert reads() == 2
            assert len(await store.cards([10], 5)) == 1
            assert reads() == 3

    async def test_a_redis_that_goes_and_comes_back_is_found_again(
        self, store: RedisStore, redis_process: Any
    ) -> None:
        assert await store.seen(7, 5)
        redis_process.stop()
        with pytest.raises(DependencyUnavailable):
            await store.seen(7, 5)
        redis_process.start()
        fill(redis_process.port)
        assert await store.seen(7, 5) == SEEN[7]


async def test_a_redis_that_is_down_fails_at_once(unused_port: int) -> None:
    store = RedisStore(f"127.0.0.1:{unused_port}", BUNDLE, timeout_s=5, kept_cards=3, **WORLD)
    await store.open()
    started = time.monotonic()
    with pytest.raises(DependencyUnavailable) as error:
        await store.check(10)
    assert time.monotonic() - started < 5
    assert not error.value.is_late
    await store.close()


async def test_a_redis_that_hangs_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = RedisStore(
            f"127.0.0.1:{silent.getsockname()[1]}", BUNDLE, timeout_s=0.1, kept_cards=3, **WORLD
        )
        await store.open()
        started = time.monotonic()
        with pytest.raises(DependencyUnavailable) as error:
            await store.seen(7, 0.1)
        assert time.monotonic() - started < 5
        assert error.value.is_late
        await store.close()


async def test_a_redis_that_keeps_hanging_is_soon_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = RedisStore(
            f"127.0.0.1:{silent.getsockname()[1]}", BUNDLE, timeout_s=0.02, kept_cards=3, **WORLD
        )
        await store.open()
        deadline = time.monotonic() + 20
        while store.circuit.state == "closed" and time.monotonic() < deadline:
            with pytest.raises(DependencyUnavailable):
                await store.seen(7, 0.02)
        assert store.circuit.state == "open"
        with pytest.raises(DependencyUnavailable, match="circuit open"):
            await store.seen(7, 0.02)
        await store.close()


def fill(port: int) -> None:
    """Writes as the materialisation and the bundle's publication do."""
    with redis.Redis(port=port) as client:
        for user_id, item_ids in SEEN.items():
            client.set(contract.seen_key(user_id), contract.encode_seen(item_ids))
        for item_id, card in CARDS.items():
            client.set(contract.item_card_key(BUNDLE, item_id), contract.encode_card(card))
