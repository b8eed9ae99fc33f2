"""The client: what it sends, what it makes of the answer, and when it asks again."""

from __future__ import annotations

import ast
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

import shortlist
from shortlist import AsyncClient, Client, Retries
from shortlist.__main__ import main
from tests.builders.gateway import make_app

pytestmark = pytest.mark.anyio

ANSWER = {
    "request_id": "r1",
    "user_id": 7,
    "items": [{"item_id": 3, "score": 0.5, "source": "popular", "item_name": "three", "later": [1]}],
    "source": "popular",
    "degraded": ["ensemble_late"],
    "bundle": "b-1",
    "timings_ms": {"total": 4.5},
    "unheard_of": True,
}
PROBLEM = {"title": "Service Unavailable", "status": 503, "detail": "too many: try again in 1 s"}
Reply = httpx.Response | Exception


def answers(*replies: Reply) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """Gives the replies in turn, the last one for ever; and the list of what was asked."""
    asked: list[httpx.Request] = []

    def reply(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        given = replies[min(len(asked), len(replies)) - 1]
        if isinstance(given, Exception):
            raise given
        return httpx.Response(given.status_code, headers=given.headers, content=given.content)

    return httpx.MockTransport(reply), asked


def busy(**headers: str) -> httpx.Response:
    return httpx.Response(503, json=PROBLEM, headers=headers)


def ok() -> httpx.Response:
    return httpx.Response(200, json=ANSWER)


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s, self.slept = 1000.0, list[float]()

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("shortlist.client._Caller._now_s", staticmethod(made))
    monkeypatch.setattr(Client, "_sleep", staticmethod(made.sleep))
    monkeypatch.setattr(AsyncClient, "_sleep", staticmethod(made.sleep_async))
    return made


Ask = Callable[..., tuple[Any, list[httpx.Request]]]


def ask_sync(replies: Sequence[Reply], **settings: Any) -> tuple[Any, list[httpx.Request]]:
    transport, asked = answers(*replies)
    with Client("http://gateway", transport=transport, **settings) as client:
        try:
            return client.recommend(7, n=1), asked
        except shortlist.ShortlistError as error:
            return error, asked


def ask_async(replies: Sequence[Reply], **settings: Any) -> tuple[Any, list[httpx.Request]]:
    transport, asked = answers(*replies)

    async def ask() -> Any:
        async with AsyncClient("http://gateway", transport=transport, **settings) as client:
            try:
                return await client.recommend(7, n=1)
            except shortlist.ShortlistError as error:
                return error

    return asyncio.run(ask()), asked


both = pytest.mark.parametrize("ask", [ask_sync, ask_async])


@both
def test_the_answer_is_typed_and_whole(ask: Ask) -> None:
    answer, asked = ask([ok()])
    assert (answer.item_ids, answer.items[0].score, answer.items[0].source) == ([3], 0.5, "popular")
    assert answer.items[0].fields == {"item_name": "three", "later": [1]}
    assert (answer.source, answer.degraded) == ("popular", ("ensemble_late",))
    assert answer.document == ANSWER
    assert json.loads(asked[0].content) == {"user_id": 7, "n": 1}


@both
def test_what_may_go_well_a_moment_later_is_asked_again_with_the_same_id(ask: Ask, clock: Clock) -> None:
    answer, asked = ask([busy(), httpx.Response(429, json=PROBLEM), httpx.ConnectError("refused"), ok()])
    assert answer.item_ids == [3]
    assert len(asked) == 4
    assert len({request.headers["x-request-id"] for request in asked}) == 1
    assert len({request.content for request in asked}) == 1
    bounds = (0.05, 0.1, 0.2)
    assert all(0 <= slept <= most for slept, most in zip(clock.slept, bounds, strict=True))


@both
@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500, 502, 504])
def test_what_another_try_cannot_mend_is_asked_once(ask: Ask, status: int, clock: Clock) -> None:
    error, asked = ask([httpx.Response(status, json={"detail": "no"}), ok()])
    assert isinstance(error, shortlist.Refused)
    assert (error.status, error.detail, len(asked), clock.slept) == (status, "no", 1, [])


