"""Rules of the order in the gateway: how they travel, and what they do to slates that it makes itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.bundle import BundleError
from contract.ids import number_of_text
from contract.rules.order_rules import RequestRules, check_rules, decode_rules
from contract.rules.places import BIT, Mover
from contract.slates import Published
from contract.tensors import PAD_ID
from service.failures import DependencyUnavailable
from service.limits.deadline import Deadline
from service.schemas import RecommendRequest, SimilarRequest
from service.triton.tensors import RequestRow, decode_slate
from tests.builders.gateway import (
    RUN,
    SEEN,
    FakeEnsemble,
    ask,
    client_of,
    make_app,
    make_outputs,
    make_store,
    make_stored,
    make_text_app,
    make_variant,
)
from tests.unit.gateway.test_stored import ids

pytestmark = pytest.mark.anyio

DOWN = DependencyUnavailable("triton", "connection refused")
COLUMNS = {"item_genre_id": "int64", "item_genre": "string"}
GENRES = {i: {"item_genre_id": frozenset({str(i % 3)})} for i in range(400)}


def down(folder: Path, **settings: Any) -> Any:
    return make_app(folder, FakeEnsemble(fail=DOWN), **settings)


async def test_the_popular_slate_keeps_caps_pins_and_burials(tmp_path: Path) -> None:
    plain = ids(await ask(down(tmp_path), user_id=7, n=6))
    assert plain == [0, 2, 4, 5, 6, 7]
    rules = {
        "boosts": [{"filters": {"item_genre_id": [0]}, "times": 0}],
        "pins": [{"item_id": 9, "place": 2}, {"item_id": 1, "place": 1}],
        "caps": [{"column": "item_genre_id", "most": 1, "window": 2}],
    }
    response = await ask(down(tmp_path), user_id=7, n=6, rules=rules, explain=True)
    assert ids(response) == [2, 9, 4, 5, 7, 8]  # 1 was seen, multiples of 3 are buried
    explain = response.json()["explain"]
    moves = {(one["item_id"], one["rule"]): (one["from_place"], one["to_place"]) for one in explain["moves"]}
    assert moves[9, "pin"] == (8, 2)
    assert moves[0, "boost"] == (1, None)
    assert {one["item_id"]: one["slate_rank"] for one in explain["items"]}[9] == 2


async def test_the_settings_rules_count_in_the_gateway_too(tmp_path: Path) -> None:
    caps = [{"column": "item_genre_id", "most": 1, "window": 3}]
    app = down(tmp_path, order={"caps": caps})
    assert ids(await ask(app, user_id=9, n=5)) == [0, 1, 2, 3, 4]
    found = ids(await ask(app, user_id=9, n=5, filters={"item_genre_id": [0, 1]}))
    assert len(found) == 5
    response = await ask(app, user_id=9, n=5, filters={"item_genre_id": [0]})
    assert "caps" in response.json()["degraded"]
    assert ids(response) == [0, 3, 6, 9, 12]
    unruled = await ask(app, user_id=9, n=5, filters={"item_genre_id": [0]}, rules={"defaults": False})
    assert "caps" not in unruled.json()["degraded"]


async def test_a_stored_slate_keeps_the_rules(tmp_path: Path) -> None:
    stored = {9: make_stored([300, 303, 306, 301, 304, 302])}
    store = make_store(published=Published((RUN,)), slates=list(stored.items()), columns=GENRES)
    app = make_app(tmp_path, FakeEnsemble(fail=DOWN), store)
    rules = {
        "caps": [{"column": "item_genre_id", "most": 1, "window": 2}],
        "pins": [{"item_id": 302, "place": 1}],
    }
    response = await ask(app, user_id=9, n=5, rules=rules, explain=True)
    assert response.json()["source"] == "batch"
    assert ids(response) == [302, 300, 301, 303, 304]
    assert [one["rule"] for one in response.json()["explain"]["moves"] if one["item_id"] == 302] == ["pin"]
    assert ids(await ask(app, user_id=9, n=5)) == [300, 303, 306, 301, 304]


async def test_what_fills_up_a_short_slate_goes_on_by_the_rules(tmp_path: Path) -> None:
    stored = {9: make_stored([302, 305])}
    store = make_store(published=Published((RUN,)), slates=list(stored.items()), columns=GENRES)
    app = make_app(tmp_path, FakeEnsemble(fail=DOWN), store)
    rules = {
        "pins": [{"item_id": 7, "place": 4}],
        "boosts": [{"filters": {"item_genre_id": [0]}, "times": 0}],
    }
    response = await ask(app, user_id=9, n=5, rules=rules, explain=True)
    assert ids(response) == [302, 305, 1, 7, 2]
    moves = {(one["item_id"], one["rule"]): one["to_place"] for one in response.json()["explain"]["moves"]}
    assert moves[7, "pin"] == 4


async def test_popular_pages_by_rules_are_one_list(tmp_path: Path) -> None:
    rules = {
        "caps": [{"column": "item_genre_id", "most": 1, "window": 2}],
        "pins": [{"item_id": 50, "place": 5}],
        "boosts": [{"filters": {"item_genre_id": [2]}, "times": 4}],
    }
    async with client_of(down(tmp_path)) as client:
        body = {"user_id": 9, "rules": rules}
        whole = (await client.post("/v1/recommendations", json=body | {"n": 9})).json()
        pages: list[int] = []
        after: dict[str, str] = {}
        for _ in range(3):
            page = (await client.post("/v1/recommendations", json=body | after | {"n": 3})).json()
            pages += [item["item_id"] for item in page["items"]]
            after = {"after": page["next"]}
        other = await client.post("/v1/recommendations", json={"user_id": 9, "n": 3} | after)
    assert pages == [item["item_id"] for item in whole["items"]]
    assert pages[4] == 50
    assert other.status_code == 422, "the cursor is of a request with rules"


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({"diversity": 2}, "rules.diversity"),
        ({"diversity": "0.5"}, "rules.diversity"),
        ({"caps": [{"column": "genre", "most": 1, "window": 2}]}, "rules.caps.0.column"),
        ({"caps": [{"column": "item_genre_id", "most": 2, "window": 2}]}, "rules.caps.0"),
        ({"boosts": [{"filters": {"genre": [1]}, "times": 2}]}, "rules.boosts.0.filters.genre"),
        ({"shares": [{"filters": {"item_year": ["x"]}, "share": 0.1}]}, "rules.shares.0.filters.item_year"),
        ({"pins": [{"item_id": "seven", "place": 1}]}, "rules.pins.0.item_id"),
        ({"pins": [{"item_id": False, "place": 1}]}, "rules.pins.0.item_id"),
        ({"pins": [{"item_id": 7, "place": 1}, {"item_id": 8, "place": 1}]}, "rules"),
        ({"boost": []}, "rules.boost"),
    ],
)
async def test_a_wrong_rule_is_refused_by_name(tmp_path: Path, rules: Any, field: str) -> None:
    response = await ask(make_app(tmp_path), user_id=7, rules=rules)
    assert response.status_code == 422
    assert field in json.dumps(response.json())


async def test_rules_travel_with_what_was_shown(tmp_path: Path) -> None:
    ensemble = FakeEnsemble()
    async with client_of(make_app(tmp_path, ensemble)) as client:
        body: dict[str, Any] = {"user_id": 7, "n": 3, "rules": {"diversity": 0.5}}
        first = (await client.post("/v1/recommendations", json=body)).json()
        await client.post("/v1/recommendations", json=body | {"after": first["next"]})
    rows = [RequestRow.of(one, Deadline(1e9), 0, 1.0).optional["rules"] for one in ensemble.requests]
    decoded = [decode_rules(one[0], COLUMNS, "int64") for one in rows]
    assert decoded == [(RequestRules(diversity=0.5), 0), (RequestRules(diversity=0.5), 3)]


def test_what_was_shown_is_excluded_last_so_that_rules_go_on_behind_it() -> None:
    request = SimilarRequest(item_id=5, exclude_item_ids=[1]).behind([8, 9])
    excluded = RequestRow.of(request, Deadline(1e9), 0, 1.0).optional["exclude_item_ids"][0]
    assert excluded[excluded != PAD_ID].tolist() == [5, 1, 8, 9]
    assert "rules" not in RequestRow.of(RecommendRequest(user_id=7), Deadline(1e9), 0, 1.0).optional


def test_the_ensemble_s_moves_are_told() -> None:
    outputs = make_outputs(7, 3, seen=SEEN[7])
    item_ids, candidates = outputs["item_ids"][0], outputs["candidate_ids"][0].tolist()
    outputs["plain_places"] = np.arange(1, len(candidates) + 1)[None]
    outputs["moved_by"][0, candidates.index(item_ids[1])] = BIT[Mover.CAP] | BIT[Mover.BOOST]
    outputs["moved_by"][0, len(candidates) - 1] = BIT[Mover.CAP]
    item_ids[2] = 77
    slate = decode_slate(outputs, 3, is_explained=True)
    moves = [(one.item_id, one.rule, one.from_place, one.to_place) for one in slate.moves]
    assert moves == [
        (item_ids[1], "boost", candidates.index(item_ids[1]) + 1, 2),
        (item_ids[1], "cap", candidates.index(item_ids[1]) + 1, 2),
        (77, "pin", None, 3),
        (candidates[-1], "cap", len(candidates), None),
    ]
    assert decode_slate(outputs, 3, is_explained=False).moves == []


async def test_pins_are_named_by_own_ids(tmp_path: Path) -> None:
    ensemble = FakeEnsemble()
    app = make_text_app(tmp_path, ensemble)
    await ask(app, user_id="a user", rules={"pins": [{"item_id": "B1", "place": 2}]})
    sent = RequestRow.of(ensemble.requests[-1], Deadline(1e9), 0, 1.0).optional["rules"][0]
    rules, _ = decode_rules(sent, COLUMNS, "string")
    assert check_rules(rules, COLUMNS, "string").pins == ((2, number_of_text("B1")),)
    wrong = await ask(app, user_id="a user", rules={"pins": [{"item_id": 20, "place": 1}]})
    assert wrong.status_code == 422
    assert "rules.pins.0.item_id" in wrong.text


def test_settings_that_the_bundle_does_not_know_end_the_start_in_one_line(tmp_path: Path) -> None:
    caps = [{"column": "genre", "most": 1, "window": 2}]
    with pytest.raises(BundleError, match=r"SHORTLIST_ORDER: caps.0.column: .* use one of item_genre"):
        make_variant(tmp_path, order={"caps": caps})
