"""What a body may hold beyond its fields' types, and that the API's description says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.http.body import DEPTH
from service.schemas import INT64_MAX, Problem
from tests.builders.gateway import CONTEXT, ask, client_of, make_app

pytestmark = pytest.mark.anyio

RECOMMENDATIONS = "/v1/recommendations"


def _levels(value: Any) -> int:
    """Counts a value's levels; a number or a text is one."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 1 if inner is None else 1 + max(map(_levels, inner), default=0)


async def test_the_deepest_body_is_answered_and_the_table_of_limits_says_how_deep_it_is(
    tmp_path: Path,
) -> None:
    boost = {"filters": {"item_year": {"not": {"any": [1999]}}}, "times": 2}
    body = {"requests": [{"user_id": 7, "rules": {"boosts": [boost]}}]}
    async with client_of(make_app(tmp_path)) as client:
        response = await client.post(f"{RECOMMENDATIONS}/many", json=body)
    assert response.status_code == 200, response.text
    assert _levels(body) == DEPTH
    table = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    assert f"| nesting of JSON | {DEPTH} levels" in table


@pytest.mark.parametrize(("levels", "status"), [(100, 422), (2_000, 400)])
async def test_a_deeper_body_is_refused_by_its_field_or_where_it_cannot_be_read_whole(
    tmp_path: Path, levels: int, status: int
) -> None:
    content = b'{"user_id": 7, "x": ' + b"[" * levels + b"]" * levels + b"}"
    async with client_of(make_app(tmp_path)) as client:
        response = await client.post(
            RECOMMENDATIONS, content=content, headers={"content-type": "application/json"}
        )
    assert response.status_code == status


@pytest.mark.parametrize(
    ("content", "status", "field", "detail"),
    [
        (b'{"user_id": 7, "user_id": 8}', 422, "user_id", "is given twice: send it once"),
        (b'{"user_id": 7, "filters": {"item_year": [1], "item_year": [2]}}', 422, "item_year", "given twice"),
        ('{"user_id": 7}'.encode("utf-16"), 400, None, "is not UTF-8"),
        (b'{"user_id": 7, "n": \xff}', 400, None, "is not UTF-8"),
        (b'\xef\xbb\xbf{"user_id": 7}', 400, None, "is not valid JSON"),
        (b'{"user_id": 7, "filters": {"item_genre": ["\\ud800"]}}', 400, None, "half a character"),
        (b'{"user_id": 7, "\\ud800": 1}', 400, None, "half a character"),
        (b'{"user_id": 7, "filters": ' + b'{"a":' * 20000 + b"1" + b"}" * 20001, 413, None, "at most 65536"),
        (b'{"user_id": 7, "x": ' + b"[" * 20000 + b"]" * 20000 + b"}", 400, None, "send at most 11 levels"),
        (b'{"user_id": 7, "x": ' + b"[" * 50 + b"]" * 50 + b"}", 422, "x", "is not a field of this request"),
        (b'{"user_id": 7, "filters": {"item_year": [[1]]}}', 422, "filters.item_year", "must list int64"),
        (
            b'{"user_id": 7, "filters": {"item_year": [9223372036854775808]}}',
            422,
            "filters.item_year",
            "must list int64 values",
        ),
        (
            b'{"user_id": 7, "filters": {"item_price": [1%s]}}' % (b"0" * 400),
            422,
            "filters.item_price",
            "must list float32",
        ),
        (b'{"user_id": 7, "filters": {"item_price": [1e999]}}', 422, "filters.item_price", "finite"),
        (b'{"user_id": 7, "filters": {"item_price": [Infinity]}}', 422, "filters.item_price", "finite"),
        (b'{"user_id": 7, "filters": {"item_genre": [""]}}', 422, "filters.item_genre", "'' is not"),
        (b'{"user_id": NaN}', 422, "user_id", "must be an integer"),
        (b'{"user_id": -0.0}', 422, "user_id", "must be an integer"),
        (b"null", 422, "body", ""),
        (b"7", 422, "body", "must be a JSON object"),
        (b'{"user_id": 7} {"user_id": 8}', 400, None, "is not valid JSON"),
        (b'{"user_id": 7,}', 400, None, "is not valid JSON"),
        (b"{'user_id': 7}", 400, None, "is not valid JSON"),
    ],
)
async def test_what_parsers_disagree_on_is_refused_by_name(
    tmp_path: Path, content: bytes, status: int, field: str | None, detail: str
) -> None:
    async with client_of(make_app(tmp_path)) as client:
        response = await client.post(
            RECOMMENDATIONS, content=content, headers={"content-type": "application/json"}
        )
    problem = Problem.model_validate(response.json())
    assert (response.status_code, problem.status) == (status, status)
    assert detail in problem.detail
    assert [one.field for one in problem.errors or []] == ([field] if field else [])
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"filters": {"item_year": [1] * 1025}}, "filters.item_year", "at most 1024"),
        ({"filters": {f"c{i}": [1] for i in range(65)}}, "filters", "at most 64"),
        ({"context": {f"c{i}": 1 for i in range(65)}}, "context", "at most 64"),
        ({"filters": {"item_genre": ["x" * 257]}}, "filters.item_genre", "at most 256"),
        ({"latency_budget_ms": INT64_MAX}, "latency_budget_ms", "at most"),
    ],
)
async def test_lists_names_and_texts_are_bounded(
    tmp_path: Path, body: dict[str, Any], field: str, message: str
) -> None:
    response = await ask(make_app(tmp_path), user_id=7, **body)
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["field"] == field
    assert message in error["message"]


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "content-type: application/json"),
        ({"content-type": "application/x-www-form-urlencoded"}, "content-type: application/json"),
        ({"content-type": "application/jsonp"}, "content-type: application/json"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, "without content-encoding"),
    ],
)
async def test_another_kind_of_body_is_not_read(
    tmp_path: Path, headers: dict[str, str], message: str
) -> None:
    async with client_of(make_app(tmp_path)) as client:
        response = await client.post(RECOMMENDATIONS, content=b'{"user_id": 7}', headers=headers)
    assert response.status_code == 415
    assert response.headers["accept"] == "application/json"
    assert message in Problem.model_validate(response.json()).detail


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
async def test_json_may_be_named_in_several_ways(tmp_path: Path, kind: str) -> None:
    async with client_of(make_app(tmp_path)) as client:
        response = await client.post(
            RECOMMENDATIONS, content=b'{"user_id": 7}', headers={"content-type": kind}
        )
    assert response.status_code == 200


