"""Changes of items and users, put where the gateway puts them, and what applies them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redis import Redis

from contract.dataset import Dataset
from contract.environment import LOCAL_REDIS, RedisUrl
from contract.items import check_row
from contract.keys import catalogue_stream_key
from contract.live_catalogue import FIELD, PUT, encode_change
from live.catalogue import CatalogueHandler
from live.consumer import Consumer
from tests.builders.live import CALM


def make_catalogue(
    redis: Redis, dataset: Dataset, var: Path, url: RedisUrl = LOCAL_REDIS
) -> tuple[Consumer, CatalogueHandler]:
    """Makes a consumer of changes; where an index has several nodes, it needs to know where Redis is."""
    handler = CatalogueHandler(dataset, var, url=url)
    consumer = Consumer(redis, dataset.name, [handler], CALM, lambda _: None)
    consumer.block_ms = 20
    return consumer, handler


def ask_for(redis: Redis, dataset: Dataset, kind: str, content: Any) -> str:
    """Accepts one change; gives its id."""
    client: Any = redis
    entry = client.xadd(catalogue_stream_key(dataset.name), {FIELD: encode_change(kind, content)})
    return str(entry.decode())


def put_items(redis: Redis, dataset: Dataset, *rows: dict[str, Any]) -> str:
    """Accepts items, checked as the gateway checks them."""
    numbered = (check_row(row, dataset) for row in rows)
    return ask_for(redis, dataset, PUT, {str(number): row for number, row in numbered})