@both
def test_no_more_tries_than_allowed(ask: Ask) -> None:
    error, asked = ask([busy()], retries=Retries(attempts=3))
    assert isinstance(error, shortlist.Overloaded)
    assert (len(asked), error.attempts) == (3, 3)
    assert error.request_id == asked[0].headers["x-request-id"]


@both
def test_retry_after_is_waited_for(ask: Ask, clock: Clock) -> None:
    answer, _ = ask([busy(**{"retry-after": "3"}), ok()], timeout_s=10)
    assert answer.item_ids == [3]
    assert 3 <= clock.slept[0] <= 3.05


@both
def test_retry_after_as_a_date_is_waited_for(ask: Ask, clock: Clock) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    answer, _ = ask([busy(**{"retry-after": until}), ok()], timeout_s=100)
    assert answer.item_ids == [3]
    assert 50 < clock.slept[0] < 61


@both
def test_a_pause_longer_than_what_is_left_is_not_begun(ask: Ask, clock: Clock) -> None:
    error, asked = ask([busy(**{"retry-after": "3"}), ok()], timeout_s=2)
    assert isinstance(error, shortlist.Overloaded)
    assert (error.retry_after_s, len(asked), clock.slept) == (3, 1, [])


@both
def test_all_tries_together_stay_within_the_budget(ask: Ask, clock: Clock) -> None:
    retries = Retries(attempts=1000, first_s=0.5, most_s=0.5)
    error, asked = ask([busy()], timeout_s=5, retries=retries)
    assert isinstance(error, shortlist.Overloaded)
    assert sum(clock.slept) < 5
    assert 5 < len(asked) < 1000
    times = [request.extensions["timeout"]["read"] for request in asked]
    assert times == sorted(times, reverse=True)
    assert times[0] == 5


@both
def test_an_answer_that_does_not_come_is_not_waited_for_twice(ask: Ask) -> None:
    error, asked = ask([httpx.ReadTimeout("slow"), ok()])
    assert isinstance(error, shortlist.OutOfTime)
    assert len(asked) == 1


async def test_a_server_that_drips_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def drip(request: httpx.Request) -> httpx.Response:
        del request
        await asyncio.sleep(30)
        return ok()

    monkeypatch.setattr("shortlist.client._Caller._now_s", staticmethod(asyncio.get_running_loop().time))
    async with AsyncClient("http://gateway", transport=httpx.MockTransport(drip), timeout_s=0.05) as client:
        with pytest.raises(shortlist.OutOfTime, match=r"0\.05 s"):
            await client.recommend(7)


@both
def test_a_connection_that_fails_says_where_to(ask: Ask) -> None:
    error, asked = ask([httpx.ConnectError("refused")], retries=Retries(attempts=2))
    assert isinstance(error, shortlist.Unreachable)
    assert "gateway" in str(error)
    assert len(asked) == 2


@both
def test_the_wrong_fields_of_a_problem_are_told(ask: Ask) -> None:
    errors = [{"field": "n", "message": "must be 1 or more"}]
    error, _ = ask([httpx.Response(422, json={"detail": "n must be 1 or more", "errors": errors})])
    assert isinstance(error, shortlist.WrongRequest)
    assert error.fields == {"n": "must be 1 or more"}


@both
@pytest.mark.parametrize("content", [b"<html>welcome</html>", b"[]", b'{"items": 1}', b"null"])
def test_an_answer_of_another_server_is_named(ask: Ask, content: bytes) -> None:
    error, asked = ask([httpx.Response(200, content=content)])
    assert isinstance(error, shortlist.NotUnderstood)
    assert len(asked) == 1


@both
def test_a_proxys_own_words_are_told(ask: Ask) -> None:
    error, _ = ask([httpx.Response(502, content=b"<html>bad gateway</html>")])
    assert isinstance(error, shortlist.GatewayFailed)
    assert "bad gateway" in error.detail


