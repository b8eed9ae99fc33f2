"""`StoreSuite`: what any store must do. The memory twin and a real Redis run the same tests."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog

from contract.environment import AUTHENTICATION_FAILED, RedisUrl
from contract.feast import AVAILABILITY_FIELD, feature_key
from contract.feast import UNAVAILABLE as UNAVAILABLE_of_contract
from contract.filters import Condition, Wanted, check_filters, held_values
from contract.keys import (
    batch_key,
    encode_card,
    encode_seen,
    encode_tags,
    item_card_key,
    item_vector_key,
    materialized_at_key,
    seen_key,
    shown_key,
    slate_key,
    watched_key,
)
from contract.shown import Shown
from contract.slates import Published
from contract.watched import Watched
from service.failures import DependencyUnavailable
from service.store.redis_store import RedisStore
from service.store.store import Card, Store
from tests.builders.gateway import make_stored
from tests.builders.guarded_redis import as_user, entered
from tests.builders.memory_store import MemoryStore

pytestmark = pytest.mark.anyio

BUNDLE, DATASET = "b1", "tiny"
COLUMNS = {"item_genre": "string", "item_year": "int64", "item_price": "float32"}
WORLD: dict[str, Any] = {"dataset": DATASET}
SEEN = {7: [30, 20, 2**62]}
CARDS: dict[int, Card] = {1: {"item_title": "Ünder “quotes”"}, 2: {"item_title": None}}
PUBLISHED = Published(("child", "parent"), ("parent",))
SLATES = [
    (7, make_stored([1, 2, 2**40], run="parent")),
    (7, make_stored([4, 5], run="child")),
    (8, make_stored([6], run="parent")),
    (9, make_stored([7], run="abandoned")),
]
UNAVAILABLE, AVAILABLE = {20, 22}, {19, 21, 23}
AVAILABLE_VALUE = UNAVAILABLE_of_contract[:1] + bytes((True,))
ROWS = {
    item_id: {column: held_values(value, COLUMNS[column]) for column, value in row.items()}
    for item_id, row in {
        30: {"item_genre": ["drama", "Krimi & mehr, fein"], "item_year": [1999], "item_price": [0.1]},
        31: {"item_genre": ["crime"], "item_year": [-5]},
        32: {},
    }.items()
}


class StoreSuite:
    """Needs a fixture `store` that holds SEEN, CARDS, PUBLISHED, SLATES, UNAVAILABLE and ROWS."""

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

    async def test_the_pointer_says_which_run_is_read(self, store: Store) -> None:
        assert await store.published(5) == PUBLISHED

    @pytest.mark.parametrize(
        ("user_id", "run", "item_ids", "seen"),
        [(7, "child", [4, 5], SEEN[7]), (8, "parent", [6], []), (9, None, [], []), (2**63 - 1, None, [], [])],
        ids=["in both", "in the parent", "in a run that is not read", "in none"],
    )
    async def test_the_first_run_that_holds_a_user_gives_the_slate(
        self, store: Store, user_id: int, run: str | None, item_ids: list[int], seen: list[int]
    ) -> None:
        slate, found = await store.stored(PUBLISHED.lineage, user_id, 5)
        assert (slate.run if slate else None) == run
        assert (slate.item_ids.tolist() if slate else []) == item_ids
        assert found == seen

    async def test_items_are_available_unless_it_is_said_that_they_are_not(self, store: Store) -> None:
        assert await store.unavailable([19, 20, 21, 22, 23], 5) == UNAVAILABLE
        assert await store.unavailable([22, 19], 5) == {22}
        assert await store.unavailable([], 5) == set()

    @pytest.mark.parametrize(
        ("filters", "passing"),
        [
            ({"item_genre": ["drama"]}, {30}),
            ({"item_genre": ["Krimi & mehr, fein", "crime"]}, {30, 31}),
            ({"item_genre": ["Krimi"]}, set()),
            ({"item_year": [1999, -5]}, {30, 31}),
            ({"item_year": [1999], "item_genre": ["crime"]}, set()),
            ({"item_year": [-5], "item_genre": ["crime"]}, {31}),
            ({"item_price": [0.1, 3]}, {30}),
            ({"item_price": [0.1000001]}, set()),
        ],
        ids=str,
    )
    async def test_items_pass_a_filter_by_the_values_of_their_columns(
        self, store: Store, filters: Wanted, passing: set[int]
    ) -> None:
        allowed = check_filters(filters, COLUMNS)
        assert await store.passing([30, 31, 32, 33], allowed, 5) == passing
        assert await store.passing([], allowed, 5) == set()

    async def test_the_check_says_something(self, store: Store) -> None:
        assert await store.check(5)


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore(SEEN, CARDS, PUBLISHED, SLATES, UNAVAILABLE, ROWS)


class TestRedisStore(StoreSuite):
    @pytest.fixture
    async def store(self, redis_process: Any) -> AsyncIterator[RedisStore]:
        fill(redis_process.port)
        store = RedisStore(redis_process.url, BUNDLE, timeout_s=5, kept_cards=3, **WORLD)
        await store.open()
        yield store
        await store.close()

    async def test_cards_of_another_bundle_are_not_mixed_in(
        self, store: RedisStore, redis_process: Any
    ) -> None:
        with redis.Redis(port=redis_process.port) as client:
            client.set(item_card_key("b2", 3), encode_card({"item_title": "other"}))
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
            client.set(seen_key(DATASET, 5), b"12345")
            client.set(item_card_key(BUNDLE, 5), b"{")
        with pytest.raises(DependencyUnavailable, match="seen:tiny:5"):
            await store.seen(5, 5)
        with pytest.raises(DependencyUnavailable, match="item_card:b1:5"):
            await store.cards([5], 5)

    async def test_readers_of_one_turn_share_a_command(self, store: RedisStore, redis_process: Any) -> None:
        found = await asyncio.gather(store.seen(7, 5), store.cards([2, 1], 5), store.seen(8, 5))
        assert list(found) == [SEEN[7], {2: CARDS[2], 1: CARDS[1]}, []]
        with redis.Redis(port=redis_process.port) as client:
            stats: Any = client.info("commandstats")
        assert stats["cmdstat_mget"]["calls"] == 1

    async def test_a_slate_and_what_was_seen_take_one_command_however_long_the_lineage(
        self, store: RedisStore, redis_process: Any
    ) -> None:
        await store.stored([*PUBLISHED.lineage, *map(str, range(6))], 7, 5)
        with redis.Redis(port=redis_process.port) as client:
            stats: Any = client.info("commandstats")
        assert stats["cmdstat_mget"]["calls"] == 1

    async def test_availability_is_read_in_one_round_trip_and_kept_for_its_time(
        self, redis_process: Any
    ) -> None:
        now_s = 0.0
        fill(redis_process.port)
        store = RedisStore(redis_process.url, BUNDLE, 5, 1000, **WORLD, availability_s=3, clock=lambda: now_s)
        await store.open()
        with redis.Redis(port=redis_process.port) as client:

            def reads() -> tuple[int, int]:
                stats: Any = client.info("commandstats")
                return int(stats["cmdstat_hmget"]["calls"]), int(
                    client.info("stats")["total_reads_processed"]
                )

            for item_id in range(100, 150):
                mark(client, item_id, is_available=True)
            await store.unavailable([19], 5)  # opens the connection
            before = reads()
            assert await store.unavailable(list(range(100, 150)), 5) == set()
            after = reads()
            assert after[0] - before[0] == 50
            assert after[1] - before[1] <= 2 + 2, "one round trip, and the two INFOs themselves"
            mark(client, 100)
            assert await store.unavailable([100, 101], 5) == set()  # kept
            assert reads()[0] == after[0]
            now_s += 3
            assert await store.unavailable([100, 101], 5) == {100}
        await store.close()

    async def test_an_item_whose_row_is_gone_is_not_available_and_an_emptied_redis_tells_nothing(
        self, redis_process: Any
    ) -> None:
        now_s = 0.0
        fill(redis_process.port)
        store = RedisStore(redis_process.url, BUNDLE, 5, 1000, **WORLD, availability_s=3, clock=lambda: now_s)
        await store.open()
        assert await store.unavailable([7, 8], 5) == set(), "no row was seen yet"
        now_s += 3
        assert await store.unavailable([7, 19], 5) == {7}
        assert await store.unavailable([8], 5) == {8}
        with redis.Redis(port=redis_process.port) as client:
            client.flushall()
        now_s += 3
        assert await store.unavailable([7, 8, 19, 20], 5) == set()
        await store.close()

    async def test_notes_are_appended_in_their_order_and_the_oldest_go_beyond_the_bound(
        self, redis_process: Any
    ) -> None:
        store = RedisStore(redis_process.url, BUNDLE, 5, 3, **WORLD, shown_kept=200)
        await store.open()
        notes = [
            Shown(f"r{i}", i, BUNDLE, "champion", "ensemble", 7, (3, 2**62), (0.5, 0.25), (1.0, 0.125))
            for i in range(1000)
        ]
        await store.note_shown(notes[:2], 5)
        with redis.Redis(port=redis_process.port) as client:
            entries: Any = client.xrange(shown_key(DATASET))
            assert [Shown.of(entry) for _, entry in entries] == notes[:2]
            await store.note_shown(notes, 5)
            assert 200 <= client.xlen(shown_key(DATASET)) < 400
            client.delete(shown_key(DATASET))
            client.set(shown_key(DATASET), "no stream")
            with pytest.raises(DependencyUnavailable, match="WRONGTYPE"):
                await store.note_shown(notes[:1], 5)
        assert store.circuit.state == "closed"
        await store.close()

    async def test_what_the_watch_found_is_read_and_none_where_nobody_watches(
        self, store: RedisStore, redis_process: Any
    ) -> None:
        assert await store.watched(5) is None
        found = Watched(at_s=1.0, bundle=BUNDLE, ages_s={"index": None, "bundle": 3.5})
        with redis.Redis(port=redis_process.port) as client:
            client.set(watched_key(DATASET), found.model_dump_json())
            assert await store.watched(5) == found
            client.set(watched_key(DATASET), "{}")
        with pytest.raises(DependencyUnavailable, match="watched:tiny"):
            await store.watched(5)

    async def test_when_features_came_is_read_and_nan_where_nobody_said(
        self, store: RedisStore, redis_process: Any
    ) -> None:
        assert math.isnan(await store.materialized_at(5))
        with redis.Redis(port=redis_process.port) as client:
            client.set(materialized_at_key(DATASET), 1_760_000_000)
            assert await store.materialized_at(5) == 1_760_000_000
            client.set(materialized_at_key(DATASET), "yesterday")
        with pytest.raises(DependencyUnavailable, match="materialized_at:tiny"):
            await store.materialized_at(5)

    async def test_the_pointer_is_kept_for_its_time(self, redis_process: Any) -> None:
        now_s = 0.0
        fill(redis_process.port)
        store = RedisStore(redis_process.url, BUNDLE, 5, 10, **WORLD, pointer_s=1, clock=lambda: now_s)
        await store.open()
        assert await store.published(5) == PUBLISHED
        with redis.Redis(port=redis_process.port) as client:
            client.delete(batch_key(DATASET))
            now_s += 0.9
            assert await store.published(5) == PUBLISHED
            now_s += 0.1
            assert await store.published(5) == Published(())
        await store.close()

    async def test_readers_of_slates_and_of_availability_share_their_commands(
        self, store: RedisStore, redis_process: Any
    ) -> None:
        found = await asyncio.gather(*(store.stored(PUBLISHED.lineage, user, 5) for user in (7, 8, 9)))
        assert [slate.run if slate else None for slate, _ in found] == ["child", "parent", None]
        gone = await asyncio.gather(*(store.unavailable([item, 21], 5) for item in (19, 20, 22)))
        assert list(gone) == [set(), {20}, {22}]
        with redis.Redis(port=redis_process.port) as client:
            stats: Any = client.info("commandstats")
        assert stats["cmdstat_mget"]["calls"] == 1

    async def test_damaged_slates_pointers_and_columns_are_told_logged_and_not_served(
        self, store: RedisStore, redis_process: Any
    ) -> None:
        with redis.Redis(port=redis_process.port) as client:
            client.set(batch_key(DATASET), b'{"lineage": 7}')
            client.set(slate_key("child", 8), SLATES[1][1].encode()[:-1])
            client.set(slate_key("parent", 5), SLATES[1][1].encode())
            client.set(seen_key(DATASET, 5), b"12345")
            client.hset(item_vector_key(BUNDLE, 34), "item_price", "cheap")
        with structlog.testing.capture_logs() as lines:
            with pytest.raises(DependencyUnavailable, match="batch:tiny"):
                await store.published(5)
            with pytest.raises(DependencyUnavailable, match="slate:child:8"):
                await store.stored(PUBLISHED.lineage, 8, 5)
            with pytest.raises(DependencyUnavailable, match="seen:tiny:5"):
                await store.stored(PUBLISHED.lineage, 5, 5)
            with pytest.raises(DependencyUnavailable, match="item_vector:b1:34"):
                await store.passing([34], {"item_price": Condition(frozenset({"1.0"}))}, 5)
        assert [line["event"] for line in lines] == ["damaged"] * 4
        assert store.circuit.state == "closed"

    async def test_cards_are_read_once_and_the_oldest_make_room(
        self, store: RedisStore, redis_process: Any
    ) -> None:
        with redis.Redis(port=redis_process.port) as client:
            for item_id in range(10, 15):
                client.set(item_card_key(BUNDLE, item_id), encode_card({"item_title": "x"}))

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


@pytest.mark.parametrize("how", ["user", "tls"])
async def test_a_redis_that_asks_for_user_and_password_is_read(
    redis_process: Any, tmp_path: Path, how: str
) -> None:
    fill(redis_process.port)
    with entered(redis_process.url, tmp_path, how) as url:
        store = RedisStore(url, BUNDLE, timeout_s=5, kept_cards=3, **WORLD)
        await store.open()
        assert await store.seen(7, 5) == SEEN[7]
        assert await store.cards([1], 5) == {1: CARDS[1]}
        assert await store.published(5) == PUBLISHED
        assert await store.unavailable(list(UNAVAILABLE), 5) == set(UNAVAILABLE)
        assert await store.check(5) == f"answers at {url.address}"
        assert "s3cr3t" not in repr(store._reader._client)
        await store.close()


async def test_a_wrong_password_is_told_without_it(redis_process: Any) -> None:
    as_user(redis_process.url)
    url = RedisUrl(f"redis://shortlist:s3cr3t@{redis_process.url.address}")
    store = RedisStore(url, BUNDLE, timeout_s=5, kept_cards=3, **WORLD)
    await store.open()
    for asked in (store.check(5), store.seen(7, 5)):
        with pytest.raises(DependencyUnavailable) as error:
            await asked
        assert str(error.value) == f"redis: {url.address}: {AUTHENTICATION_FAILED}"
    await store.close()


async def test_a_redis_that_is_down_fails_at_once(unused_port: int) -> None:
    store = RedisStore(
        RedisUrl(f"redis://127.0.0.1:{unused_port}"), BUNDLE, timeout_s=5, kept_cards=3, **WORLD
    )
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
            RedisUrl(f"redis://127.0.0.1:{silent.getsockname()[1]}"),
            BUNDLE,
            timeout_s=0.1,
            kept_cards=3,
            **WORLD,
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
            RedisUrl(f"redis://127.0.0.1:{silent.getsockname()[1]}"),
            BUNDLE,
            timeout_s=0.02,
            kept_cards=3,
            **WORLD,
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
            client.set(seen_key(DATASET, user_id), encode_seen(item_ids))
        for item_id, card in CARDS.items():
            client.set(item_card_key(BUNDLE, item_id), encode_card(card))
        client.set(batch_key(DATASET), PUBLISHED.encode())
        for user_id, slate in SLATES:
            client.set(slate_key(slate.run, user_id), slate.encode())
        for item_id in UNAVAILABLE | AVAILABLE:
            mark(client, item_id, is_available=item_id in AVAILABLE)
        for item_id, columns in ROWS.items():
            held = {name: encode_tags(values) for name, values in columns.items()}
            client.hset(item_vector_key(BUNDLE, item_id), mapping={"vector": b"\0", **held})


def mark(client: Any, item_id: int, *, is_available: bool = False) -> None:
    """Writes whether an item is available."""
    key = feature_key("item_id", item_id, DATASET)
    client.hset(key, AVAILABILITY_FIELD, AVAILABLE_VALUE if is_available else UNAVAILABLE_of_contract)
