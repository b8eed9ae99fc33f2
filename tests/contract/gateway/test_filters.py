"""Who passes a filter in the gateway's own slates: the stored one, over both stores, and the popular one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import redis
from hypothesis import HealthCheck, given, settings

from contract.filters import Wanted, check_filters, held_values
from contract.keys import encode_tags, item_vector_key
from service.schemas import RecommendRequest
from service.slates.popular import FILTERS, PopularSlates
from service.store.redis_store import RedisStore
from service.store.store import Store
from service.variant import PopularItem
from tests.builders.filters import DTYPES, Row, is_passing, rows, wanted
from tests.builders.memory_store import MemoryStore

BUNDLE = "b1"


def fill(client: redis.Redis, held: list[dict[str, frozenset[str]]]) -> None:
    """Writes items 0, 1, 2, ... as the bundle's publication does."""
    client.flushall()
    for item_id, columns in enumerate(held):
        fields: Any = {column: encode_tags(values) for column, values in columns.items()}
        client.hset(item_vector_key(BUNDLE, item_id), mapping={"vector": b"\0", **fields})


async def passing(store: Store, catalogue: list[Row], filters: Wanted) -> list[int]:
    if isinstance(store, RedisStore):
        await store.open()
    try:
        allowed = check_filters(filters, DTYPES)
        return sorted(await store.passing(range(len(catalogue)), allowed, 5))
    finally:
        if isinstance(store, RedisStore):
            await store.close()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(catalogue=rows, filters=wanted)
def test_a_stored_slate_and_the_popular_one_let_the_same_items_pass(
    redis_process: Any, catalogue: list[Row], filters: Wanted
) -> None:
    expected = [item_id for item_id, row in enumerate(catalogue) if is_passing(row, filters)]
    held = [{column: held_values(row[column], DTYPES[column]) for column in DTYPES} for row in catalogue]
    with redis.Redis(port=redis_process.port) as client:
        fill(client, held)
    stores: list[Store] = [
        MemoryStore({}, {}, columns=dict(enumerate(held))),
        RedisStore(redis_process.url, BUNDLE, 5, 10, dataset="tiny"),
    ]
    for store in stores:
        assert asyncio.run(passing(store, catalogue, filters)) == expected

    written = json.dumps([{"item_id": i, "score": 1.0, **row} for i, row in enumerate(catalogue)])
    popular = [PopularItem.model_validate(item) for item in json.loads(written)]
    request = RecommendRequest(user_id=7, n=100, filters=filters)
    slate = PopularSlates(popular, DTYPES).slate(request, check_filters(request.filters, DTYPES), ())
    assert slate.item_ids == expected
    assert FILTERS not in slate.degraded


def test_a_popular_item_that_holds_no_value_of_the_columns_dtype_is_left_out_and_told() -> None:
    items = [
        PopularItem(item_id=1, score=1.0, item_year="1999"),
        PopularItem(item_id=2, score=1.0, item_year="old"),
    ]
    request = RecommendRequest(user_id=7, n=2, filters={"item_year": [1999]})
    slate = PopularSlates(items, DTYPES).slate(request, check_filters(request.filters, DTYPES), ())
    assert slate.item_ids == [1]
    assert FILTERS in slate.degraded
