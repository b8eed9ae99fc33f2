"""Events over a real Redis: accepted once, wrong ones told by place, field and remedy, refused where they
cannot be kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from contract.events import FIELD, GROUP, PARTITIONS, Event, partition_of
from contract.feast import AVAILABILITY_FIELD, event_time_field, feature_key
from contract.ids import number_of
from contract.keys import event_stream_key
from contract.names import ITEM_ID, USER_ACTIVITY, USER_ID
from service.variant import Variant
from tests.builders.gateway import TEXT_IDS, FakeEnsemble, client_of, make_settings, make_store, write_bundle
from tests.builders.guarded_redis import as_user
from tests.builders.ports import free_port
from tests.contract.gateway.conftest import RedisProcess

pytestmark = pytest.mark.anyio

DATASET = "synthetic"
NOW = 1_790_000_000.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    folder = tmp_path_factory.mktemp("redis")
    process = RedisProcess(free_port(), folder, "--appendonly", "yes", "--appendfsync", "everysec")
    process.start()
    yield process
    process.stop()


@pytest.fixture
def client(server: RedisProcess) -> Iterator[Any]:
    made = redis.Redis(port=server.port)
    made.flushall()
    for item_id in range(50):
        made.hset(feature_key(ITEM_ID, item_id, DATASET), AVAILABILITY_FIELD, b"\x38\x01")
    made.hset(feature_key(USER_ID, 7, DATASET), event_time_field(USER_ACTIVITY), b"")
    yield made
    made.config_set("maxmemory", 0)
    made.close()


async def post(
    server: RedisProcess, folder: Path, *events: Any, atomic: Any = None, text: bool = False, **settings: Any
) -> httpx.Response:
    """Sends events to a gateway of its own, which keeps them without waiting for the disk."""
    async with gateway(server, folder, text=text, **settings) as http:
        body = {"events": list(events)} | ({} if atomic is None else {"atomic": atomic})
        answer: httpx.Response = await http.post("/v1/events", json=body)
        return answer


def gateway(
    server: RedisProcess, folder: Path, *, text: bool = False, now_s: float | None = None, **events: Any
) -> Any:
    """A gateway over this Redis; `now_s` stops its clock."""
    from service.main import build_app

    settings = make_settings(redis_url=server.url, events={"synced": False, **events})
    write_bundle(folder, **(TEXT_IDS if text else {}))
    app = build_app(settings, Variant.read(folder, settings, FakeEnsemble(), make_store()))
    if now_s is not None:
        app.state.events._now_s = lambda: now_s
    return client_of(app)


def stored(client: Any) -> list[Event]:
    found = [client.xrange(event_stream_key(DATASET, partition)) for partition in range(PARTITIONS)]
    return [Event.decode(fields[FIELD.encode()]) for entries in found for _, fields in entries]


def click(user_id: Any = 7, item_id: Any = 3, **more: Any) -> dict[str, Any]:
    return {"user_id": user_id, "item_id": item_id, "type": "click", **more}


async def test_an_event_lies_in_the_stream_of_its_user_as_it_was_sent(
    server: RedisProcess, client: Any, tmp_path: Path
) -> None:
    at_s = time.time() - 60
    fields = {"timestamp": at_s, "context": {"context_hour": 9}, "request_id": "r1", "event_id": "e1"}
    answer = await post(server, tmp_path, click(is_click=1, is_purchase=0, **fields))
    assert answer.status_code == 202
    said = answer.json()
    assert (said["accepted"], said["duplicates"], said["refused"], said["errors"]) == (1, 0, 0, [])
    (event,) = stored(client)
    assert event.at_us == round(at_s * 1e6)
    assert client.xlen(event_stream_key(DATASET, partition_of(7))) == 1
    labels = {"is_click": 1, "is_purchase": 0}
    assert event == Event("e1", 7, 3, event.at_us, labels, {"context_hour": 9}, "r1")


async def test_what_is_sent_again_is_a_duplicate_and_counted(
    server: RedisProcess, client: Any, tmp_path: Path
) -> None:
    at = {"timestamp": time.time()}
    async with gateway(server, tmp_path) as http:
        first = await http.post(
            "/v1/events", json={"events": [click(event_id="a"), click(**at), click(**at)]}
        )
        again = await http.post("/v1/events", json={"events": [click(event_id="a", item_id=4), click(**at)]})
        other = await http.post("/v1/events", json={"events": [click(8, event_id="a")]})
        counted = (await http.get("/metrics")).text
    assert [first.json()["accepted"], first.json()["duplicates"]] == [2, 1]
    assert [again.json()["accepted"], again.json()["duplicates"]] == [0, 2]
    assert other.json()["accepted"] == 1, "a name is one of its user"
    assert len(stored(client)) == 3
    assert 'shortlist_events_total{outcome="accepted"} 3.0' in counted
    assert 'shortlist_events_total{outcome="duplicate"} 3.0' in counted


@pytest.mark.parametrize(
    ("event", "field", "message"),
    [
        ({"item_id": 1, "type": "click"}, "user_id", "is missing: send it"),
        (click("7"), "user_id", "must be an integer, without quotes"),
        (click(item_id=None), "item_id", "must be"),
        (click(type="klick"), "type", "use one of click, purchase"),
        (click(is_like=1), "is_like", "use is_click, is_purchase"),
        (click(is_click=2), "is_click", "must be 0 or 1"),
        (click(is_click=True), "is_click", "must be 0 or 1"),
        (
            click(is_click=0),
            "is_click",
            "contradicts type click, which stands for is_click: 1; leave one of the two out",
        ),
        ({"user_id": 7, "item_id": 1}, "labels", "say what happened, by is_click or is_purchase or type"),
        (click(context={"hour": 1}), "context.hour", "use one of context_hour, context_tab"),
        (click(context={"context_tab": "1"}), "context.context_tab", "must be an integer"),
        (
            click(timestamp=NOW * 1000),
            "timestamp",
            "counts milliseconds: send seconds, such as 1790",
        ),
        (click(timestamp=int(NOW * 1e9)), "timestamp", "counts microseconds or less"),
        (click(timestamp="yesterday"), "timestamp", "must be ISO 8601"),
        (click(timestamp=10.0), "timestamp", "put it into the interactions table"),
        (click(timestamp="2999-01-01"), "timestamp", "s in the future, and may lie 300: set the clock"),
        (click(event_id=""), "event_id", "at least 1"),
        (click(request_id="r" * 129), "request_id", "at most 128"),
        (click(item_id=77), "item_id", "PUT /v1/items first, or set SHORTLIST_EVENTS__UNKNOWN_ITEMS=keep"),
        (5, "events", "must be"),
    ],
)
async def test_a_wrong_event_is_told_by_place_field_and_remedy_and_keeps_no_other_from_its_effect(
    server: RedisProcess, client: Any, tmp_path: Path, event: Any, field: str, message: str
) -> None:
    answer = await post(server, tmp_path, click(), event, now_s=NOW)
    if field == "events":
        assert answer.status_code == 422
        return
    assert answer.status_code == 202, answer.text
    said = answer.json()
    assert (said["accepted"], said["refused"]) == (1, 1)
    assert [(one["index"], one["field"]) for one in said["errors"]] == [(1, field)]
    assert message in said["errors"][0]["message"]
    alone = await post(server, tmp_path, event, now_s=NOW)
    assert alone.status_code == 422
    assert alone.json()["errors"][0] | {"index": 1} == said["errors"][0]
    whole = await post(server, tmp_path, click(item_id=9), event, atomic=True, now_s=NOW)
    assert whole.status_code == 422
    assert [event.item_id for event in stored(client)] == [3]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "events"),
        ({"events": []}, "events"),
        ({"events": [click(item_id=i % 50, event_id=str(i)) for i in range(501)]}, "events"),
        ({"events": [click()], "atomic": 1}, "atomic"),
        ({"events": [click()], "more": 1}, "more"),
        ([click()], "body"),
    ],
)
async def test_a_request_that_is_none_is_refused_whole(
    server: RedisProcess, client: Any, tmp_path: Path, body: Any, field: str
) -> None:
    async with gateway(server, tmp_path) as http:
        answer = await http.post("/v1/events", json=body)
    assert answer.status_code == 422
    assert [one["field"] for one in answer.json()["errors"]] == [field]
    assert stored(client) == []


async def test_500_events_are_taken_at_once_and_ten_megabytes_are_not(
    server: RedisProcess, client: Any, tmp_path: Path
) -> None:
    events = [click(user, item) for user in range(50) for item in range(10)]
    async with gateway(server, tmp_path) as http:
        answer = await http.post("/v1/events", json={"events": events})
        huge = await http.post("/v1/events", json={"events": [click(event_id="e" * 10_000_000)]})
    assert answer.json()["accepted"] == len(stored(client)) == 500
    assert huge.status_code == 413
    assert "send at most 1048576 bytes" in huge.json()["detail"]


async def test_unknown_users_and_items_are_kept_or_refused_by_a_setting_and_counted(
    server: RedisProcess, client: Any, tmp_path: Path
) -> None:
    async with gateway(server, tmp_path, unknown_users="refuse", unknown_items="keep") as http:
        answer = await http.post("/v1/events", json={"events": [click(99), click(item_id=77), click()]})
        counted = (await http.get("/metrics")).text
    assert [(one["index"], one["field"]) for one in answer.json()["errors"]] == [(0, "user_id")]
    assert answer.json()["accepted"] == len(stored(client)) == 2
    assert 'shortlist_events_unknown_total{kind="user",outcome="refused"} 1.0' in counted
    assert 'shortlist_events_unknown_total{kind="item",outcome="kept"} 1.0' in counted
    assert 'shortlist_events_refused_total{reason="unknown_user"} 1.0' in counted


async def test_ids_that_are_text_are_kept_as_they_are(
    server: RedisProcess, client: Any, tmp_path: Path
) -> None:
    client.hset(feature_key(ITEM_ID, number_of("Æ 3", "string"), DATASET), AVAILABILITY_FIELD, b"\x38\x01")
    answer = await post(server, tmp_path, click("anna@example.org", "Æ 3"), click(7, "Æ 3"), text=True)
    assert answer.json()["accepted"] == 1
    assert "must be a string" in answer.json()["errors"][0]["message"]
    (event,) = stored(client)
    assert (event.user_id, event.item_id) == ("anna@example.org", "Æ 3")


async def test_a_redis_that_is_away_is_503_with_retry_after(unused_port: int, tmp_path: Path) -> None:
    answer = await post(RedisProcess(unused_port, tmp_path), tmp_path, click())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["dependency"] == "redis"


async def test_a_full_redis_is_503_and_takes_all_or_nothing(
    server: RedisProcess, client: Any, tmp_path: Path
) -> None:
    client.config_set("maxmemory", 1)
    answer = await post(server, tmp_path, click(), click(8))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    client.config_set("maxmemory", 0)
    assert stored(client) == []


async def test_too_many_that_wait_are_429_with_retry_after(
    server: RedisProcess, client: Any, tmp_path: Path
) -> None:
    async with gateway(server, tmp_path, most_waiting=PARTITIONS) as http:
        first = await http.post("/v1/events", json={"events": [click(event_id="1")]})
        second = await http.post("/v1/events", json={"events": [click(event_id="2"), click(8)]})
        counted = (await http.get("/metrics")).text
    assert (first.status_code, second.status_code) == (202, 429)
    assert second.headers["retry-after"] == "5"
    assert "events or more wait already, for their effect or for the archive" in second.json()["detail"]
    assert len(stored(client)) == 1
    assert 'shortlist_events_refused_total{reason="backlog"} 1.0' in counted


async def test_more_requests_than_may_wait_for_redis_at_once_are_503(
    server: RedisProcess, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.events.intake.MOST_AT_ONCE", 1)
    async with gateway(server, tmp_path, synced=True) as http:
        both = [http.post("/v1/events", json={"events": [click(event_id=str(n))]}) for n in range(2)]
        statuses = sorted(answer.status_code for answer in await asyncio.gather(*both))
    assert statuses == [202, 503]
    assert len(stored(client)) == 1


async def test_accepted_is_on_the_disk_where_the_setting_says_so(
    server: RedisProcess, client: Any, tmp_path: Path
) -> None:
    answer = await post(server, tmp_path, click(event_id="d"), synced=True)
    again = await post(server, tmp_path, click(event_id="d"), synced=True)
    assert (answer.json()["accepted"], again.json()["duplicates"]) == (1, 1)
    client.config_set("appendonly", "no")
    try:
        refused = await post(server, tmp_path, click(event_id="e"), synced=True)
    finally:
        client.config_set("appendonly", "yes")
    assert refused.status_code == 503, "a Redis without its file keeps nothing"


async def test_the_rights_that_the_documentation_lists_suffice(
    server: RedisProcess, client: Any, tmp_path: Path
) -> None:
    guarded = RedisProcess(server.port, tmp_path)
    guarded.url = as_user(server.url)
    async with gateway(guarded, tmp_path, synced=True) as http:
        answer = await http.post("/v1/events", json={"events": [click()]})
        counted = _metrics((await http.get("/metrics")).text)
    assert answer.json()["accepted"] == len(stored(client)) == 1
    assert counted["shortlist_event_lag"] == 1


async def test_how_far_the_consumer_is_behind_is_a_metric(
    server: RedisProcess, client: Any, tmp_path: Path
) -> None:
    async with gateway(server, tmp_path) as http:
        await http.post("/v1/events", json={"events": [click(user) for user in range(40)]})
        before = _metrics((await http.get("/metrics")).text)
        done = event_stream_key(DATASET, partition_of(7))
        client.xgroup_create(done, GROUP, "$", entries_read=client.xlen(done))
        after = _metrics((await http.get("/metrics")).text)
    assert before["shortlist_event_lag"] == before["shortlist_event_backlog"] == 40
    assert 0 <= before["shortlist_event_lag_seconds"] < 60
    assert after["shortlist_event_lag"] == 40 - client.xlen(done)
    assert after["shortlist_event_backlog"] == 40


def _metrics(text: str) -> dict[str, float]:
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("shortlist_event_"))
    return {name: float(value) for name, value in lines}
