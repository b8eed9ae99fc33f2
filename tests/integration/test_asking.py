"""Filters, pages and several users in one request, with real servers."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import redis

from contract.bundle import POPULAR_FILE
from contract.filters import has_range
from contract.keys import decode_seen, seen_key
from tests.builders.filters import is_met, listed
from tests.builders.world import World, ids_of


@pytest.fixture(scope="module")
def user(stack: World) -> int:
    return int(stack.manifest()["sample_user_ids"][1])


@pytest.fixture(scope="module")
def catalogue(stack: World) -> list[dict[str, Any]]:
    """Every available item with its columns: the world is small enough for the popular list to hold all."""
    popular = stack.var / "bundles" / "current" / POPULAR_FILE
    items: list[dict[str, Any]] = json.loads(popular.read_text())["items"]
    return items


@pytest.fixture(scope="module")
def seen(stack: World, redis_client: redis.Redis, user: int) -> set[int]:
    value = redis_client.get(seen_key(stack.manifest()["dataset"], user))
    assert isinstance(value, bytes)
    return set(decode_seen(value).tolist())


def test_every_slate_keeps_the_same_filters(
    stack: World, user: int, catalogue: list[dict[str, Any]], seen: set[int]
) -> None:
    for column, dtype in stack.manifest()["filters"].items():
        cells = {item["item_id"]: item[column] for item in catalogue if item["item_id"] not in seen}
        values = sorted({value for cell in cells.values() for value in listed(cell)})
        one = values[len(values) // 2]
        questions: list[Any] = [{"not": [one]}, [one, None], {"not": [None]}]
        if has_range(dtype):
            questions += [{"gte": one}, {"gt": values[0], "lt": one}, {"not": {"lte": one}}]
        for asked in questions:
            expected = {item_id for item_id, cell in cells.items() if is_met(cell, asked, dtype)}
            for more, source in (({}, "ensemble"), ({"source": "batch"}, "popular")):
                answer = stack.recommend(user, n=100, filters={column: asked}, **more)
                assert answer["source"] == source, (column, asked)
                assert set(ids_of(answer)) <= expected, (column, asked)
                assert len(ids_of(answer)) == min(100, len(expected)), (column, asked)


def test_pages_go_through_everything_once(
    stack: World, user: int, catalogue: list[dict[str, Any]], seen: set[int]
) -> None:
    shown: list[int] = []
    after: dict[str, str] = {}
    while True:
        answer = stack.recommend(user, n=30, **after)
        shown += ids_of(answer)
        if answer["next"] is None:
            break
        after = {"after": answer["next"]}
    assert answer["items"] == []
    assert len(shown) == len(set(shown))
    assert set(shown) == {item["item_id"] for item in catalogue} - seen


def test_several_users_get_what_each_gets_alone(stack: World) -> None:
    users = [int(user) for user in stack.manifest()["sample_user_ids"][:6]]
    requests = [{"user_id": user, "n": 10 + place} for place, user in enumerate(users)]
    response = httpx.post(
        f"{stack.url}/v1/recommendations/many", json={"requests": requests}, timeout=10.0, trust_env=False
    )
    assert response.status_code == 200, response.text
    answers = response.json()["answers"]
    assert [answer["user_id"] for answer in answers] == users
    for answer, request in zip(answers, requests, strict=True):
        assert answer["source"] == "ensemble"
        assert ids_of(answer) == ids_of(stack.recommend(**request))
