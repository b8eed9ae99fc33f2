"""Items and users over a real Redis: what is asked for lies in the stream, what is wrong is told by place,
column and remedy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from contract.feast import AVAILABILITY_FIELD, feature_key
from contract.ids import number_of_text
from contract.keys import (
    catalogue_reply_key,
    catalogue_stream_key,
    encode_card,
    item_card_key,
    live_changes_key,
    live_items_key,
    live_version_key,
)
from contract.live_catalogue import FIELD, FORGET, PUT, SHOW, TAKE_OUT, Change, decode_change
from contract.names import ITEM_ID
from service.catalogue import intake
from service.live_items import LiveItemsFollower
from service.main import build_app
from service.own_ids import OwnIds
from service.store.redis_store import RedisStore
from service.variant import Variant
from tests.builders.gateway import (
    TEXT_IDS,
    FakeEnsemble,
    client_of,
    make_settings,
    make_store,
    text_of,
    variant_of,
    write_bundle,
)
from tests.builders.ports import free_port
from tests.contract.gateway.conftest import RedisProcess

pytestmark = pytest.mark.anyio

STREAM = catalogue_stream_key("synthetic")
COLUMNS = """
name: synthetic
users: {user_id: {role: id, dtype: DTYPE}}
items:
  item_id: {role: id, dtype: DTYPE}
  item_title: {role: display_name}
  item_genre: {role: categorical, dtype: string, is_filterable: true}
  item_year: {role: numeric, dtype: int64}
  item_price: {role: numeric}
  item_tags: {role: list}
  item_picture: {role: embedding, max_length: 3}
  item_is_there: {role: availability}
interactions:
  user_id: {role: id, dtype: DTYPE}
  item_id: {role: id, dtype: DTYPE}
  at: {role: timestamp}
  is_click: {role: label}
