"""A stored slate: when it is answered, what is taken out of it, and what it says of itself."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import httpx
import numpy as np
import pytest
import structlog

from contract.errors import ErrorCode, StageError
from contract.filters import Filters
from contract.slates import Degradation, Published, StoredSlate
from contract.tensors import PAD_ID
from service.failures import DependencyUnavailable
from service.slates.batch import SPARE
from tests.builders.gateway import (
    BUNDLE,
    RUN,
    SEEN,
    BrokenStore,
    FakeEnsemble,
    ask,
    card_of,
    client_of,
    make_app,
    make_store,
    make_stored,
)
from tests.builders.memory_store import MemoryStore
from tests.unit.gateway.test_ladder import counts

pytestmark = pytest.mark.anyio

DOWN = DependencyUnavailable("triton", "connection refused")
PUBLISHED = Published((RUN,))
DEEP = list(range(300, 350))


def ids(response: httpx.Response) -> list[int]:
    return [item["item_id"] for item in response.json()["items"]]


def store_of(slates: Mapping[int, StoredSlate], published: Published = PUBLISHED, **more: Any) -> MemoryStore:
    return make_store(published=published, slates=list(slates.items()), **more)


async def test_a_stored_slate_is_answered_outright_with_its_run_and_age_and_without_the_ensemble(
    tmp_path: Path,
) -> None:
    ensemble = FakeEnsemble()
    stored = make_stored(DEEP, bundle="synthetic-0")
    response = await ask(make_app(tmp_path, ensemble, store_of({9: stored})), user_id=9, n=3, source="batch")
    answer = response.json()
    assert response.status_code == 200
    assert (answer["source"], answer["degraded"]) == ("batch", [])
    assert ids(response) == [300, 301, 302]
    assert [item["score"] for item in answer["items"]] == stored.item_scores[:3].tolist()
    assert answer["items"][0]["item_title"] == card_of(300)["item_title"]
    assert (answer["run"], answer["bundle"]) == (RUN, "synthetic-0")
    assert 3600 <= answer["age_s"] < 3700
    made_at = datetime.fromisoformat(answer["made_at"])
    assert made_at.timestamp() == stored.made_at_ms / 1000
    assert set(answer["timings_ms"]) == {"batch", "display", "total"}
    assert not ensemble.requests


@pytest.mark.parametrize(("ahead_s", "age_s"), [(3600, 5400), (-3600, 0)])
async def test_a_clock_that_is_off_by_an_hour_keeps_the_slate_and_no_age_is_below_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: float, age_s: float
) -> None:
    """Half an hour ago a run ended by a right clock, and features were brought to Redis."""
    then_s = time.time() - ahead_s - 1800
    store = store_of({9: make_stored(DEEP, made_at_s=then_s)})
    monkeypatch.setattr(store, "materialized_at", AsyncMock(return_value=then_s))
    app = make_app(tmp_path, FakeEnsemble(DOWN), store)
    async with client_of(app) as client:
        answer = (await client.post("/v1/recommendations", json={"user_id": 9, "n": 2})).json()
        ages = counts((await client.get("/metrics")).text, "shortlist_features_age_seconds")
    assert (answer["source"], answer["degraded"]) == ("batch", ["ensemble_unavailable"])
    assert [item["item_id"] for item in answer["items"]] == [300, 301]
    assert age_s <= answer["age_s"] < age_s + 60
    assert [age_s <= age < age_s + 60 for age in ages.values()] == [True]


async def test_without_an_answer_of_the_ensemble_the_stored_slate_comes_before_the_popular_one(
    tmp_path: Path,
) -> None:
    app = make_app(tmp_path, FakeEnsemble(DOWN), store_of({9: make_stored(DEEP)}))
    answer = (await ask(app, user_id=9, n=2)).json()
    assert (answer["source"], answer["degraded"]) == ("batch", ["ensemble_unavailable"])
    assert answer["age_s"] >= 3600
    assert {"ensemble", "batch", "display", "total"} == set(answer["timings_ms"])


async def test_the_ensemble_is_asked_first_and_its_answer_has_no_age(tmp_path: Path) -> None:
    answer = (await ask(make_app(tmp_path, store=store_of({9: make_stored(DEEP)})), user_id=9)).json()
    assert answer["source"] == "ensemble"
    assert not {"run", "made_at", "age_s"} & set(answer)
    assert answer["bundle"] == BUNDLE


@pytest.mark.parametrize("published", [Published(()), PUBLISHED], ids=["nothing published", "no slate"])
async def test_a_user_without_a_slate_gets_the_popular_one_and_hears_of_it_only_where_it_was_asked_for(
    tmp_path: Path, published: Published
) -> None:
    app = make_app(tmp_path, FakeEnsemble(DOWN), store_of({1: make_stored(DEEP)}, published))
    outright = (await ask(app, user_id=9, n=2, source="batch")).json()
    assert (outright["source"], outright["degraded"]) == ("popular", ["batch_missing"])
    fallback = (await ask(app, user_id=9, n=2)).json()
    assert (fallback["source"], fallback["degraded"]) == ("popular", ["ensemble_unavailable"])
    for answer in (outright, fallback):
        assert len(answer["items"]) == 2
        assert not {"run", "made_at", "age_s"} & set(answer)


async def test_seen_unavailable_and_excluded_items_are_gone_and_those_behind_them_move_up(
    tmp_path: Path,
) -> None:
    assert SEEN[7] == [3, 1, 205]
    stored = make_stored([205, 300, 301, 3, 302, 303, 304])
    app = make_app(tmp_path, store=store_of({7: stored}, unavailable={301}))
    response = await ask(app, user_id=7, n=3, exclude_item_ids=[302], source="batch")
    assert ids(response) == [300, 303, 304]
    assert response.json()["degraded"] == []
    scores = dict(zip(stored.item_ids.tolist(), stored.item_scores.tolist(), strict=True))
    assert [item["score"] for item in response.json()["items"]] == [scores[i] for i in ids(response)]


async def test_n_is_met_from_the_depth_of_the_slate_however_much_of_its_top_is_gone(tmp_path: Path) -> None:
    app = make_app(tmp_path, store=store_of({9: make_stored(DEEP)}, unavailable=set(DEEP[:40])))
    response = await ask(app, user_id=9, n=10, source="batch")
    assert ids(response) == DEEP[40:]
    assert response.json()["degraded"] == []


async def test_short_is_said_of_this_answer_and_what_the_slate_lacked_is_kept(tmp_path: Path) -> None:
    slates = {
        9: make_stored(DEEP, [Degradation.SHORT, Degradation.UNKNOWN_USER]),
        8: make_stored(DEEP[:3], [Degradation.SCORE_CANDIDATES]),
    }
    app = make_app(tmp_path, store=store_of(slates))
    assert (await ask(app, user_id=9, n=5, source="batch")).json()["degraded"] == ["unknown_user"]
    everything_popular = list(range(200))
    short = (await ask(app, user_id=8, n=5, source="batch", exclude_item_ids=everything_popular)).json()
    assert short["degraded"] == ["short", "score_candidates"]
    assert len(short["items"]) == 3
    filled = (await ask(app, user_id=8, n=5, source="batch")).json()
    assert filled["degraded"] == ["score_candidates"]
    assert [item["source"] for item in filled["items"]] == ["batch"] * 3 + ["popular"] * 2


async def test_a_slate_of_which_nothing_is_left_counts_as_none(tmp_path: Path) -> None:
    app = make_app(tmp_path, store=store_of({9: make_stored([1, 2])}))
    answer = (await ask(app, user_id=9, n=2, exclude_item_ids=[1, 2], source="batch")).json()
    assert (answer["source"], answer["degraded"]) == ("popular", ["batch_missing"])


async def test_the_newest_run_of_the_lineage_that_holds_the_user_is_read(tmp_path: Path) -> None:
    slates = [
        (9, make_stored([1], run="old")),
        (6, make_stored([2], run="old")),
        (9, make_stored([3], run="new")),
    ]
    app = make_app(tmp_path, store=make_store(published=Published(("new", "old")), slates=slates))
    first = (await ask(app, user_id=9, n=1, source="batch")).json()
    second = (await ask(app, user_id=6, n=1, source="batch")).json()
    assert (first["run"], first["items"][0]["item_id"]) == ("new", 3)
    assert second["run"] == "old"


async def test_an_explanation_holds_the_whole_slate_and_the_rules(tmp_path: Path) -> None:
    stored = make_stored([3, 300, 301, 302, 303])
    app = make_app(tmp_path, store=store_of({7: stored}, unavailable={300, 303}))
    answer = (await ask(app, user_id=7, n=1, exclude_item_ids=[301, 3], source="batch", explain=True)).json()
    explained = [(one["item_id"], one["removed_by"], one["slate_rank"]) for one in answer["explain"]["items"]]
    assert explained == [
        (3, "seen", None),
        (300, "unavailable", None),
        (301, "excluded", None),
        (302, None, 1),
        (303, "unavailable", None),
    ]
    assert [one["retrieval_rank"] for one in answer["explain"]["items"]] == [1, 2, 3, 4, 5]
    assert answer["explain"]["removed"] == {"seen": 1, "unavailable": 2, "excluded": 1}
    assert answer["explain"]["items"][3]["item_title"] == "Item 302"


async def test_a_filter_is_never_broken_and_an_item_that_tells_nothing_is_left_out(tmp_path: Path) -> None:
    columns = {
        300: {"item_genre": {"drama"}, "item_year": {"1999"}},
        301: {"item_genre": {"crime"}, "item_year": {"1999"}},
        302: {"item_genre": {"drama", "crime"}, "item_year": {"2001"}},
    }
    stored = make_stored([300, 301, 302, 303])
    app = make_app(tmp_path, store=store_of({9: stored}, columns=columns))

    async def left(**filters: list[object]) -> list[int]:
        return ids(await ask(app, user_id=9, n=2, source="batch", filters=filters))

    assert await left(item_genre=["crime"]) == [301, 302]
    assert await left(item_genre=["drama"], item_year=[1999, 2000]) == [300]
    explained = (
        await ask(app, user_id=9, n=2, source="batch", filters={"item_year": [2001]}, explain=True)
    ).json()
    assert explained["explain"]["removed"] == {"filters": 3}


class Counting(MemoryStore):
    """Notes what availability is asked of."""

    def __init__(self, *stored: Any, **more: Any) -> None:
        super().__init__(*stored, **more)
        self.looked_at: list[list[int]] = []

    async def unavailable(self, item_ids: Sequence[int], timeout_s: float) -> set[int]:
        self.looked_at.append(list(item_ids))
        return await super().unavailable(item_ids, timeout_s)


@pytest.mark.parametrize(
    ("gone", "is_explained", "looks"),
    [
        ([], False, [DEEP[: 5 + SPARE]]),
        (DEEP[:SPARE], False, [DEEP[: 5 + SPARE]]),
        (DEEP[: SPARE + 1], False, [DEEP[: 5 + SPARE], DEEP[5 + SPARE :]]),
        (DEEP[:1], True, [DEEP]),
    ],
    ids=["none gone", "as many as are spare", "one more", "explained"],
)
async def test_availability_is_read_no_further_than_it_is_needed(
    tmp_path: Path, gone: list[int], is_explained: bool, looks: list[list[int]]
) -> None:
    store = Counting({}, {}, published=PUBLISHED, slates=[(9, make_stored(DEEP))], unavailable=gone)
    response = await ask(
        make_app(tmp_path, store=store), user_id=9, n=5, source="batch", explain=is_explained
    )
    assert ids(response) == DEEP[len(gone) : len(gone) + 5]
    assert store.looked_at == looks


class Failing(MemoryStore):
    """A Redis that stops answering, or answers nonsense, from some read on."""

    def __init__(self, fails: str, error: DependencyUnavailable) -> None:
        super().__init__({}, {}, PUBLISHED, [(9, make_stored(DEEP))])
        self.fails, self.error = fails, error

    async def published(self, timeout_s: float) -> Published:
        published: Published = self._told("published", await super().published(timeout_s))
        return published

    async def stored(self, *asked: Any) -> Any:
        return self._told("stored", await super().stored(*asked))

    async def unavailable(self, *asked: Any) -> Any:
        return self._told("unavailable", await super().unavailable(*asked))

    async def passing(self, item_ids: Sequence[int], filters: Filters, timeout_s: float) -> set[int]:
        passing: set[int] = self._told("passing", await super().passing(item_ids, filters, timeout_s))
        return passing

    def _told(self, name: str, value: Any) -> Any:
        if name == self.fails:
            raise self.error
        return value


LATE = DependencyUnavailable("redis", "no answer in time", is_late=True)
DAMAGED = DependencyUnavailable("redis", "slate:x:9: a stored slate of version 7, this reads 1")


@pytest.mark.parametrize("fails", ["published", "stored", "passing", "unavailable"])
@pytest.mark.parametrize(("error", "reason"), [(LATE, "batch_late"), (DAMAGED, "batch_unavailable")])
async def test_a_read_that_fails_is_answered_with_the_popular_slate_and_told(
    tmp_path: Path, fails: str, error: DependencyUnavailable, reason: str
) -> None:
    store = Failing(fails, error)
    app = make_app(tmp_path, FakeEnsemble(DOWN), store)
    filters = {"item_genre": ["drama"]} if fails == "passing" else {}
    outright = (await ask(app, user_id=9, n=2, source="batch", filters=filters)).json()
    assert (outright["source"], outright["degraded"][0]) == ("popular", reason)
    assert len(outright["items"]) == 2


async def test_where_nothing_is_known_to_be_published_nobody_misses_it_when_redis_fails(
    tmp_path: Path,
) -> None:
    app = make_app(tmp_path, FakeEnsemble(DOWN), BrokenStore())
    answer = (await ask(app, user_id=9, n=2)).json()
    assert answer["degraded"] == ["ensemble_unavailable", "seen"]
    outright = (await ask(app, user_id=9, n=2, source="batch")).json()
    assert outright["degraded"] == ["batch_unavailable", "seen"]


async def test_where_a_run_is_known_to_be_published_a_failing_redis_is_told(tmp_path: Path) -> None:
    store = Failing("nothing yet", LATE)
    app = make_app(tmp_path, FakeEnsemble(DOWN), store)
    async with client_of(app) as client:
        first = (await client.post("/v1/recommendations", json={"user_id": 9})).json()
        store.fails = "published"
        second = (await client.post("/v1/recommendations", json={"user_id": 9})).json()
    assert first["source"] == "batch"
    assert second["degraded"] == ["ensemble_unavailable", "batch_late"]


@pytest.mark.parametrize(
    "damage",
    [
        {"item_scores": np.full(3, np.nan, np.float32)},
        {"item_scores": np.array([0.5, 0.4, -np.inf], np.float32)},
        {"item_ids": np.array([1, 2, PAD_ID])},
        {"made_at_ms": 2**62},
        {"made_at_ms": -(2**62)},
    ],
    ids=["no number", "minus infinity", "padding", "beyond the years", "before them"],
)
async def test_a_slate_that_no_run_writes_is_not_served_and_is_logged(
    tmp_path: Path, damage: dict[str, Any]
) -> None:
    slate = replace(make_stored([1, 2, 3]), **damage)
    app = make_app(tmp_path, store=store_of({9: slate}))
    with structlog.testing.capture_logs() as lines:
        response = await ask(app, user_id=9, n=2, source="batch")
    assert response.status_code == 200
    assert response.json()["degraded"] == ["batch_unavailable"]
    assert [line["run"] for line in lines if line["event"] == "damaged"] == [RUN]


async def test_the_step_leaves_half_of_the_time_to_the_popular_slate(tmp_path: Path) -> None:
    class Timed(MemoryStore):
        timeouts: list[float] = []  # noqa: RUF012  (of one test)

        async def published(self, timeout_s: float) -> Published:
            self.timeouts.append(timeout_s)
            return await super().published(timeout_s)

    app = make_app(
        tmp_path, store=Timed({}, {}), latency_budget_ms=4000, reserve_ms=10, store_timeout_ms=60_000
    )
    await ask(app, user_id=9, source="batch")
    assert 1 < Timed.timeouts[0] <= 2


async def test_only_batch_may_be_asked_for_and_null_is_as_left_out(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    wrong = await ask(app, user_id=9, source="ensemble")
    assert wrong.status_code == 422
    assert wrong.json()["errors"] == [{"field": "source", "message": "must be 'batch'"}]
    assert (await ask(app, user_id=9, source=None)).json()["source"] == "ensemble"


async def test_a_wrong_request_is_refused_before_any_store_is_asked(tmp_path: Path) -> None:
    store = BrokenStore()
    async with client_of(make_app(tmp_path, store=store)) as client:
        before = store.calls
        body = {"user_id": 9, "source": "batch", "filters": {"item_colour": [1]}}
        assert (await client.post("/v1/recommendations", json=body)).status_code == 422
        assert store.calls == before


async def test_what_a_stage_refuses_is_not_hidden_by_a_stored_slate(tmp_path: Path) -> None:
    error = StageError(ErrorCode.BAD_REQUEST, "retrieve_candidates", "filters.item_year: 3000 is no year")
    app = make_app(tmp_path, FakeEnsemble(error), store_of({9: make_stored(DEEP)}))
    assert (await ask(app, user_id=9)).status_code == 400


async def test_outcomes_and_the_age_of_the_published_runs_are_metrics(tmp_path: Path) -> None:
    began = [time.strftime("%Y%m%d-%H%M%S", time.gmtime(time.time() - age)) for age in (60, 7200)]
    runs = tuple(f"{one}-{number:04x}" for number, one in enumerate(began))
    store = make_store(published=Published(runs), slates=[(9, make_stored(DEEP, run=runs[1]))])
    async with client_of(make_app(tmp_path, FakeEnsemble(DOWN), store)) as client:
        for body in ({"user_id": 9, "source": "batch"}, {"user_id": 8, "source": "batch"}, {"user_id": 8}):
            await client.post("/v1/recommendations", json=body)
        text = (await client.get("/metrics")).text
    steps = counts(text, "shortlist_steps_total")
    assert (steps["batch", "answered"], steps["batch", "missing"]) == (1, 2)
    ages = counts(text, "shortlist_batch_age_seconds")
    assert 60 <= ages["newest",] < 120
    assert 7200 <= ages["oldest",] < 7300
    assert counts(text, "shortlist_requests_total")["200", "batch"] == 1


async def test_the_age_is_read_for_the_metrics_even_where_nobody_asked_for_a_stored_slate(
    tmp_path: Path,
) -> None:
    async with client_of(make_app(tmp_path, store=make_store(published=Published((RUN,))))) as client:
        assert counts((await client.get("/metrics")).text, "shortlist_batch_age_seconds")["newest",] > 0
    for store in (make_store(), BrokenStore()):
        async with client_of(make_app(tmp_path, store=store)) as client:
            ages = counts((await client.get("/metrics")).text, "shortlist_batch_age_seconds")
            assert all(age != age for age in ages.values())  # NaN: there is none


async def test_the_log_line_names_the_run_and_the_age(tmp_path: Path) -> None:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        await ask(make_app(tmp_path, FakeEnsemble(DOWN), store_of({9: make_stored(DEEP)})), user_id=9, n=2)
    (line,) = (line for line in lines if line["event"] == "request")
    assert (line["source"], line["run"]) == ("batch", RUN)
    assert line["age_s"] >= 3600
    assert line["fallback"] == str(DOWN)
