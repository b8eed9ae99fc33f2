"""Several users in one request: an answer each, in order, by the one way that answers are made."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.errors import ErrorCode, StageError
from contract.tensors import FULL_QUALITY
from service.http.layers import MANY
from service.schemas import MAX_USERS, ManyResponse
from service.slates.answer import AT_ONCE
from tests.builders.gateway import FakeEnsemble, ask, client_of, make_app, make_store, make_stored

pytestmark = pytest.mark.anyio


async def many(app: Any, *requests: dict[str, Any], **more: Any) -> httpx.Response:
    return await ask(app, MANY, requests=list(requests), **more)


async def test_every_user_gets_the_answer_of_the_route_for_one(tmp_path: Path) -> None:
    app = make_app(tmp_path, store=make_store(slates=[(9, make_stored([300, 301, 302]))]))
    requests: list[dict[str, Any]] = [
        {"user_id": 8, "n": 3},
        {"user_id": 7, "n": 2, "explain": True},
        {"user_id": 9, "n": 2, "source": "batch"},
        {"user_id": 8, "n": 4, "exclude_item_ids": [208]},
        {"user_id": 2000, "n": 1, "filters": {"item_genre_id": {"not": [0]}}},
    ]
    async with client_of(app) as client:
        response = await client.post(MANY, json={"requests": requests}, headers={"x-request-id": "mine"})
        alone = [(await client.post("/v1/recommendations", json=one)).json() for one in requests]
    assert response.status_code == 200
    document = response.json()
    ManyResponse.model_validate(document)
    assert document["request_id"] == "mine"
    assert [one["request_id"] for one in document["answers"]] == [f"mine:{i}" for i in range(5)]
    own = ("request_id", "timings_ms", "age_s", "next")
    for together, one in zip(document["answers"], alone, strict=True):
        assert {k: v for k, v in together.items() if k not in own} == {
            k: v for k, v in one.items() if k not in own
        }
    assert "total;dur=" in response.headers["server-timing"]


async def test_they_are_asked_for_at_the_same_time_and_within_one_budget(tmp_path: Path) -> None:
    ensemble = FakeEnsemble(wait_s=0.2)
    app = make_app(tmp_path, ensemble, latency_budget_ms=1000, reserve_ms=300)
    users = [{"user_id": 100 + i, "n": 1} for i in range(MAX_USERS)]
    document = (await many(app, *users)).json()
    assert [one["user_id"] for one in document["answers"]] == [one["user_id"] for one in users]
    sources = [one["source"] for one in document["answers"]]
    assert sources[:AT_ONCE] == ["ensemble"] * AT_ONCE
    assert sources[-1] == "popular", "the budget is over by then"
    assert document["answers"][-1]["degraded"] == ["ensemble_late"]


@pytest.mark.parametrize(
    ("requests", "field", "message"),
    [
        ([], "requests", "at least 1"),
        ([{"user_id": 1}] * (MAX_USERS + 1), "requests", "at most 64"),
        ([{"user_id": 1}, {"user_id": "7"}], "requests.1.user_id", "must be an integer"),
        ([{"user_id": 1}, {}], "requests.1.user_id", "is missing"),
        ([{"user_id": 1, "k": 1}], "requests.0.k", "is not a field of this request"),
        (
            [{"user_id": 1}, {"user_id": 1, "filters": {"item_year": []}}],
            "requests.1.filters.item_year",
            "empty",
        ),
        ([{"user_id": 1}, {"user_id": 1, "context": {"tab": 1}}], "requests.1.context.tab", "use one of"),
        ([{"user_id": 1, "after": "AAAA"}], "requests.0.after", "send `next`"),
        ([{"user_id": 1, "latency_budget_ms": 1}], "requests.0.latency_budget_ms", "must be above"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_wrong_field_is_named_with_its_place_before_anybody_is_answered(
    tmp_path: Path, requests: list[dict[str, Any]], field: str, message: str
) -> None:
    ensemble = FakeEnsemble()
    response = await many(make_app(tmp_path, ensemble), *requests)
    assert response.status_code == 422
    (wrong,) = response.json()["errors"]
    assert wrong["field"] == field
    assert message in wrong["message"]
    assert not ensemble.requests


async def test_what_the_ensemble_refuses_refuses_all(tmp_path: Path) -> None:
    error = StageError(ErrorCode.BAD_REQUEST, "request", "filters is too long: 3905, at most 2048")
    response = await many(make_app(tmp_path, FakeEnsemble(error)), {"user_id": 1}, {"user_id": 2})
    assert response.status_code == 400
    assert response.json()["detail"] == error.message


async def test_one_that_fails_ends_the_others_whom_nobody_hears(tmp_path: Path) -> None:
    class SlowForOthers(FakeEnsemble):
        ended = 0

        async def recommend(
            self, request: Any, deadline: Any, seed: int, quality: float = FULL_QUALITY
        ) -> Any:
            del deadline, seed, quality
            if request.user_id == 1:
                raise StageError(ErrorCode.BAD_REQUEST, "request", "no")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.ended += 1
                raise

    ensemble = SlowForOthers()
    asked = [{"user_id": user_id} for user_id in (2, 1, 3)]
    response = await many(make_app(tmp_path, ensemble), *asked)
    assert response.status_code == 400
    assert ensemble.ended == 2


async def test_each_slate_is_counted(tmp_path: Path) -> None:
    async with client_of(make_app(tmp_path)) as client:
        requests = [{"user_id": 7, "n": 1}, {"user_id": 8, "n": 1}, {"user_id": 7, "n": 1, "source": "batch"}]
        await client.post(MANY, json={"requests": requests})
        await client.post(MANY, json={"requests": [7]})
        text = (await client.get("/metrics")).text
    assert 'shortlist_requests_total{source="ensemble",status="200"} 2.0' in text
    assert 'shortlist_requests_total{source="popular",status="200"} 1.0' in text
    assert 'shortlist_requests_total{source="none",status="422"} 1.0' in text
    assert 'shortlist_request_seconds_count{route="/v1/recommendations/many"} 2.0' in text


async def test_who_asks_for_several_takes_the_room_of_several(tmp_path: Path) -> None:
    app = make_app(tmp_path, FakeEnsemble(wait_s=0.3), max_requests=AT_ONCE)
    users = [{"user_id": user, "n": 1} for user in range(AT_ONCE)]
    async with client_of(app) as client:
        several = asyncio.create_task(client.post(MANY, json={"requests": users}))
        await asyncio.sleep(0.1)
        one_more = await client.post("/v1/recommendations", json={"user_id": 7})
        assert one_more.status_code == 503
        assert (await several).status_code == 200
        assert (await client.post("/v1/recommendations", json={"user_id": 7})).status_code == 200
