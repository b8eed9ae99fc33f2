"""Who passes a filter in the chain: by Redis' own query, by exact search, and by what the index holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from redis import Redis

from contract.bundle import Manifest, read_manifest
from contract.filters import (
    Filters,
    Wanted,
    check_filters,
    decode_filters,
    encode_filters,
    held_values,
    passes,
)
from contract.keys import decode_tags, index_name, item_vector_key
from ensemble.publish.fields import item_fields
from ensemble.publish.parts import create_command
from ensemble.stores.index_watch import index_info
from ensemble.stores.vectors import MemoryVectorIndex, RedisVectorIndex
from tests.builders.filters import DTYPES, Row, is_passing, rows, wanted
from tests.builders.triton import WIDTH, make_world

VECTOR = np.ones((1, WIDTH), dtype=np.float32)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Gives the manifest of a bundle that filters on a column of every dtype."""
    world = make_world(tmp_path_factory.mktemp("filters") / "bundle", items=20)
    return read_manifest(world.folder).model_copy(update={"filters": DTYPES})


@pytest.fixture
def index(redis: Redis, manifest: Manifest) -> Iterator[RedisVectorIndex]:
    """Gives an index without items, as the bundle's publication makes it."""
    run: Any = redis.execute_command
    run(*create_command(manifest))
    yield RedisVectorIndex(redis, manifest.bundle, manifest.filters)
    run("FT.DROPINDEX", index_name(manifest.bundle))


def fill(redis: Redis, manifest: Manifest, catalogue: list[Row]) -> None:
    """Writes items 0, 1, 2, ... in the place of those that were there; waits until all are indexed."""
    redis.delete(*(item_vector_key(manifest.bundle, item_id) for item_id in range(10)))
    for item_id, row in enumerate(catalogue):
        fields: Any = item_fields(row, VECTOR[0], manifest.filters)
        redis.hset(item_vector_key(manifest.bundle, item_id), mapping=fields)
    while int(index_info(redis, manifest.bundle)["num_docs"]) != len(catalogue):
        pass


def found(index: RedisVectorIndex | MemoryVectorIndex, filters: Filters, most: int) -> list[int]:
    ids, _ = index.search(VECTOR, [most], [filters], most)
    return [item_id for item_id in ids[0].tolist() if item_id >= 0]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(catalogue=rows, filters=wanted)
def test_every_way_of_the_chain_lets_the_same_items_pass(
    redis: Redis, manifest: Manifest, index: RedisVectorIndex, catalogue: list[Row], filters: Wanted
) -> None:
    expected = [item_id for item_id, row in enumerate(catalogue) if is_passing(row, filters)]
    allowed = decode_filters(encode_filters(filters)[0], DTYPES)
    assert allowed == check_filters(filters, DTYPES)

    held = [{column: held_values(row[column], DTYPES[column]) for column in DTYPES} for row in catalogue]
    vectors = np.repeat(VECTOR, len(catalogue), axis=0)
    exact = MemoryVectorIndex(np.arange(len(catalogue)), vectors, held)
    assert found(exact, allowed, len(catalogue)) == expected

    fill(redis, manifest, catalogue)
    assert found(index, allowed, len(catalogue)) == expected

    columns = list(filters)
    stored: list[Any] = [
        redis.hmget(item_vector_key(manifest.bundle, i), columns) for i in range(len(catalogue))
    ]
    decoded = [dict(zip(columns, map(decode_tags, values), strict=True)) for values in stored]
    assert [item_id for item_id, values in enumerate(decoded) if passes(allowed, values)] == expected


def test_a_price_is_found_as_people_write_it(
    redis: Redis, manifest: Manifest, index: RedisVectorIndex
) -> None:
    row = dict.fromkeys(DTYPES) | {"item_price": float(np.float32(12.99))}
    fill(redis, manifest, [row])
    assert row["item_price"] != 12.99
    for asked, is_found in (
        ([12.99], True),
        ([12.98], False),
        ({"gte": 12.99}, True),
        ({"gt": 12.99}, False),
        ({"lte": 12.99, "gt": 5}, True),
        ({"lt": 12.99}, False),
        ({"not": [12.99]}, False),
        ({"not": {"lt": 12.99}}, True),
        ([None], False),
        ({"not": [None]}, True),
    ):
        assert found(index, check_filters({"item_price": asked}, DTYPES), 1) == [0] * is_found, asked
