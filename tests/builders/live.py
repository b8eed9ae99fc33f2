"""Events of the synthetic world, and what accepts and consumes them without a gateway."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from redis import Redis

from contract.dataset import Dataset
from contract.events import FIELD, Event, partition_of
from contract.ids import number_of
from contract.keys import event_stream_key
from live.consumer import Consumer
from live.events import EventHandler
from live.settings import LiveSettings

ROOT = Path(__file__).parents[2]
CALM = LiveSettings(linger_ms=0, lease_s=30, archive_s=3600)
"""Settings of a consumer that does not wait, and archives when a test says so."""
HASTY = CALM.model_copy(update={"lease_s": 0.5})
"""Settings of one that is soon taken for dead."""


def synthetic_dataset(**changed: Any) -> Dataset:
    """The declaration of the synthetic world, which needs no files."""
    dataset = Dataset.load(ROOT / "training/data/sources/synthetic.yaml")
    return dataset.model_copy(update=changed)


def click(user_id: int, item_id: int, number: int = 0, **changed: Any) -> Event:
    """A click, `number` seconds after an instant long ago."""
    given = {"labels": {"is_click": 1}, "at_us": 1_790_000_000_000_000 + number * 1_000_000, **changed}
    return Event(f"{user_id}-{item_id}-{number}", user_id, item_id, **given)


def accept(redis: Redis, dataset: Dataset, events: Iterable[Event]) -> None:
    """Puts events where the gateway puts them."""
    client: Any = redis
    for event in events:
        partition = partition_of(number_of(event.user_id, dataset.user_id_dtype))
        client.xadd(event_stream_key(dataset.name, partition), {FIELD: event.encode()})


def make_consumer(
    redis: Redis, dataset: Dataset, var: Path, settings: LiveSettings = CALM
) -> tuple[Consumer, list[str]]:
    """Makes a consumer of events, and a list that gets what it says."""
    said: list[str] = []
    consumer = Consumer(redis, dataset.name, [EventHandler(dataset, var)], settings, said.append)
    consumer.block_ms = 20
    return consumer, said


def drain(*consumers: Consumer, rounds: int = 4) -> int:
    """Lets consumers work in turns until none has found anything for some rounds; gives what they found."""
    found, idle, until_s = 0, 0, time.monotonic() + 60
    while idle < rounds and time.monotonic() < until_s:
        some = sum(consumer.step() for consumer in consumers)
        found, idle = found + some, 0 if some else idle + 1
    return found
