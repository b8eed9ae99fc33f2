"""Ids that are text: callers send and get their own, whoever makes the slate, and numbers stay inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from contract.bundle import BundleError
from contract.ids import number_of_text
from contract.slates import Published
from service.failures import DependencyUnavailable
from service.http.layers import MANY
from service.variant import read_bundle
from tests.builders.gateway import (
    CATALOGUE,
    RECENT,
    RUN,
    TEXT_IDS,
    FakeEnsemble,
    ask,
    client_of,
    make_app,
    make_store,
    make_stored,
    make_text_app,
    text_of,
    write_bundle,
)

pytestmark = pytest.mark.anyio

USER = '\'; DROP "users" {*}:\u05d0 \U0001f600 /../%2F?#'
NUMBER = number_of_text(USER)
TEXTS = {text_of(item_id) for item_id in range(CATALOGUE)}


def own_ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


async def test_the_ensemble_is_asked_by_number_and_the_caller_is_answered_in_text(tmp_path: Path) -> None:
    ensemble = FakeEnsemble()
    app = make_text_app(tmp_path, ensemble)
    excluded = ["B1", text_of(3)]
    answer = (await ask(app, user_id=USER, n=5, exclude_item_ids=excluded, explain=True)).json()
    asked = ensemble.requests[-1]
    assert (asked.user_id, asked.exclude_item_ids) == (NUMBER, [number_of_text(text) for text in excluded])
    assert answer["user_id"] == USER
    assert len(own_ids(answer)) == 5
    assert set(own_ids(answer)) <= TEXTS
    assert all(text_of(int(item["item_title"].split()[1])) == item["item_id"] for item in answer["items"])
    assert {item["item_id"] for item in answer["explain"]["items"]} >= set(own_ids(answer))


async def test_stored_and_popular_slates_are_answered_in_text(tmp_path: Path) -> None:
    slates = [(NUMBER, make_stored([301, 302, 303, 10**12]))]
    store = make_store({NUMBER: [302]}, published=Published((RUN,)), slates=slates)
    app = make_text_app(tmp_path, FakeEnsemble(DependencyUnavailable("triton", "gone")), store)
    stored = (await ask(app, user_id=USER, n=4, explain=True)).json()
    assert stored["source"] == "batch"
    # Seen is left out, and what nobody can name; the popular list fills up.
    assert own_ids(stored) == [text_of(item_id) for item_id in (301, 303, 0, 1)]
    assert {item["item_id"] for item in stored["explain"]["items"]} <= TEXTS
    popular = (await ask(app, user_id="someone else", n=2)).json()
    assert popular["source"] == "popular"
    assert own_ids(popular) == [text_of(0), text_of(1)]


async def test_seen_takes_any_text_in_its_path_and_names_items(tmp_path: Path) -> None:
    app = make_text_app(tmp_path, store=make_store({NUMBER: [5, 10**12, 6]}))
    async with client_of(app) as client:
        response = await client.get(f"/v1/users/{quote(USER, safe='')}/seen", params={"limit": 2})
    body = response.json()
    assert (body["user_id"], body["total"]) == (USER, 3)
    assert own_ids(body) == [text_of(5), text_of(6)]


async def test_several_users_and_pages_speak_text(tmp_path: Path) -> None:
    async with client_of(make_text_app(tmp_path)) as client:
        requests = [{"user_id": USER, "n": 3}, {"user_id": "other", "n": 2, "exclude_item_ids": ["B1"]}]
        first = (await client.post(MANY, json={"requests": requests})).json()["answers"]
        assert [answer["user_id"] for answer in first] == [USER, "other"]
        page = {"user_id": USER, "n": 3, "after": first[0]["next"]}
        second = (await client.post(MANY, json={"requests": [page]})).json()["answers"][0]
        wrong = await client.post(MANY, json={"requests": [{"user_id": "a"}, {"user_id": 7}]})
    shown = own_ids(first[0]) + own_ids(second)
    assert len(shown) == len(set(shown)) == 6
    assert set(shown) <= TEXTS
    assert wrong.status_code == 422
    assert [one["field"] for one in wrong.json()["errors"]] == ["requests.1.user_id"]


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"user_id": 7}, "user_id", "must be a string: the ids of this bundle are text, send it in quotes"),
    ({"user_id": ""}, "user_id", "1 to 256 characters"),
    ({"user_id": "å" * 257}, "user_id", "this has 257"),
    ({"user_id": None}, "user_id", "must be a string"),
    ({"user_id": "a", "exclude_item_ids": ["b", 3]}, "exclude_item_ids.1", "must be a string"),
    ({"user_id": "a", "exclude_item_ids": "b"}, "exclude_item_ids", "must be a list"),
    ({"user_id": "a", "exclude_item_ids": ["b"] * 1025}, "exclude_item_ids", "at most 1024"),
    ({}, "user_id", "is missing"),
]


@pytest.mark.parametrize(("body", "field", "message"), WRONG)
async def test_an_id_of_the_wrong_kind_is_refused_with_the_remedy(
    tmp_path: Path, body: dict[str, Any], field: str, message: str
) -> None:
    response = await ask(make_text_app(tmp_path), **body)
    assert response.status_code == 422
    (wrong,) = response.json()["errors"]
    assert wrong["field"] == field
    assert message in wrong["message"]


@pytest.mark.parametrize("path", ["seven", "7.0", "9" * 5000, str(-(2**63)), "\u0667", "--7"])
async def test_a_path_that_names_no_user_of_a_bundle_with_numbers_is_refused(
    tmp_path: Path, path: str
) -> None:
    async with client_of(make_app(tmp_path)) as client:
        response = await client.get(f"/v1/users/{path}/seen")
        assert (await client.get("/v1/users/-7/seen")).json()["user_id"] == -7
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "user_id"


def test_the_description_says_what_ids_are(tmp_path: Path) -> None:
    document = make_text_app(tmp_path).openapi()
    fields = document["components"]["schemas"]["RecommendRequest"]["properties"]
    text = {"type": "string", "minLength": 1, "maxLength": 256}
    assert text.items() <= fields["user_id"].items()
    assert fields["exclude_item_ids"]["items"] == text
    (user,) = (
        parameter["schema"]
        for parameter in document["paths"]["/v1/users/{user_id}/seen"]["get"]["parameters"]
        if parameter["name"] == "user_id"
    )
    assert user["type"] == "string"
    assert document["components"]["schemas"]["Item"]["properties"]["item_id"]["type"] == "string"
    examples = document["components"]["schemas"]["RecommendRequest"]["examples"]
    assert {example["user_id"] for example in examples} == {"anna@example.org"}


async def test_the_bundle_says_what_ids_are(tmp_path: Path) -> None:
    async with client_of(make_text_app(tmp_path)) as client:
        bundle = (await client.get("/v1/bundle")).json()
        assert bundle["user_id_dtype"] == bundle["item_id_dtype"] == "string"
        assert bundle["sample_user_ids"] == TEXT_IDS["sample_user_ids"]
        features = bundle["user_features"]
    assert {features[name] for name in RECENT} == {"list[string]"}, "as callers write them"
    assert (features["user_age"], features["user_tags"]) == ("int64", "list[string]")


def test_texts_that_were_changed_are_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path, **TEXT_IDS)
    np.save(tmp_path / "item_texts.npy", np.zeros(3, np.uint8))
    with pytest.raises(BundleError, match=r"item_texts.npy: .* checksum differs"):
        read_bundle(tmp_path)
