"""An answer: the ensemble's slate, or the popular one, and what it says about itself."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from contract.errors import ErrorCode, StageError
from contract.tensors import StageName
from service.failures import DependencyUnavailable
from service.limits.shaper import SHARE, Shaper
from service.triton.tensors import seed_of
from tests.builders.gateway import (
    BUNDLE,
    SEEN,
    BrokenStore,
    FakeEnsemble,
    ask,
    card_of,
    client_of,
    make_app,
    make_store,
)
from tests.builders.memory_store import MemoryStore

pytestmark = pytest.mark.anyio

DOWN = DependencyUnavailable("triton", "connection refused")


def ids(response: httpx.Response) -> list[int]:
    return [item["item_id"] for item in response.json()["items"]]


async def test_the_ensembles_slate_comes_with_display_fields_and_stage_times(tmp_path: Path) -> None:
    response = await ask(make_app(tmp_path), user_id=7, n=3)
    answer = response.json()
    assert response.status_code == 200
    assert answer["source"] == "ensemble"
    assert answer["degraded"] == []
    assert answer["bundle"] == BUNDLE
    assert ids(response) == [208, 210, 212]
    assert answer["items"][0]["item_title"] == card_of(208)["item_title"]
    assert set(answer["timings_ms"]) == {*map(str, StageName), "ensemble", "display", "total"}
    assert "explain" not in answer


async def test_n_is_ten_unless_told(tmp_path: Path) -> None:
    assert len(ids(await ask(make_app(tmp_path), user_id=7))) == 10


async def test_a_slate_shorter_than_n_says_short(tmp_path: Path) -> None:
    everything_popular = list(range(200))
    response = await ask(make_app(tmp_path), user_id=7, n=100, exclude_item_ids=everything_popular)
    assert response.json()["degraded"] == ["short"]
    assert 0 < len(ids(response)) < 100


async def test_the_popular_list_fills_up_a_slate_that_would_be_short(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    answer = (await ask(app, user_id=7, n=100, exclude_item_ids=[5, 6], explain=True)).json()
    assert (answer["source"], answer["degraded"]) == ("ensemble", [])
    found = [item["item_id"] for item in answer["items"]]
    assert len(found) == len(set(found)) == 100
    assert not set(found) & {*SEEN[7], 5, 6}
    sources = [item["source"] for item in answer["items"]]
    own = sources.count("ensemble")
    assert sources == ["ensemble"] * own + ["popular"] * (100 - own)
    assert 0 < own < 100
    assert found[own:] == [i for i in range(200) if i not in {*SEEN[7], 5, 6}][: 100 - own]
    assert all(item["item_title"] for item in answer["items"])
    explained = {one["item_id"]: one for one in answer["explain"]["items"]}
    assert len(explained) == len(answer["explain"]["items"])
    for place, item in enumerate(answer["items"], 1):
        trace = explained[item["item_id"]]
        assert (trace["source"], trace["slate_rank"], trace["removed_by"]) == (item["source"], place, None)


async def test_what_fills_up_keeps_the_filters(tmp_path: Path) -> None:
    filters = {"item_genre_id": {"not": [0, None]}}
    answer = (await ask(make_app(tmp_path), user_id=7, n=60, filters=filters)).json()
    popular = [item["item_id"] for item in answer["items"] if item["source"] == "popular"]
    assert popular == [i for i in range(200) if i % 3 and i not in SEEN[7]][: len(popular)]
    assert len(answer["items"]) == 60


async def test_nothing_fills_up_while_it_is_not_known_what_was_seen(tmp_path: Path) -> None:
    answer = (await ask(make_app(tmp_path, store=BrokenStore()), user_id=7, n=100)).json()
    assert {item["source"] for item in answer["items"]} == {"ensemble"}
    assert answer["degraded"] == ["short", "display"]


async def test_an_unknown_user_is_answered_and_told(tmp_path: Path) -> None:
    response = await ask(make_app(tmp_path), user_id=2**62, n=3)
    assert response.status_code == 200
    assert response.json()["degraded"] == ["unknown_user"]


async def test_an_explanation_says_rank_scores_and_the_rule_that_removed(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    answer = (await ask(app, user_id=7, n=3, exclude_item_ids=[210], explain=True)).json()
    explained = {one["item_id"]: one for one in answer["explain"]["items"]}
    assert explained[210]["removed_by"] == "excluded"
    assert explained[210]["ranking_score"] is None
    first = explained[answer["items"][0]["item_id"]]
    assert (first["slate_rank"], first["ranking_rank"], first["retrieval_rank"]) == (1, 1, 2)
    assert first["ranking_score"] == answer["items"][0]["score"]
    assert first["item_title"] == answer["items"][0]["item_title"]
    assert answer["explain"]["removed"] == {"excluded": 1, "beyond_k": 4}


async def test_a_late_ensemble_is_answered_from_the_popular_list_within_the_budget(tmp_path: Path) -> None:
    app = make_app(tmp_path, FakeEnsemble(wait_s=30), latency_budget_ms=150, reserve_ms=100)
    answer = (await ask(app, user_id=9, n=4)).json()
    assert answer["source"] == "popular"
    assert answer["degraded"] == ["ensemble_late"]
    assert [item["item_id"] for item in answer["items"]] == [0, 1, 2, 3]
    assert {"ensemble", "popular", "total"} <= set(answer["timings_ms"])


async def test_a_request_may_ask_for_less_time_than_the_settings_give(tmp_path: Path) -> None:
    ensemble = FakeEnsemble()
    app = make_app(tmp_path, ensemble, latency_budget_ms=9000, reserve_ms=1000)
    async with client_of(app) as client:
        for budget in (None, 4000):
            body = {"user_id": 9, "latency_budget_ms": budget}
            assert (await client.post("/v1/recommendations", json=body)).status_code == 200
    whole, less = ensemble.deadlines[-2:]
    assert 0 < less <= 3 < whole <= 8


async def test_an_unreachable_ensemble_is_answered_without_seen_and_excluded_items(tmp_path: Path) -> None:
    response = await ask(make_app(tmp_path, FakeEnsemble(DOWN)), user_id=7, n=4, exclude_item_ids=[0, 4])
    assert response.json()["degraded"] == ["ensemble_unavailable"]
    assert SEEN[7][:2] == [3, 1]
    assert ids(response) == [2, 5, 6, 7]
    assert response.json()["items"][0]["item_title"] == "Item 2"


async def test_the_popular_slate_explains_itself_too(tmp_path: Path) -> None:
    app = make_app(tmp_path, FakeEnsemble(DOWN))
    answer = (await ask(app, user_id=7, n=2, exclude_item_ids=[0], explain=True)).json()
    assert answer["explain"]["removed"] == {"seen": 2, "excluded": 1}
    assert [one["slate_rank"] for one in answer["explain"]["items"][:5]] == [None, None, 1, None, 2]


async def test_with_redis_down_too_the_popular_slate_says_that_seen_items_may_be_in_it(
    tmp_path: Path,
) -> None:
    response = await ask(make_app(tmp_path, FakeEnsemble(DOWN), BrokenStore()), user_id=7, n=4)
    assert response.status_code == 200
    assert response.json()["degraded"] == ["ensemble_unavailable", "seen"]
    assert ids(response) == [0, 1, 2, 3]
    assert response.json()["items"][0]["item_title"] == "Item 0"  # the popular list holds its own


async def test_without_redis_display_fields_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    answer = (await ask(make_app(tmp_path, store=BrokenStore()), user_id=7, n=3)).json()
    assert answer["source"] == "ensemble"
    assert answer["degraded"] == ["display"]
    assert set(answer["items"][0]) == {"item_id", "score", "source"}


async def test_an_item_without_a_card_is_served_bare_and_that_is_said(tmp_path: Path) -> None:
    cards = {208: card_of(208)}
    answer = (await ask(make_app(tmp_path, store=MemoryStore({}, cards)), user_id=7, n=2)).json()
    assert answer["degraded"] == ["display"]
    assert [item.get("item_title") for item in answer["items"]] == ["Item 208", None]


async def test_cards_of_popular_items_need_no_redis(tmp_path: Path) -> None:
    store = BrokenStore()
    app = make_app(tmp_path, FakeEnsemble(), store)
    async with client_of(app) as client:
        before = store.calls
        found, is_complete = await app.state.router.served.champion.cards([0, 1], _far())
        assert (len(found), is_complete, store.calls) == (2, True, before)
        assert (await client.get("/healthz")).status_code == 200


async def test_more_requests_than_may_wait_get_the_popular_slate_at_once(tmp_path: Path) -> None:
    ensemble = FakeEnsemble(wait_s=1)
    app = make_app(tmp_path, ensemble, triton={"max_in_flight": 2})
    async with client_of(app) as client:
        posts = [client.post("/v1/recommendations", json={"user_id": 9, "n": 2}) for _ in range(5)]
        answers = [response.json() for response in await asyncio.gather(*posts)]
        again = (await client.post("/v1/recommendations", json={"user_id": 9, "n": 2})).json()
    assert sorted(answer["source"] for answer in answers) == ["ensemble"] * 2 + ["popular"] * 3
    busy = [answer for answer in answers if answer["source"] == "popular"]
    assert all(answer["degraded"] == ["ensemble_busy"] for answer in busy)
    assert again["source"] == "ensemble"  # those that were answered make room


async def test_busy_answers_leave_spaced_and_those_held_leave_room_for_other_requests(tmp_path: Path) -> None:
    budget: Any = {"latency_budget_ms": 600, "reserve_ms": 50}
    app = make_app(tmp_path, FakeEnsemble(wait_s=5), triton={"max_in_flight": 1}, max_requests=3, **budget)
    async with client_of(app) as client:
        app.state.router.served.champion.shaper = Shaper(rate=1)  # a gap that is longer than the budget
        waits = asyncio.create_task(client.post("/v1/recommendations", json={"user_id": 9}))
        await asyncio.sleep(0.05)
        first = (await client.post("/v1/recommendations", json={"user_id": 9})).json()
        began_s = time.monotonic()
        posts = [client.post("/v1/recommendations", json={"user_id": 9}) for _ in range(2)]
        held = [asyncio.create_task(post) for post in posts]
        await asyncio.sleep(0.05)
        seen = await client.get("/v1/users/7/seen")  # one waits, two are held, three may be in the process
        answers = [(await one).json() for one in held]
        took_s = time.monotonic() - began_s
        await waits
    assert [one["degraded"] for one in (first, *answers)] == [["ensemble_busy"]] * 3
    assert first["timings_ms"]["held"] < 5
    assert [one["timings_ms"]["total"] for one in answers] == pytest.approx([1000 * SHARE * 0.6] * 2, abs=1)
    assert took_s >= SHARE * 0.6
    assert seen.status_code == 200


async def test_a_stages_contract_error_is_a_500_and_not_hidden_by_the_fallback(tmp_path: Path) -> None:
    error = StageError(
        ErrorCode.CONTRACT, "score_candidates", "shape (1, 3), promised (1, 100): secret detail"
    )
    response = await ask(make_app(tmp_path, FakeEnsemble(error)), user_id=7)
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.json()["code"], response.json()["stage"]) == ("contract", "score_candidates")
    assert "secret" not in response.text


async def test_what_a_stage_calls_a_bad_request_is_the_callers_to_mend(tmp_path: Path) -> None:
    error = StageError(ErrorCode.BAD_REQUEST, "retrieve_candidates", "filters.item_year: 3000 is no year")
    response = await ask(make_app(tmp_path, FakeEnsemble(error)), user_id=7)
    assert response.status_code == 400
    assert response.json()["detail"] == "filters.item_year: 3000 is no year"


async def test_the_same_request_id_explores_with_the_same_seed(tmp_path: Path) -> None:
    ensemble = FakeEnsemble()
    async with client_of(make_app(tmp_path, ensemble)) as client:
        for request_id in ("a", "a", "b"):
            await client.post(
                "/v1/recommendations", json={"user_id": 7}, headers={"x-request-id": request_id}
            )
    first, second, third = ensemble.seeds[-3:]
    assert first == second == seed_of("a") != third
    assert 0 <= first < 2**63


async def test_a_stage_that_found_the_deadline_passed_is_late_rather_than_unavailable(tmp_path: Path) -> None:
    class Queued(FakeEnsemble):
        async def recommend(self, request: Any, deadline: Any, *rest: Any) -> Any:
            time.sleep(deadline.left_s())  # blocks, so that the gateway's own timer has no chance to be first
            return await super().recommend(request, deadline, *rest)

    ensemble = Queued(DependencyUnavailable("triton", "request: the deadline passed before it was run"))
    app = make_app(tmp_path, ensemble, latency_budget_ms=120, reserve_ms=100)
    assert (await ask(app, user_id=9)).json()["degraded"] == ["ensemble_late"]


async def test_an_explored_slate_is_logged_with_its_propensities(tmp_path: Path) -> None:
    class Exploring(FakeEnsemble):
        async def recommend(self, request: Any, deadline: Any, *rest: Any) -> Any:
            slate = await super().recommend(request, deadline, *rest)
            return replace(slate, propensities=[0.5] * len(slate.item_ids))

    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        explored = await ask(make_app(tmp_path, Exploring()), user_id=7, n=2)
        await ask(make_app(tmp_path), user_id=7, n=2)
    first, second = (line for line in lines if line["event"] == "request")
    assert first["propensities"] == [0.5, 0.5]
    assert first["item_ids"] == ids(explored)
    assert "propensities" not in second


@pytest.mark.parametrize(
    ("filters", "first", "degraded"),
    [
        ({"item_genre": ["drama"]}, [1, 4, 7], []),
        ({"item_genre_id": [2, 1]}, [1, 2, 4], []),
        ({"item_genre": ["drama"], "item_genre_id": [2]}, [], ["short"]),
        ({"item_year": [1999]}, [], ["filters", "short"]),  # no popular item tells its year
    ],
)
async def test_the_popular_slate_never_breaks_a_filter(
    tmp_path: Path, filters: dict[str, list[Any]], first: list[int], degraded: list[str]
) -> None:
    response = await ask(make_app(tmp_path, FakeEnsemble(DOWN)), user_id=9, n=3, filters=filters)
    assert ids(response) == first
    assert response.json()["degraded"] == ["ensemble_unavailable", *degraded]


def _far() -> Any:
    from service.limits.deadline import Deadline

    return Deadline.after(5)


async def test_what_is_not_available_is_in_no_popular_slate_nor_in_what_fills_up(tmp_path: Path) -> None:
    gone = set(range(0, 40, 2)) | {1, 3, 41}
    store = make_store({}, unavailable=gone)
    left = [item_id for item_id in range(200) if item_id not in gone]
    popular = await ask(make_app(tmp_path, FakeEnsemble(DOWN), store), user_id=9, n=30, explain=True)
    assert ids(popular) == left[:30]
    removed_by = {one["item_id"]: one["removed_by"] for one in popular.json()["explain"]["items"]}
    assert {removed_by[item_id] for item_id in gone if item_id < left[29]} == {"unavailable"}
    filled = (await ask(make_app(tmp_path, store=store), user_id=9, n=60)).json()
    assert filled["degraded"] == []
    assert len(filled["items"]) == 60
    assert not {item["item_id"] for item in filled["items"] if item["source"] == "popular"} & gone


async def test_where_availability_is_not_known_the_popular_slate_says_so(tmp_path: Path) -> None:
    class Half(MemoryStore):
        async def unavailable(self, *_: Any) -> set[int]:
            raise DOWN

    store = Half({9: [0, 1]}, {})
    answer = (await ask(make_app(tmp_path, FakeEnsemble(DOWN), store), user_id=9, n=3)).json()
    assert [item["item_id"] for item in answer["items"]] == [2, 3, 4]
    assert answer["degraded"] == ["ensemble_unavailable", "seen"]


async def test_what_was_not_available_when_redis_last_answered_stays_out_while_it_is_silent(
    tmp_path: Path,
) -> None:
    class Silenced(MemoryStore):
        is_silent = False

        async def unavailable(self, item_ids: Any, timeout_s: float) -> set[int]:
            if self.is_silent:
                raise DOWN
            return await super().unavailable(item_ids, timeout_s)

    gone = {0, 1}
    store = Silenced({}, {}, unavailable=gone)
    app = make_app(tmp_path, FakeEnsemble(DOWN), store)
    assert ids(await ask(app, user_id=9, n=3)) == [2, 3, 4]
    store.is_silent = True
    silent = await ask(app, user_id=9, n=3)
    assert ids(silent) == [2, 3, 4]
    assert silent.json()["degraded"] == ["ensemble_unavailable", "seen"]
    store.is_silent = False
    gone.clear()
    assert ids(await ask(app, user_id=9, n=3)) == [0, 1, 2], "what is available again comes back"
