"""Pages: the next items without repeats and without holes, and cursors that are refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from contract.tensors import MAX_EXCLUDED
from service.failures import DependencyUnavailable
from service.schemas import CURSOR_LENGTH, RecommendRequest
from service.slates.paging import LIFE_S, MAX_SHOWN, cursor_after, shown_before
from tests.builders.gateway import SEEN, FakeEnsemble, client_of, make_app

pytestmark = pytest.mark.anyio

RECOMMENDATIONS = "/v1/recommendations"


async def pages(app: Any, **body: Any) -> list[list[int]]:
    """Asks page after page, until there is no next one."""
    found: list[list[int]] = []
    after: dict[str, str] = {}
    async with client_of(app) as client:
        while True:
            response = await client.post(RECOMMENDATIONS, json=body | after)
            assert response.status_code == 200, response.text
            answer = response.json()
            found.append([item["item_id"] for item in answer["items"]])
            if answer["next"] is None:
                return found
            after = {"after": answer["next"]}


async def test_pages_show_everything_once(tmp_path: Path) -> None:
    found = await pages(make_app(tmp_path), user_id=7, n=10, exclude_item_ids=[40, 41])
    assert [len(page) for page in found[:-2]] == [10] * (len(found) - 2)
    assert found[-1] == []
    shown = [item_id for page in found for item_id in page]
    assert len(shown) == len(set(shown))
    popular, retrieved = set(range(200)), set(range(207, 232))
    assert set(shown) == (popular | retrieved) - {*SEEN[7], 40, 41}


async def test_a_page_may_be_of_another_length_and_from_another_step(tmp_path: Path) -> None:
    ensemble = FakeEnsemble()
    async with client_of(make_app(tmp_path, ensemble)) as client:
        first = (await client.post(RECOMMENDATIONS, json={"user_id": 7, "n": 4})).json()
        ensemble.fail = DependencyUnavailable("triton", "connection refused")
        body = {"user_id": 7, "n": 6, "after": first["next"], "explain": True}
        second = (await client.post(RECOMMENDATIONS, json=body)).json()
    assert (first["source"], second["source"]) == ("ensemble", "popular")
    assert len(second["items"]) == 6
    assert not {i["item_id"] for i in first["items"]} & {i["item_id"] for i in second["items"]}


async def test_filters_may_hold_numbers_beyond_64_bits(tmp_path: Path) -> None:
    found = await pages(make_app(tmp_path), user_id=7, n=100, filters={"item_price": {"lt": 10**30}})
    assert found[-1] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_id": 8}, "is not the cursor of such a request"),
        ({"filters": {"item_year": [1999]}}, "is not the cursor of such a request"),
        ({"context": {"context_tab": 1}}, "is not the cursor of such a request"),
        ({"source": "batch"}, "is not the cursor of such a request"),
        ({"after": "AAAA"}, "send `next` of the last answer as it is"),
        ({"after": "A"}, "send `next` of the last answer as it is"),
        ({"after": "not a cursor"}, "pattern"),
        ({"after": ""}, "pattern"),
    ],
    ids=str,
)
async def test_a_cursor_of_another_request_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    async with client_of(make_app(tmp_path)) as client:
        first = (await client.post(RECOMMENDATIONS, json={"user_id": 7})).json()
        body = {"user_id": 7, "after": first["next"]} | change
        response = await client.post(RECOMMENDATIONS, json=body)
    assert response.status_code == 422
    (wrong,) = response.json()["errors"]
    assert wrong["field"] == "after"
    assert message in wrong["message"]


def test_a_cursor_holds_what_was_shown_for_an_hour() -> None:
    request, now_s = RecommendRequest(user_id=7, filters={"item_year": {"gte": 1999}}), time.time()
    cursor = cursor_after(request, [3, 1, 2**63 - 1], now_s)
    again = request.model_copy(update={"after": cursor, "n": 50, "exclude_item_ids": [9], "explain": True})
    assert shown_before(again, now_s) == [3, 1, 2**63 - 1]
    assert shown_before(again, now_s + LIFE_S - 2) == [3, 1, 2**63 - 1]
    assert shown_before(again, now_s - LIFE_S) == [3, 1, 2**63 - 1], "a clock put back by an hour"
    with pytest.raises(ValueError, match="older than 3600 s: begin again without it"):
        shown_before(again, now_s + LIFE_S + 2)
    assert cursor is not None
    damaged = again.model_copy(update={"after": cursor[:-4] + "AAAA"})
    with pytest.raises(ValueError, match="is not the cursor"):
        shown_before(damaged, now_s)


def test_the_longest_cursor_is_within_the_bound_and_then_there_is_none() -> None:
    request = RecommendRequest(user_id=7)
    cursor = cursor_after(request, range(MAX_SHOWN), 0.0)
    assert cursor is not None
    assert len(cursor) <= CURSOR_LENGTH
    assert cursor_after(request, range(MAX_SHOWN + 1), 0.0) is None
    assert cursor_after(request, [], 0.0) is None


async def test_no_excluded_item_is_lost_however_many_were_shown(tmp_path: Path) -> None:
    ensemble = FakeEnsemble()
    excluded = list(range(10_000, 10_000 + MAX_EXCLUDED))
    request = RecommendRequest(user_id=7, exclude_item_ids=excluded)
    shown = range(20_000, 20_000 + MAX_SHOWN - 10)
    cursor = cursor_after(request, shown, time.time())
    async with client_of(make_app(tmp_path, ensemble)) as client:
        body = {"user_id": 7, "exclude_item_ids": excluded, "after": cursor}
        response = await client.post(RECOMMENDATIONS, json=body)
    assert response.status_code == 200, response.text
    assert ensemble.requests[-1].exclude_item_ids == [*excluded, *shown]