"""
ROW: dict[str, Any] = {
    "item_id": 900,
    "item_title": "New",
    "item_genre": "drama",
    "item_year": 2026,
    "item_price": 3,
    "item_tags": [1, 2],
    "item_picture": [0.5, 1, -1],
    "item_is_there": True,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    process = RedisProcess(free_port(), tmp_path_factory.mktemp("redis"))
    process.start()
    yield process
    process.stop()


@pytest.fixture
def client(server: RedisProcess) -> Iterator[Any]:
    made = redis.Redis(port=server.port)
    made.flushall()
    yield made
    made.close()


def gateway(url: Any, folder: Path, *, text: bool = False, **events: Any) -> Any:
    settings = make_settings(redis_url=url, events={"synced": False, **events})
    write_bundle(folder, **(TEXT_IDS if text else {}))
    (folder / "dataset.yaml").write_text(COLUMNS.replace("DTYPE", "string" if text else "int64"))
    return client_of(build_app(settings, Variant.read(folder, settings, FakeEnsemble(), make_store())))


@pytest.mark.usefixtures("client")
async def test_the_description_names_the_columns(server: RedisProcess, tmp_path: Path) -> None:
    async with gateway(server.url, tmp_path) as http:
        schemas = (await http.get("/openapi.json")).json()["components"]["schemas"]
    item = schemas["ItemsRequest"]["properties"]["items"]["items"]
    assert item["properties"]["item_title"]["anyOf"][0]["maxLength"] == 1000
    assert (item["required"], item["additionalProperties"]) == (["item_id"], False)
    assert item["properties"].keys() == ROW.keys()
    year, picture = (item["properties"][name]["anyOf"][0] for name in ("item_year", "item_picture"))
    assert year == {"type": "integer", "minimum": -(2**53), "maximum": 2**53}
    assert (picture["minItems"], picture["maxItems"]) == (3, 3)


async def send(
    server: RedisProcess, folder: Path, method: str, path: str, *, text: bool = False, **sent: Any
) -> httpx.Response:
    async with gateway(server.url, folder, text=text) as http:
        answer: httpx.Response = await http.request(method, path, **sent)
        return answer


def changes(client: Any) -> list[Change]:
    return [decode_change(one.decode(), fields[FIELD.encode()]) for one, fields in client.xrange(STREAM)]


async def test_items_lie_in_the_stream_whole(server: RedisProcess, client: Any, tmp_path: Path) -> None:
    row = ROW | {"item_title": "\u05d0" * 1000}
    answer = await send(server, tmp_path, "PUT", "/v1/items", json={"items": [row, {"item_id": 901}]})
    assert (answer.status_code, answer.json()["accepted"]) == (202, 2)
    (change,) = changes(client)
    nothing = dict.fromkeys(ROW) | {"item_id": 901}
    assert (change.kind, change.content) == (PUT, {"900": row, "901": nothing})


@pytest.mark.parametrize(
    ("item", "field", "message"),
    [
        ({**ROW, "item_titel": "x"}, "item_titel", "items: is it item_title? Send some of item_id, "),
        ({**ROW, "mass": 1}, "mass", "is no column of this data set's items: send some of item_id, "),
        ({**ROW, "x" * 5000: 1}, "x" * 64, "is no column of this data set's items: send some of item_id, "),
        ({"item_title": "x"}, "item_id", "is missing"),
        ({**ROW, "item_id": "900"}, "item_id", "must be an integer"),
        ({**ROW, "item_genre": 5}, "item_genre", "must hold string values: 5 is not"),
        ({**ROW, "item_title": "x" * 1001}, "item_title", "a text of 1001 characters: send at most 1000"),
        ({**ROW, "item_year": 2026.5}, "item_year", "must hold int64 values"),
        ({**ROW, "item_year": 2**53 + 1}, "item_year", "must be from"),
        ({**ROW, "item_price": "cheap"}, "item_price", "must hold float32 values"),
        ({**ROW, "item_price": 1e30}, "item_price", "must be from -1e+18 to 1e+18"),
        ({**ROW, "item_tags": 1}, "item_tags", "must be a list of dtype int64"),
        ({**ROW, "item_tags": [1, "a"]}, "item_tags", "'a' is not of that dtype"),
        ({**ROW, "item_picture": [1, 2]}, "item_picture", "must hold 3 numbers, this has 2"),
        ({**ROW, "item_is_there": 1}, "item_is_there", "must hold bool values"),
    ],
)
async def test_a_wrong_column_or_value_is_told_and_refuses_all(
    server: RedisProcess, client: Any, tmp_path: Path, item: dict[str, Any], field: str, message: str
) -> None:
    answer = await send(server, tmp_path, "PUT", "/v1/items", json={"items": [{"item_id": 1}, item]})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["index"], error["field"]) == (1, field)
    assert message in error["message"]
    assert changes(client) == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"items": []}, "at least 1 item"),
        ({"items": [{"item_id": 1}] * 501}, "at most 500 items"),
        ({"items": [{"item_id": 1}, {"item_id": 1}]}, "send each item once"),
        ({"item": {}}, "is missing: send it"),
        ([], "must be a JSON object"),
    ],
)
async def test_what_is_no_list_of_items_is_refused(
    server: RedisProcess, client: Any, tmp_path: Path, body: Any, said: str
) -> None:
    answer = await send(server, tmp_path, "PUT", "/v1/items", json=body)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert changes(client) == []


@pytest.mark.usefixtures("client")
async def test_others_have_their_turn_while_many_items_are_checked(
    server: RedisProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked, seen = 0, set[int]()

    def check(item: dict[str, Any], _: object) -> tuple[int, dict[str, Any]]:
        nonlocal checked
        checked += 1
        return item["item_id"], item

    async def look() -> None:
        while True:
            seen.add(checked)
            await asyncio.sleep(0)

    monkeypatch.setattr(intake, "check_row", check)
    other = asyncio.create_task(look())
    items = [{"item_id": at} for at in range(100)]
    answer = await send(server, tmp_path, "PUT", "/v1/items", json={"items": items})
    other.cancel()
    assert answer.status_code == 202
    assert len(seen) > 5, seen


async def test_an_item_goes_and_a_user_is_forgotten_by_id(
    server: RedisProcess, client: Any, tmp_path: Path
) -> None:
    async with gateway(server.url, tmp_path) as http:
        answers = [await http.delete(f"/v1/{path}") for path in ("items/900", "users/-7", "users/x")]
    assert [one.status_code for one in answers] == [202, 202, 422]
    assert [(one.kind, one.content) for one in changes(client)] == [(TAKE_OUT, "900"), (FORGET, "-7")]


async def test_texts_become_numbers_and_stand_in_the_row(
    server: RedisProcess, client: Any, tmp_path: Path
) -> None:
    own = "a/new item"
    async with gateway(server.url, tmp_path, text=True) as http:
        put = await http.put("/v1/items", json={"items": [{"item_id": own}]})
        gone = await http.delete("/v1/items/a%2Fnew%20item")
    assert (put.status_code, gone.status_code) == (202, 202)
    first, second = changes(client)
    number = str(number_of_text(own))
    assert first.content[number]["item_id"] == own
    assert second.content == number


async def test_what_the_consumer_tells_of_a_user_is_answered(
    server: RedisProcess, client: Any, tmp_path: Path
) -> None:
    note = {"request_id": "r", "at_s": 1.0, "bundle": "b", "item_ids": [4]}
    held: dict[str, Any] = {
        "features": {"user_age": 5},
        "seen": [3, 4],
        "slates": [{"run": "r1", "item_ids": [4, 5]}],
        "events": {"waiting": [{"item_id": 3, "is_click": 1}], "archived": []},
        "shown": {"waiting": [], "archived": [note]},
    }

    async def consume() -> None:
        while not (found := changes(client)):
            await asyncio.sleep(0.01)
        assert (found[0].kind, found[0].content) == (SHOW, "7")
        client.set(catalogue_reply_key("synthetic", found[0].change_id), json.dumps(held))

    async with gateway(server.url, tmp_path) as http, asyncio.TaskGroup() as group:
        group.create_task(consume())
        answer = await http.get("/v1/users/7")
    body = answer.json()
    assert answer.status_code == 200
    assert body == {"request_id": body["request_id"], "user_id": 7} | held
    assert [*client.scan_iter("catalogue_reply:*")] == []


async def test_what_is_held_names_items_as_the_caller_does(
    server: RedisProcess, client: Any, tmp_path: Path
) -> None:
    nothing: dict[str, Any] = {"waiting": [], "archived": []}
    features = {"user_recent_item_ids": [4, 3], "user_recent_positive_item_ids": None, "user_age": 5}
    held = {"features": features, "seen": [3], "slates": [], "events": nothing, "shown": nothing}

    async def consume() -> None:
        while not (found := changes(client)):
            await asyncio.sleep(0.01)
        client.set(catalogue_reply_key("synthetic", found[0].change_id), json.dumps(held))

    async with gateway(server.url, tmp_path, text=True) as http, asyncio.TaskGroup() as group:
        group.create_task(consume())
        body = (await http.get("/v1/users/anna@example.org")).json()
    assert body["features"] == features | {"user_recent_item_ids": [text_of(4), text_of(3)]}
    assert body["seen"] == [text_of(3)]


async def test_without_a_consumer_or_redis_the_answer_is_503(
    server: RedisProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "PATIENCE_S", 0.1)
    answer = await send(server, tmp_path, "GET", "/v1/users/7")
    assert (answer.status_code, "consumer" in answer.json()["detail"]) == (503, True)
    nowhere = type(server.url)(f"redis://127.0.0.1:{free_port()}")
    async with gateway(nowhere, tmp_path) as http:
        refused = await http.put("/v1/items", json={"items": [ROW]})
    assert (refused.status_code, "retry-after" in refused.headers) == (503, True)


async def test_too_many_changes_that_wait_are_429_with_retry_after(
    server: RedisProcess, client: Any, tmp_path: Path
) -> None:
    async with gateway(server.url, tmp_path, most_changes=2) as http:
        taken = [await http.put("/v1/items", json={"items": [{"item_id": 1}]}) for _ in range(2)]
        refused = [
            await http.put("/v1/items", json={"items": [{"item_id": 2}]}),
            await http.delete("/v1/items/2"),
            await http.delete("/v1/users/2"),
            await http.get("/v1/users/2"),
        ]
    assert [one.status_code for one in taken] == [202, 202]
    assert [one.status_code for one in refused] == [429] * 4
    assert {one.headers["retry-after"] for one in refused} == {"5"}
    assert "2 changes of items and users or more wait" in refused[0].json()["detail"]
    assert len(changes(client)) == 2


async def test_events_on_an_item_that_was_taken_out_are_refused_once_the_gateway_has_heard_of_it(
    server: RedisProcess, client: Any, tmp_path: Path
) -> None:
    async def status_of_a_click(number: int) -> int:
        event = {"user_id": 7, "item_id": 3, "type": "click", "event_id": str(number)}
        return int((await http.post("/v1/events", json={"events": [event]})).status_code)

    client.hset(feature_key(ITEM_ID, 3, "synthetic"), AVAILABILITY_FIELD, b"\x38\x01")
    settings = make_settings(redis_url=server.url, events={"synced": False, "unknown_items": "refuse"})
    write_bundle(tmp_path)
    store = RedisStore(server.url, "b1", 1.0, 100, dataset="synthetic")
    async with client_of(
        build_app(settings, Variant.read(tmp_path, settings, FakeEnsemble(), store))
    ) as http:
        assert await status_of_a_click(0) == 202
        client.delete(feature_key(ITEM_ID, 3, "synthetic"))
        client.hset(live_items_key("synthetic"), 3, "")
        client.zadd(live_changes_key("synthetic"), {"3": 1})
        client.set(live_version_key("synthetic"), 1)
        statuses: list[int] = []
        while statuses[-1:] != [422] and len(statuses) < 100:
            await asyncio.sleep(0.05)
            statuses.append(await status_of_a_click(len(statuses) + 1))
    assert statuses[-1] == 422


async def test_a_gateway_hears_the_names_of_new_items_and_reads_changed_cards_anew(
    server: RedisProcess, client: Any
) -> None:
    store = RedisStore(server.url, "b1", 1.0, 100, dataset="synthetic")
    await store.open()
    variant = replace(variant_of(store), ids=OwnIds("string", "string", lambda _: None), changed=set())
    dropped: list[int] = []
    follower = LiveItemsFollower(lambda: [variant], dropped.extend)
    number = number_of_text("new")
    client.set(item_card_key("b1", number), encode_card({"item_title": "Old"}))
    assert await store.cards([number], 1) == {number: {"item_title": "Old"}}
    await follower.look()
    assert (variant.ids.item(number), variant.changed) == (None, set())
    client.set(item_card_key("b1", number), encode_card({"item_title": "New"}))
    client.hset(live_items_key("synthetic"), number, json.dumps({"item_id": "new"}))
    client.hset(live_items_key("synthetic"), 5, "")
    client.zadd(live_changes_key("synthetic"), {str(number): 1, "5": 2})
    client.set(live_version_key("synthetic"), 2)
    await follower.look()
    assert (variant.ids.item(number), variant.ids.item(5), variant.changed) == ("new", None, {number, 5})
    assert await store.cards([number], 1) == {number: {"item_title": "New"}}
    assert sorted(dropped) == sorted([number, 5])
    await store.close()
