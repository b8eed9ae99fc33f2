"""What the gateway reads beside a stored slate: availability as Feast wrote it, columns as the index did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmh3
import pytest
from redis import Redis

from contract import names
from contract.dataset import DATASET_FILE, Dataset
from contract.environment import RedisUrl
from contract.feast import AVAILABILITY_FIELD, UNAVAILABLE, feature_key
from contract.filters import Wanted, check_filters, passes
from contract.keys import decode_tags, item_vector_key
from ensemble.bundle import LoadedBundle
from ensemble.publish.index import build_index
from tests.builders.feast_store import feast_repository, write_rows
from tests.builders.triton import BRANDS, DATASET, NOW, make_world

ITEMS = 60


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    (tmp_path / DATASET_FILE).write_text(DATASET.format(name="tiny", ttl_s="{}"))
    return Dataset.load(tmp_path)


@pytest.fixture
def feast(
    tmp_path: Path,
    dataset: Dataset,
    redis: Redis,
    redis_url: RedisUrl,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    del redis  # emptied
    yield from feast_repository(tmp_path, dataset, redis_url, monkeypatch)


def test_the_availability_field_is_feasts_hash_of_view_and_feature() -> None:
    hashed = mmh3.hash(f"{names.ITEM_CATALOG}:{names.IS_AVAILABLE}", signed=False)
    assert hashed.to_bytes(4, "little") == AVAILABILITY_FIELD


def test_the_key_of_a_row_is_feasts_own() -> None:
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    for entity, value in ((names.ITEM_ID, 0), (names.USER_ID, 2**63 - 1)):
        key = EntityKey(join_keys=[entity], entity_values=[Value(int64_val=value)])
        packed = serialize_entity_key(key, entity_key_serialization_version=3)
        assert feature_key(entity, value, "tiny") == packed + b"tiny"


def test_an_item_is_unavailable_exactly_where_feast_wrote_so(
    feast: Any, dataset: Dataset, redis: Redis
) -> None:
    rows: dict[int, dict[str, Any]] = {
        1: {names.IS_AVAILABLE: True},
        2: {names.IS_AVAILABLE: False},
        3: {names.IS_AVAILABLE: None},
    }
    write_rows(feast, dataset, names.ITEM_CATALOG, rows, NOW)
    held = {
        item_id: redis.hget(
            feature_key(names.ITEM_ID, item_id, dataset.name),
            AVAILABILITY_FIELD,
        )
        for item_id in (1, 2, 3, 4)
    }
    assert held[1] is not None, "the field is there where Feast wrote it"
    assert {item_id for item_id, value in held.items() if value == UNAVAILABLE} == {2}


@pytest.mark.parametrize(
    "filters",
    [
        {"item_category": [2]},
        {"item_category": [0, 3]},
        {"item_brand": [BRANDS[1]]},
        {"item_brand": [BRANDS[2], BRANDS[3]]},
        {"item_tags": [4]},
        {"item_price": [0.5, 1.5]},
        {"item_price": [1]},
        {"item_category": [1, 2], "item_brand": [BRANDS[0]]},
        {"item_category": [77]},
    ],
    ids=str,
)
def test_an_item_passes_a_filter_by_what_the_index_wrote_of_it(
    tmp_path: Path, redis: Redis, filters: Wanted
) -> None:
    world = make_world(tmp_path / "bundle", items=ITEMS)
    build_index(redis, world.folder, keep=2)
    allowed = check_filters(filters, LoadedBundle.open(world.folder).manifest.filters)

    def holds(item_id: int) -> bool:
        row = world.rows.get(("item_catalog", item_id), {})
        held = {c: v if isinstance(v := row.get(c), list) else [v] for c in filters}
        return all(set(held[c]) & set(filters[c]) for c in filters)

    def is_passing(item_id: int) -> bool:
        held: Any = redis.hmget(item_vector_key("tiny-1", item_id), list(filters))
        pairs = zip(filters, held, strict=True)
        return passes(allowed, {column: decode_tags(tags) for column, tags in pairs if tags is not None})

    expected = [item_id for item_id in world.item_ids if holds(item_id)]
    assert [item_id for item_id in world.item_ids if is_passing(item_id)] == expected
    assert bool(expected) != (filters == {"item_category": [77]})
