"""What a request may say, and how a wrong one is told: by field, with the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.errors import WrongField
from contract.filters import check_filters
from contract.user_features import check_user_features
from service.schemas import Problem, SlateBody
from tests.builders.gateway import ask, client_of, make_app

pytestmark = pytest.mark.anyio

INT64 = 2**63


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({}, "user_id", "is missing"),
        ({"user_id": -INT64}, "user_id", f"greater than or equal to {1 - INT64}"),
        ({"user_id": INT64}, "user_id", "less than or equal to"),
        ({"user_id": 10**400}, "user_id", "must be"),
        ({"user_id": "7"}, "user_id", "must be an integer"),
        ({"user_id": 7.0}, "user_id", "must be an integer"),
        ({"user_id": True}, "user_id", "must be an integer"),
        ({"user_id": 7, "n": 0}, "n", "greater than or equal to 1"),
        ({"user_id": 7, "n": 101}, "n", "less than or equal to 100"),
        ({"user_id": 7, "k": 5}, "k", "is not a field of this request"),
        ({"user_id": 7, "explain": 1}, "explain", "must be"),
        ({"user_id": 7, "exclude_item_ids": 5}, "exclude_item_ids", "must be a list"),
        ({"user_id": 7, "exclude_item_ids": [1, -INT64]}, "exclude_item_ids.1", "greater than"),
        (
            {"user_id": 7, "exclude_item_ids": [1] * 1025},
            "exclude_item_ids",
            "must have at most 1024 items, not",
        ),
        ({"user_id": 7, "context": {"context_tab": "1"}}, "context.context_tab", "must be an integer"),
        ({"user_id": 7, "context": {"tab": 1}}, "context.tab", "use one of context_hour, context_tab"),
        ({"user_id": 7, "context": {"context_tab": -INT64}}, "context.context_tab", "greater than"),
        ({"user_id": 7, "filters": {"year": [1]}}, "filters.year", "use one of item_genre"),
        ({"user_id": 7, "filters": {"item_year": ["1999"]}}, "filters.item_year", "must list int64 values"),
        ({"user_id": 7, "filters": {"item_genre": [3]}}, "filters.item_genre", "must list string values"),
        ({"user_id": 7, "filters": {"item_year": []}}, "filters.item_year", "at least 1"),
        ({"user_id": 7, "filters": {"item_year": [1.5]}}, "filters.item_year", "must list int64 values"),
        (
            {"user_id": 7, "filters": {"item_year": 1999}},
            "filters.item_year",
            "must be a list of int64 values, or",
        ),
        (
            {"user_id": 7, "filters": {"item_year": None}},
            "filters.item_year",
            "must be a list of int64 values, or",
        ),
        (
            {"user_id": 7, "filters": {"item_year": {}}},
            "filters.item_year",
            "say any, gt, gte, lt, lte or not",
        ),
        (
            {"user_id": 7, "filters": {"item_year": {"min": 5}}},
            "filters.item_year.min",
            "use any, gt, gte, lt",
        ),
        (
            {"user_id": 7, "filters": {"item_genre": {"gte": "a"}}},
            "filters.item_genre.gte",
            "list the values",
        ),
        ({"user_id": 7, "filters": {"item_genre": {"a": 1}}}, "filters.item_genre.a", "use any or not"),
        ({"user_id": 7, "filters": {"item_year": {"gte": "5"}}}, "filters.item_year.gte", "one finite int64"),
        ({"user_id": 7, "filters": {"item_year": {"gte": None}}}, "filters.item_year.gte", "None is none"),
        ({"user_id": 7, "filters": {"item_year": {"lt": 2**53}}}, "filters.item_year.lt", "9007199254740991"),
        (
            {"user_id": 7, "filters": {"item_price": {"lt": True}}},
            "filters.item_price.lt",
            "one finite float32",
        ),
        (
            {"user_id": 7, "filters": {"item_price": {"lt": 10**400}}},
            "filters.item_price.lt",
            "one finite float32",
        ),
        ({"user_id": 7, "filters": {"item_year": {"not": []}}}, "filters.item_year.not", "at least 1"),
        ({"user_id": 7, "filters": {"item_year": {"any": 5}}}, "filters.item_year.any", "must be a list"),
        (
            {"user_id": 7, "filters": {"item_year": {"not": {"not": [5]}}}},
            "filters.item_year.not.not",
            "use any, gt",
        ),
        ({"user_id": 7, "latency_budget_ms": 500}, "latency_budget_ms", "above 500"),
        ({"user_id": 7, "latency_budget_ms": 10001}, "latency_budget_ms", "at most 10000"),
    ],
)
async def test_a_wrong_field_is_named_with_the_remedy(
    tmp_path: Path, body: dict[str, Any], field: str, message: str
) -> None:
    response = await ask(make_app(tmp_path), **body)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate(response.json())
    assert problem.errors is not None
    assert [one.field for one in problem.errors] == [field]
    assert message in problem.errors[0].message
    assert field in problem.detail


@pytest.mark.parametrize(
    "body",
    [
        {"user_id": 0, "n": 1},
        {"user_id": 1 - INT64, "exclude_item_ids": [-1, 1 - INT64]},
        {"user_id": INT64 - 1, "n": 100},
        {"user_id": 7, "exclude_item_ids": [INT64 - 1] * 1024},
        {"user_id": 7, "context": {"context_tab": 1, "context_hour": 23}},
        {"user_id": 7, "filters": {"item_genre": ["drama", "crime"], "item_year": [1999]}},
        {"user_id": 7, "latency_budget_ms": 10000},
        {"user_id": 7, "filters": {"item_price": [1, 2.5, None]}},
        {"user_id": 7, "filters": {"item_price": {"gte": 5, "lt": 20.5, "not": {"any": [7], "gt": 6}}}},
        {"user_id": 7, "filters": {"item_year": {"gt": -(2**53) + 1, "any": [1999, None], "not": [2000]}}},
    ],
)
async def test_the_edges_of_what_is_allowed_are_answered(tmp_path: Path, body: dict[str, Any]) -> None:
    assert (await ask(make_app(tmp_path), **body)).status_code == 200


def test_a_value_that_is_too_deep_to_be_shown_is_refused_all_the_same() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for check in (check_filters, check_user_features):
        with pytest.raises(WrongField, match="a list of so many lists"):
            check({"c": [deep]}, {"c": "list[string]"})


async def test_filters_longer_than_the_widest_tensor_are_the_callers_to_shorten(tmp_path: Path) -> None:
    from service.triton.tensors import RequestRow
    from tests.builders.gateway import FakeEnsemble

    class Encoding(FakeEnsemble):
        async def recommend(self, request: SlateBody, deadline: Any, *rest: Any) -> Any:
            RequestRow.of(request, deadline, 0, 1.0)
            return await super().recommend(request, deadline, *rest)

    response = await ask(make_app(tmp_path, Encoding()), user_id=7, filters={"item_year": list(range(1000))})
    assert response.status_code == 400
    assert response.json()["detail"] == "filters is too long: 3905, at most 2048"


@pytest.mark.parametrize(
    ("content", "content_type", "status", "message"),
    [
        (b'{"user_id": 7', "application/json", 400, "not valid JSON near byte"),
        (b"\xff\xfe", "application/json", 400, ""),
        (b'{"user_id": 1' + b"0" * 5000 + b"}", "application/json", 400, "send one JSON object"),
        (b"[" * 60000, "application/json", 400, ""),
        (b'{"user_id": 7, "filters": {"item_price": [NaN]}}', "application/json", 422, "finite"),
        (b"[7]", "application/json", 422, "must be a JSON object"),
        (b'{"user_id": 7}', "text/plain", 415, "content-type: application/json"),
        (b"", "application/json", 422, "body"),
        (b" " * 65537, "application/json", 413, "send at most 65536 bytes"),
    ],
)
async def test_a_body_that_is_no_request_is_told_so(
    tmp_path: Path, content: bytes, content_type: str, status: int, message: str
) -> None:
    async with client_of(make_app(tmp_path)) as client:
        response = await client.post(
            "/v1/recommendations", content=content, headers={"content-type": content_type}
        )
    assert response.status_code == status
    assert message in Problem.model_validate(response.json()).detail


async def test_a_long_body_without_a_length_is_cut_off_too(tmp_path: Path) -> None:
    async def parts() -> Any:
        for _ in range(100):
            yield b" " * 1000

    async with client_of(make_app(tmp_path)) as client:
        response = await client.post(
            "/v1/recommendations", content=parts(), headers={"content-type": "application/json"}
        )
    assert response.status_code == 413


async def test_unknown_routes_and_methods_are_problem_documents(tmp_path: Path) -> None:
    async with client_of(make_app(tmp_path)) as client:
        nowhere = await client.get("/v2/recommendations")
        wrong_method = await client.get("/v1/recommendations")
        no_user = await client.get("/v1/users/me/seen")
    assert _told(nowhere) == (404, "/v2/recommendations does not exist here: see /docs for the routes")
    assert _told(wrong_method) == (405, "GET is not allowed here: see /docs for the methods")
    assert wrong_method.headers["allow"] == "POST"
    assert no_user.status_code == 422
    assert no_user.json()["errors"][0]["field"] == "user_id"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("OPTIONS", "/v1/users/7", {"GET", "DELETE"}),
        ("DELETE", "/v1/users/7/seen", {"GET"}),
        ("DELETE", "/v1/users/a/seen", {"GET"}),
        ("GET", "/v1/items/7", {"DELETE"}),
        ("POST", "/v1/items", {"PUT"}),
        ("POST", "/healthz", {"GET"}),
    ],
)
async def test_all_methods_of_a_path_are_told(
    tmp_path: Path, method: str, path: str, allowed: set[str]
) -> None:
    async with client_of(make_app(tmp_path)) as client:
        response = await client.request(method, path)
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == allowed


async def test_our_own_bugs_are_a_500_without_our_insides(tmp_path: Path) -> None:
    class Buggy:
        async def recommend(self, *_: Any) -> Any:
            raise RuntimeError("password=hunter2")

        async def check(self, *_: Any) -> str:
            return ""

    response = await ask(make_app(tmp_path, Buggy()), user_id=7)
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"] in response.json()["instance"]
    assert "hunter2" not in response.text
    assert "Traceback" not in response.text


@pytest.mark.parametrize("sane", ["a", "0f-9.A_z:1", "x" * 64])
async def test_a_sane_request_id_is_kept(tmp_path: Path, sane: str) -> None:
    response = await _with_id(tmp_path, sane.encode())
    assert response.headers["x-request-id"] == sane == response.json()["request_id"]


@pytest.mark.parametrize("odd", [b"", b"x" * 65, b"a b", b'"><script>', b"\xc3\xa9"])
async def test_an_odd_request_id_is_replaced(tmp_path: Path, odd: bytes) -> None:
    response = await _with_id(tmp_path, odd)
    assert len(response.headers["x-request-id"]) == 32
    assert response.headers["x-request-id"] == response.json()["request_id"]


async def test_stage_times_are_in_the_server_timing_header(tmp_path: Path) -> None:
    response = await ask(make_app(tmp_path), user_id=7)
    timings = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert {stage: float(ms) for stage, ms in timings.items()} == response.json()["timings_ms"]


async def _with_id(tmp_path: Path, request_id: bytes) -> httpx.Response:
    async with client_of(make_app(tmp_path)) as client:
        return await client.post(
            "/v1/recommendations", json={"user_id": 7}, headers=[(b"x-request-id", request_id)]
        )


def _told(response: httpx.Response) -> tuple[int, str]:
    problem = Problem.model_validate(response.json())
    assert problem.status == response.status_code
    return problem.status, problem.detail


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/v1/recommendations/", "/v1/recommendations"),
        ("/v1//recommendations", "/v1/recommendations"),
        ("//v1/bundle//", "/v1/bundle"),
        ("/v1/users/7/seen/", "/v1/users/7/seen"),
        ("/docs/", "/docs"),
    ],
)
async def test_a_slash_too_many_is_told_and_leads_to_no_host_of_the_callers(
    tmp_path: Path, method: str, path: str, right: str
) -> None:
    async with client_of(make_app(tmp_path)) as client:
        url = httpx.URL("http://gateway").copy_with(raw_path=path.encode())
        response = await client.request(method, url, headers={"host": "evil.example"}, follow_redirects=False)
    assert response.status_code == 404
    assert "location" not in response.headers
    assert "evil" not in response.text
    assert response.json()["detail"].endswith(f": ask {right}, without the slash too many")