def test_the_key_is_sent_and_in_no_message() -> None:
    transport, asked = answers(httpx.Response(401, json={"detail": "a known key is needed"}))
    with Client("http://gateway", api_key="shortlist_secret\n", transport=transport) as client:
        with pytest.raises(shortlist.UnknownCaller) as error:
            client.bundle()
        assert asked[0].headers["authorization"] == "Bearer shortlist_secret"
        assert "secret" not in f"{error.value!r} {client!r}"
    with pytest.raises(ValueError, match="api_key") as wrong:
        Client("http://gateway", api_key="secret\nx: y")
    assert "secret" not in str(wrong.value)


@pytest.mark.parametrize("url", ["localhost:8080", "gateway", "ftp://gateway"])
def test_an_address_without_http_is_refused_with_the_remedy(url: str) -> None:
    with pytest.raises(ValueError, match="begin it with http://"):
        Client(url)


def test_an_id_that_the_gateway_would_replace_is_refused() -> None:
    transport, asked = answers(ok())
    with Client("http://gateway", transport=transport) as client:
        client.recommend(7, request_id="mine-1")
        with pytest.raises(ValueError, match="request_id"):
            client.recommend(7, request_id="no spaces")
    assert [request.headers["x-request-id"] for request in asked] == ["mine-1"]


@pytest.mark.parametrize("user_id", ["a/b?c#d", "ü ser", "..", "7%2F"])
def test_a_text_id_stays_one_part_of_the_path(user_id: str) -> None:
    transport, asked = answers(
        httpx.Response(200, json={"user_id": 7, "total": 0, "items": [], "degraded": []})
    )
    with Client("http://gateway", transport=transport) as client:
        client.seen(user_id)
    path = asked[0].url.raw_path.partition(b"?")[0].decode()
    assert path.count("/") == 4
    assert unquote(path.split("/")[3]) == user_id


async def test_the_real_app_is_understood(tmp_path: Path) -> None:
    transport = httpx.ASGITransport(make_app(tmp_path))
    async with AsyncClient("http://gateway", transport=transport) as client:
        answer = await client.recommend(7, n=3, explain=True, exclude_item_ids=(2,), request_id="mine")
        history = await client.seen(7, limit=2)
        bundle = await client.bundle()
        alike = await client.similar(5, n=2, user_id=7)
        session = await client.recommend(n=2, user_features={"user_recent_item_ids": [4]})
        with pytest.raises(shortlist.WrongRequest) as wrong:
            await client.recommend(7, n=0)
    assert (answer.request_id, answer.source, len(answer.items)) == ("mine", "ensemble", 3)
    assert answer.items[0].fields["item_title"]
    assert answer.explain is not None
    assert [trace.slate_rank for trace in answer.explain if trace.item_id == answer.item_ids[0]] == [1]
    assert [item["item_id"] for item in history.items] == [3, 1]
    assert bundle.display == ("item_title", "item_genre")
    assert (len(alike.items), alike.document["item_id"]) == (2, 5)
    assert (len(session.items), session.document["user_id"]) == (2, None)
    assert set(wrong.value.fields) == {"n"}


def test_the_command_prints_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transport, asked = answers(ok())
    real = httpx.Client.__init__
    monkeypatch.setattr(httpx.Client, "__init__", lambda *a, **k: real(*a, **k | {"transport": transport}))
    monkeypatch.setenv("SHORTLIST_API_KEY", "shortlist_key")
    filters = '{"item_genre": ["drama"]}'
    assert main(["recommend", "--user", "7", "-n", "3", "--exclude", "1", "b", "--filters", filters]) == 0
    assert json.loads(asked[0].content) == {
        "user_id": 7,
        "n": 3,
        "exclude_item_ids": [1, "b"],
        "filters": {"item_genre": ["drama"]},
    }
    assert asked[0].headers["authorization"] == "Bearer shortlist_key"
    printed = capsys.readouterr().out
    assert "three" in printed
    assert "lacks: ensemble_late" in printed
    assert main(["recommend", "--user", '"7"', "--json"]) == 0
    assert json.loads(asked[1].content)["user_id"] == "7"
    assert json.loads(capsys.readouterr().out) == ANSWER


