"""Items like another, and users whose features the request brings: what is asked, answered and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from contract.ids import number_of_text
from contract.tensors import OPTIONAL_TENSORS, PAD_ID
from contract.user_features import FLOAT32_MAX, decode_user_features
from service.failures import DependencyUnavailable
from service.limits.deadline import Deadline
from service.own_ids import OwnIds
from service.schemas import RecommendRequest, SimilarRequest, SlateBody
from service.triton.tensors import RequestRow, encode_rows
from tests.builders.gateway import FakeEnsemble, ask, client_of, make_app

pytestmark = pytest.mark.anyio

RECENT = "user_recent_item_ids"
DOWN = DependencyUnavailable("triton", "connection refused")


async def similar(app: FastAPI, **body: Any) -> httpx.Response:
    async with client_of(app) as client:
        return await client.post("/v1/similar", json=body)


def row(request: SlateBody) -> RequestRow:
    return RequestRow.of(request, Deadline.after(5), seed=0, quality=1.0)


async def test_items_like_another_are_answered_like_a_recommendation(tmp_path: Path) -> None:
    ensemble = FakeEnsemble()
    response = await similar(make_app(tmp_path, ensemble), item_id=5, n=3, explain=True, exclude_item_ids=[6])
    answer = response.json()
    assert response.status_code == 200, response.text
    assert (answer["item_id"], answer["user_id"], answer["source"]) == (5, None, "ensemble")
    assert len(answer["items"]) == 3
    assert all(item["item_title"] for item in answer["items"])
    assert not {5, 6} & {item["item_id"] for item in answer["items"]}
    assert {item["ranking_score"] for item in answer["explain"]["items"]} == {None}
    assert "server-timing" in response.headers
    assert isinstance(ensemble.requests[-1], SimilarRequest)


async def test_without_the_ensemble_what_is_popular_and_never_the_item_itself(tmp_path: Path) -> None:
    app = make_app(tmp_path, FakeEnsemble(DOWN))
    answer = (await similar(app, item_id=0, n=5)).json()
    assert (answer["source"], answer["degraded"]) == ("popular", ["ensemble_unavailable"])
    assert [item["item_id"] for item in answer["items"]] == [1, 2, 3, 4, 5]
    unseen = (await similar(app, item_id=0, n=5, user_id=7)).json()
    assert [item["item_id"] for item in unseen["items"]] == [2, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({}, "item_id", "is missing"),
        ({"item_id": "5"}, "item_id", "must be an integer"),
        ({"item_id": 5, "context": {}}, "context", "is not a field"),
        ({"item_id": 5, "source": "batch"}, "source", "is not a field"),
        ({"item_id": 5, "filters": {"year": [1]}}, "filters.year", "use one of"),
        ({"item_id": 5, "exclude_item_ids": [1] * 1024}, "exclude_item_ids", "at most 1023"),
        ({"item_id": 5, "latency_budget_ms": 1}, "latency_budget_ms", "must be above"),
    ],
)
async def test_a_wrong_field_of_similar_is_named(
    tmp_path: Path, body: dict[str, Any], field: str, message: str
) -> None:
    response = await similar(make_app(tmp_path), **body)
    assert response.status_code == 422
    (wrong,) = response.json()["errors"]
    assert (wrong["field"], message in wrong["message"]) == (field, True)


async def test_a_session_is_answered_without_a_user(tmp_path: Path) -> None:
    ensemble = FakeEnsemble()
    answer = await ask(make_app(tmp_path, ensemble), user_features={RECENT: [4, 9], "user_age": None}, n=3)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["source"], answer.json()["user_id"]) == ("ensemble", None)
    assert ensemble.requests[-1].user_features == {RECENT: [4, 9], "user_age": None}


async def test_a_long_number_goes_from_page_to_page(tmp_path: Path) -> None:
    app = make_app(tmp_path, FakeEnsemble())
    given = {"user_rate": -295213341091315499045146498816786038784}
    first = (await ask(app, user_features=given, n=3)).json()
    second = (await ask(app, user_features=given, n=3, after=first["next"])).json()
    assert not {item["item_id"] for item in first["items"]} & {item["item_id"] for item in second["items"]}
    other = await ask(app, user_features={"user_rate": 1}, after=first["next"])
    assert other.json()["errors"][0]["field"] == "after"


async def test_items_like_another_have_pages(tmp_path: Path) -> None:
    app = make_app(tmp_path, FakeEnsemble())
    first = (await similar(app, item_id=5, n=3)).json()
    second = (await similar(app, item_id=5, n=3, after=first["next"])).json()
    assert len(second["items"]) == 3
    assert not {item["item_id"] for item in first["items"]} & {item["item_id"] for item in second["items"]}
    other = await similar(app, item_id=6, after=first["next"])
    assert other.json()["errors"][0]["field"] == "after"


def test_the_bounds_of_a_float_are_described_exactly(tmp_path: Path) -> None:
    fields = make_app(tmp_path).openapi()["components"]["schemas"]["RecommendRequest"]["properties"]
    schema = fields["user_features"]["properties"]["user_rate"]["anyOf"][0]
    assert (schema["minimum"], schema["maximum"]) == (-int(FLOAT32_MAX), int(FLOAT32_MAX))
    number = fields["user_features"]["properties"]["user_age"]["anyOf"][0]
    assert (number["minimum"], number["maximum"]) == (-(2**63) + 1, 2**63 - 1)


async def test_without_the_ensemble_a_session_gets_what_is_popular_and_new_to_it(tmp_path: Path) -> None:
    app = make_app(tmp_path, FakeEnsemble(DOWN))
    answer = (await ask(app, user_features={RECENT: [0, 2]}, n=3)).json()
    assert answer["source"] == "popular"
    assert [item["item_id"] for item in answer["items"]] == [1, 3, 4]


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"user_features": {}}, "user_id", "is missing: send it, or user_features"),
        ({"user_features": {"user_shoe": 44}}, "user_features.user_shoe", "use one of user_age, user_"),
        ({"user_features": {"user_age": "7"}}, "user_features.user_age", "must hold int64 values"),
        ({"user_features": {"user_age": {"a": 1}}}, "user_features.user_age", "must hold int64 values"),
        (
            {"user_features": {"user_rate": int(FLOAT32_MAX) + 1}},
            "user_features.user_rate",
            "must hold float32",
        ),
        ({"user_features": {"user_tags": ["a", 1]}}, "user_features.user_tags", "must hold string values: 1"),
        ({"user_features": {"user_tags": "a"}}, "user_features.user_tags", "must be a list"),
        ({"user_features": {RECENT: 4}}, f"user_features.{RECENT}", "must be a list"),
        ({"user_features": {RECENT: [2**64]}}, f"user_features.{RECENT}", "must hold int64 values"),
        ({"user_features": [1]}, "user_features", "must be an object"),
        ({"user_id": None}, "user_id", "must be an integer"),
        ({"user_id": PAD_ID}, "user_id", "greater than or equal"),
    ],
)
async def test_a_wrong_feature_is_named_with_the_remedy(
    tmp_path: Path, body: dict[str, Any], field: str, message: str
) -> None:
    response = await ask(make_app(tmp_path), **body)
    assert response.status_code == 422
    (wrong,) = response.json()["errors"]
    assert (wrong["field"], message in wrong["message"]) == (field, True)


def test_the_optional_tensors_are_sent_only_where_a_row_needs_them() -> None:
    names = {tensor.name for tensor in OPTIONAL_TENSORS}
    plain = row(RecommendRequest(user_id=7))
    given = row(RecommendRequest(user_features={"user_age": 3}))
    alike = row(SimilarRequest(item_id=5, exclude_item_ids=[6]))
    filtered = row(RecommendRequest(user_id=8, filters={"item_genre": ["a"]}, rules={"diversity": 0.5}))
    assert not names & encode_rows([plain, plain], ()).keys()
    tensors = encode_rows([plain, given, alike, filtered], ())
    assert names <= tensors.keys()
    assert tensors["user_id"].tolist() == [[7], [PAD_ID], [PAD_ID], [8]]
    assert tensors["like_item_id"].tolist() == [[PAD_ID], [PAD_ID], [5], [PAD_ID]]
    assert [set(ids) for ids in tensors["exclude_item_ids"].tolist()] == [
        {PAD_ID},
        {PAD_ID},
        {5, 6, PAD_ID},
        {PAD_ID},
    ]
    assert np.flatnonzero(tensors["filters"].any(axis=1)).tolist() == [3]
    assert np.flatnonzero(tensors["rules"].any(axis=1)).tolist() == [3]
    assert np.flatnonzero(tensors["user_features"].any(axis=1)).tolist() == [1]
    assert decode_user_features(tensors["user_features"][1], {"user_age": "int64"}) == {"user_age": 3}


def test_text_ids_become_numbers_wherever_they_stand() -> None:
    ids = OwnIds("string", "string", lambda number: str(number))
    body: dict[str, Any] = {"item_id": "a", "user_features": {RECENT: ["b", "c"], "user_tags": ["b"]}}
    texts = ids.number_body(body)
    assert body["item_id"] == number_of_text("a")
    assert body["user_features"] == {
        RECENT: [number_of_text("b"), number_of_text("c")],
        "user_tags": ["b"],
    }
    assert texts == {number_of_text("a"): "a"}
    request = SimilarRequest.model_validate({"item_id": body["item_id"]}).of_texts(texts)
    assert request.own(request.like_item_id) == "a"
    assert json.dumps(body)
