"""One definition of activity: what the consumer folds is what was learned, row by row; and materialising
takes nothing of it away. That Feast's offline store holds the same is in `tests/contract/training`."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from redis import Redis

from contract import names
from contract.activity import ActivityEvent, ActivityReducer, ActivityState, known_from_us, view_of
from contract.environment import RedisUrl
from contract.event_archive import archive_files, events_folder
from contract.events import Event
from contract.feast import event_time_field, feature_field, feature_key, state_field
from contract.keys import activity_rates_key, decode_seen, seen_key
from feature_repo.connection import connection_string
from feature_repo.definitions import live_source
from feature_repo.feast_store import FeastStore
from feature_repo.later import LaterEvents
from feature_repo.materialize import materialize
from live.consumer import Consumer
from tests.builders.activity import LoggedEvent, events_before, logged_events, overall_rates, with_lists
from tests.builders.datasets import quiet
from tests.builders.live import CALM, accept, click, drain, make_consumer
from training.data.prepared import Prepared
from training.data.sources.catalog import prepare
from training.data.sources.synthetic import Size
from training.examples.exposures import RankingTable, take
from training.features.tables import write_features

SIZE = Size(users=40, items=60, days=12, interactions=1_200)
EXPOSURES = 15
ENTITIES = ((names.USER, names.USER_ID), (names.ITEM, names.ITEM_ID))


@pytest.fixture
def world(tmp_path: Path) -> Prepared:
    """A small world."""
    return prepare("synthetic", tmp_path, tmp_path, size=SIZE, say=quiet)


def until(world: Prepared, instant: pd.Timestamp) -> Prepared:
    """What happened before an instant."""
    log = world.interactions
    return replace(world, interactions=log[log[world.dataset.timestamp] < instant].reset_index(drop=True))


def load(world: Prepared, url: RedisUrl) -> None:
    write_features(world, "own")
    materialize(world.folder, url, say=quiet)


def as_sent(one: LoggedEvent, number: int) -> Event:
    labels = {name: int(value) for name, value in one.event.labels.items() if value is not None}
    return Event(str(number), one.user_id, one.item_id, one.event.at_us, labels)


def row_of(redis: Any, world: Prepared, entity: str, entity_id: int) -> dict[bytes, bytes]:
    """A row's features of activity as they lie in Redis; none where there is no row."""
    reducer, key = ActivityReducer.of(world.dataset, entity), f"{entity}_id"
    fields = [feature_field(view_of(entity), name) for name in reducer.columns]
    values = redis.hmget(feature_key(key, entity_id, world.dataset.name), fields)
    return {field: value for field, value in zip(fields, values, strict=True) if value is not None}


def folded(world: Prepared, entity: str, events: Sequence[ActivityEvent], redis: Any) -> dict[bytes, bytes]:
    """The same of a fold of events."""
    reducer = ActivityReducer.of(world.dataset, entity)
    rates = json.loads(redis.get(activity_rates_key(world.dataset.name)))
    known = {feature_field(view_of(entity), name) for name in reducer.columns}
    made = reducer.fields(reducer.fold(ActivityState(), *events), rates) if events else {}
    return {field: value for field, value in made.items() if field in known}