def test_the_command_asks_for_items_like_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transport, asked = answers(ok())
    real = httpx.Client.__init__
    monkeypatch.setattr(httpx.Client, "__init__", lambda *a, **k: real(*a, **k | {"transport": transport}))
    assert main(["similar", "--item", "5", "-n", "3"]) == 0
    assert (asked[0].url.path, json.loads(asked[0].content)) == ("/v1/similar", {"item_id": 5, "n": 3})
    assert "three" in capsys.readouterr().out


def test_the_command_says_why_there_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transport, _ = answers(httpx.Response(422, json={"detail": "n must be 1 or more"}))
    real = httpx.Client.__init__
    monkeypatch.setattr(httpx.Client, "__init__", lambda *a, **k: real(*a, **k | {"transport": transport}))
    assert main(["recommend", "--user", "7"]) == 1
    assert "n must be 1 or more" in capsys.readouterr().err
    assert main(["--url", "localhost:1", "recommend", "--user", "7"]) == 2
    assert "begin it with http://" in capsys.readouterr().err


def test_it_imports_httpx_alone() -> None:
    imported = set()
    for file in Path(shortlist.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    assert imported - sys.stdlib_module_names == {"httpx", "shortlist"}


def test_several_users_are_asked_for_at_once_and_pages_go_on() -> None:
    document = {"request_id": "mine", "answers": [ANSWER, ANSWER | {"next": "abc"}]}
    transport, asked = answers(*[httpx.Response(200, json=document)] * 2)
    requests: list[dict[str, Any]] = [
        {"user_id": 7, "n": 1},
        {"user_id": 8, "exclude_item_ids": (1, 2), "after": "xyz"},
    ]

    async def ask() -> list[shortlist.Answer]:
        async with AsyncClient("http://gateway", transport=transport) as client:
            return await client.recommend_many(requests)

    with Client("http://gateway", transport=transport) as client:
        found = client.recommend_many(requests)
    assert found == asyncio.run(ask())
    assert [answer.next for answer in found] == [None, "abc"]
    assert [answer.item_ids for answer in found] == [[3], [3]]
    assert {request.url.path for request in asked} == {"/v1/recommendations/many"}
    sent = json.loads(asked[0].content)
    assert sent == {"requests": [requests[0], requests[1] | {"exclude_item_ids": [1, 2]}]}


def test_events_are_named_so_that_all_tries_count_once() -> None:
    taken = {"request_id": "r", "accepted": 1, "duplicates": 1, "refused": 0, "errors": []}
    transport, asked = answers(busy(**{"retry-after": "0"}), httpx.Response(202, json=taken))
    events = [{"user_id": 7, "item_id": 3, "type": "click"}, {"user_id": 7, "item_id": 4, "event_id": "mine"}]
    with Client(transport=transport, retries=Retries(first_s=0.001)) as client:
        outcome = client.send_events(events)
    assert (outcome.accepted, outcome.duplicates, outcome.refused, outcome.errors) == (1, 1, 0, ())
    first, second = (json.loads(request.content)["events"] for request in asked)
    assert first == second
    assert first[1]["event_id"] == "mine"
    assert len(first[0]["event_id"]) == 32


def test_items_and_users_are_put_told_and_taken_out() -> None:
    accepted = httpx.Response(202, json={"request_id": "r", "accepted": 1})
    held = {"request_id": "r", "user_id": "a/b", "features": {}, "seen": []}
    transport, asked = answers(accepted, accepted, httpx.Response(200, json=held), accepted)
    with Client(transport=transport) as client:
        client.put_items([{"item_id": 3, "item_title": "Three"}])
        client.delete_item(3)
        assert client.user("a/b") == held
        client.delete_user("..")
    assert [(one.method, one.url.raw_path.decode()) for one in asked] == [
        ("PUT", "/v1/items"),
        ("DELETE", "/v1/items/3"),
        ("GET", "/v1/users/a%2Fb"),
        ("DELETE", "/v1/users/%2E%2E"),
    ]
    assert json.loads(asked[0].content) == {"items": [{"item_id": 3, "item_title": "Three"}]}