async def test_a_query_beside_the_body_is_refused_by_name(tmp_path: Path) -> None:
    async with client_of(make_app(tmp_path)) as client:
        response = await client.post(f"{RECOMMENDATIONS}?n=5", json={"user_id": 7})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "n"


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        ("limt=5", "limt", "is not a field of this request"),
        ("limit=0", "limit", "greater than or equal to 1"),
    ],
)
async def test_a_wrong_parameter_is_refused_by_name(
    tmp_path: Path, query: str, field: str, message: str
) -> None:
    async with client_of(make_app(tmp_path)) as client:
        assert (await client.get("/v1/users/7/seen?limit=1")).json()["items"][0]["item_id"] == 3
        response = await client.get(f"/v1/users/7/seen?{query}")
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["field"] == field
    assert message in error["message"]


async def test_refusals_are_counted_by_reason_and_as_requests(tmp_path: Path) -> None:
    async with client_of(make_app(tmp_path)) as client:
        await client.post(RECOMMENDATIONS, content=b"{", headers={"content-type": "application/json"})
        await client.post(RECOMMENDATIONS, content=b"{", headers={"content-type": "text/plain"})
        text = (await client.get("/metrics")).text
    assert 'shortlist_refused_total{reason="json"} 1.0' in text
    assert 'shortlist_refused_total{reason="content_type"} 1.0' in text
    assert 'shortlist_requests_total{source="none",status="400"} 1.0' in text
    assert 'shortlist_requests_total{source="none",status="415"} 1.0' in text


def test_the_description_names_what_this_bundle_and_these_settings_accept(tmp_path: Path) -> None:
    document = make_app(tmp_path).openapi()
    fields = document["components"]["schemas"]["RecommendRequest"]["properties"]
    assert set(fields["context"]["properties"]) == set(CONTEXT)
    assert fields["context"]["additionalProperties"] is False
    kinds, parts = {}, {}
    for name, column in fields["filters"]["properties"].items():
        values, asked = column["anyOf"]
        kinds[name] = {one["type"] for one in values["items"]["anyOf"]}
        parts[name] = set(asked["properties"])
    assert kinds == {
        "item_genre": {"string", "null"},
        "item_genre_id": {"integer", "null"},
        "item_year": {"integer", "null"},
        "item_price": {"number", "null"},
    }
    of_numbers = {"any", "gt", "gte", "lt", "lte", "not"}
    assert parts == {
        "item_genre": {"any", "not"},
        "item_genre_id": of_numbers,
        "item_year": of_numbers,
        "item_price": of_numbers,
    }
    assert fields["user_id"]["maximum"] == INT64_MAX
    budget = fields["latency_budget_ms"]["anyOf"][0]
    assert (budget["minimum"], budget["maximum"]) == (501, 10_000)


@pytest.mark.parametrize("has_keys", [True, False])
def test_the_description_asks_for_a_key_where_the_gateway_does(tmp_path: Path, has_keys: bool) -> None:
    keys = [{"caller": "web", "digest": "0" * 64}] if has_keys else []
    document = make_app(tmp_path, api_keys=keys).openapi()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path.startswith("/v1/"):
                assert operation["security"] == ([{"key": []}] if has_keys else [{}, {"key": []}])
                assert "401" in operation["responses"]
            else:
                assert "security" not in operation
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert json.loads(json.dumps(document)) == document