def test_each_row_that_is_replayed_is_the_one_that_was_learned(
    world: Prepared, redis: Any, redis_url: RedisUrl, tmp_path: Path
) -> None:
    start = pd.Timestamp(world.split.validate_until)
    end = world.interactions[world.dataset.timestamp].max() + pd.Timedelta(seconds=1)
    load(until(world, start), redis_url)
    consumer, _ = make_consumer(redis, world.dataset, tmp_path)
    log, rng = logged_events(world), np.random.default_rng(0)
    assert overall_rates(world) == overall_rates(until(world, start)), "a constant of the train part"
    rows = RankingTable.of(world).exposures(start, end)
    rows = take(rows, np.sort(rng.choice(len(rows), EXPOSURES, replace=False)))
    waiting = [as_sent(one, number) for number, one in enumerate(log) if one.at >= start.value]
    for at, row in zip(rows.times.tolist(), with_lists(rows).to_dict("records"), strict=True):
        some = [event for event in waiting if event.at_us < at // 1000]
        waiting = waiting[len(some) :]
        accept(redis, world.dataset, [some[place] for place in rng.permutation(len(some))])
        drain(consumer, rounds=1)
        for entity, key in ENTITIES:
            events = events_before(log, entity, row[key], at)
            assert row_of(redis, world, entity, row[key]) == folded(world, entity, events, redis)
            state = redis.hget(feature_key(key, row[key], world.dataset.name), state_field(view_of(entity)))
            made = ActivityReducer.of(world.dataset, entity).features(
                ActivityState.decode(state), overall_rates(world)
            )
            same_as_learned(made, row)


def test_a_push_through_feast_writes_what_the_consumer_does(
    world: Prepared, redis: Any, redis_url: RedisUrl, tmp_path: Path
) -> None:
    load(world, redis_url)
    consumer, _ = make_consumer(redis, world.dataset, tmp_path)
    accept(redis, world.dataset, [click(3, 5, 1), click(3, 7, 2, labels={"is_click": 0})])
    drain(consumer)
    feast = FeastStore(tmp_path, world.dataset.name, connection_string(redis_url))
    feast.apply()
    assert feast.store is not None
    rates = json.loads(redis.get(activity_rates_key(world.dataset.name)))
    for (entity, key), one in zip(ENTITIES, (3, 5), strict=True):
        view, row = view_of(entity), feature_key(key, one, world.dataset.name)
        by_consumer = redis.hgetall(row)
        state = ActivityState.decode(by_consumer[state_field(view)])
        made = ActivityReducer.of(world.dataset, entity).features(state, rates)
        at = pd.to_datetime([known_from_us(state)], unit="us", utc=True)
        redis.hdel(row, event_time_field(view), *row_of(redis, world, entity, one))
        frame = pd.DataFrame({key: [one], names.EVENT_TIMESTAMP: at, **{n: [v] for n, v in made.items()}})
        feast.store.push(live_source(view), frame)
        assert redis.hgetall(row) == by_consumer


def same_as_learned(made: dict[str, Any], row: dict[str, Any]) -> None:
    for name, value in made.items():
        if isinstance(value, list):
            assert value[: len(row[name])] == list(row[name]), name
            assert len(row[name]) == min(len(value), 50), name
        else:
            assert np.float32(value) == row[name], name


def test_materialising_while_events_flow_loses_none(
    world: Prepared, redis: Any, redis_url: RedisUrl, tmp_path: Path
) -> None:
    """Two sets of features, the archive in between, and at last one that holds the archive."""
    middle, as_of = pd.Timestamp(world.split.train_until), pd.Timestamp(world.dataset.clock())
    rng = np.random.default_rng(1)
    events = [
        click(int(user), int(item), int(number), labels={"is_click": int(number) % 2})
        for number, (user, item) in enumerate(rng.integers(1, (50, 40), (200, 2)))
    ]
    events = [events[place] for place in rng.permutation(len(events))]
    settings = CALM.model_copy(update={"archive_s": 0.3})
    consumer, said = make_consumer(redis, world.dataset, tmp_path, settings)
    accept(redis, world.dataset, events[:30])  # before there are features
    drain(consumer, rounds=2)
    stop, fed = threading.Event(), threading.Event()
    works = threading.Thread(target=consumer.keep, args=(stop,))
    feeds = threading.Thread(target=feed, args=(redis, world, events[30:], fed))
    works.start()
    feeds.start()
    try:
        load(until(world, middle), redis_url)
        load(world, redis_url)
    finally:
        feeds.join()
        stop.set()
        works.join()
    drain(consumer, rounds=40)
    assert not said
    assert archive_files(events_folder(tmp_path, world.dataset.name)), "some lie in the archive alone"
    assert_all_folded(redis, world, until(world, as_of), events)
    for user in {event.user_id for event in events}:
        assert {event.item_id for event in events if event.user_id == user} <= {
            *seen_of(redis, world, int(user))
        }
    archived_and_prepared_again(redis, world, redis_url, tmp_path, consumer, events)


def test_what_a_user_sees_after_materialising_has_looked_stays(
    world: Prepared, redis: Any, redis_url: RedisUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one whose row and items were as computed, and of one who was not known."""
    load(world, redis_url)
    consumer, _ = make_consumer(redis, world.dataset, tmp_path)
    known, new = int(world.interactions[names.USER_ID].iloc[0]), SIZE.users + 5
    before, read = seen_of(redis, world, known), LaterEvents.read

    def read_then_more(later: LaterEvents) -> None:
        monkeypatch.undo()
        read(later)
        accept(redis, world.dataset, [click(known, 5, 1), click(new, 5, 2)])
        drain(consumer, rounds=1)

    monkeypatch.setattr(LaterEvents, "read", read_then_more)
    materialize(world.folder, redis_url, say=quiet)
    assert seen_of(redis, world, known) == [5, *(item for item in before if item != 5)]
    assert seen_of(redis, world, new) == [5]


def seen_of(redis: Any, world: Prepared, user_id: int) -> list[int]:
    items: list[int] = decode_seen(redis.get(seen_key(world.dataset.name, user_id))).tolist()
    return items


def feed(redis: Redis, world: Prepared, events: Sequence[Event], fed: threading.Event) -> None:
    for event in events:
        accept(redis, world.dataset, [event])
        fed.wait(0.05)
    fed.set()


def assert_all_folded(redis: Any, world: Prepared, base: Prepared, events: Sequence[Event]) -> None:
    log = logged_events(base)
    for entity, key in ENTITIES:
        live = {getattr(event, key) for event in events}
        for one in sorted({*base.interactions[key].tolist(), *live}):
            mine = [event for event in events if getattr(event, key) == one]
            archived = [
                event.as_activity(world.dataset, int(event.item_id), 0, (1, n))
                for n, event in enumerate(mine)
            ]
            expected = [*events_before(log, entity, one, 2**63 - 1), *archived]
            assert row_of(redis, world, entity, one) == folded(world, entity, expected, redis), f"{key} {one}"


def archived_and_prepared_again(
    redis: Any, world: Prepared, url: RedisUrl, var: Path, consumer: Consumer, events: Sequence[Event]
) -> None:
    """What was folded live is folded from the archive now: nothing counts twice, and the stream goes on."""
    for stream in consumer.leases.held or consumer.leases.tend():
        while consumer.archive(stream):
            pass
    again = prepare("synthetic", var, var, size=SIZE, say=quiet)
    known = {*again.items[names.ITEM_ID]}
    assert len(again.interactions) == len(world.interactions) + sum(e.item_id in known for e in events)
    load(again, url)
    assert_all_folded(redis, again, again, [])
    more = [click(3, 5, number) for number in (700, 650, 701)]
    accept(redis, again.dataset, more)
    drain(consumer)
    assert_all_folded(redis, again, again, more)
