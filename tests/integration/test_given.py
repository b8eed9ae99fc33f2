"""Items like another, and users whose features the request brings, with real servers behind the gateway."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from contract.item_to_item import ItemToItem
from tests.builders.world import World, ids_of

RECENT = "user_recent_item_ids"
STRANGER = 2**53 - 7


@pytest.fixture(scope="module")
def known_user(stack: World) -> int:
    return int(stack.manifest()["sample_user_ids"][0])


@pytest.fixture(scope="module")
def vectors(stack: World) -> dict[int, Any]:
    folder = Path(stack.settings.bundle)
    ids, found = np.load(folder / "item_ids.npy"), np.load(folder / "item_vectors.npy")
    return dict(zip(ids.tolist(), found[:, :-1], strict=True))


def similar(stack: World, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{stack.url}/v1/similar", json=body, timeout=30, trust_env=False)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def beside(stack: World, item_id: int) -> dict[int, float]:
    """What the bundle's tables add to the likeness with an item, by item."""
    folder, order = Path(stack.settings.bundle), stack.manifest()["order"]
    item_ids, more = np.load(folder / "item_ids.npy").tolist(), dict[int, float]()
    for source in stack.manifest()["sources"]:
        if source["of_items"]:
            weight = order["sources"].get(source["name"], 0.0) / (order["retrieval"] or 1.0)
            table, row = ItemToItem.load(folder / source["file"]), item_ids.index(item_id)
            for at, strength in zip(table.items[row].tolist(), table.weights[row].tolist(), strict=True):
                more[item_ids[at]] = more.get(item_ids[at], 0.0) + weight * float(strength)
    return more


def test_items_like_another_are_the_nearest_that_may_be_shown(
    stack: World, known_user: int, vectors: dict[int, Any]
) -> None:
    item_id = next(iter(vectors))
    answer = similar(stack, item_id=item_id, n=10, explain=True)
    assert (answer["source"], answer["degraded"], answer["item_id"]) == ("ensemble", [], item_id)
    cosine = {other: float(vector @ vectors[item_id]) for other, vector in vectors.items()}
    found = answer["explain"]["items"]
    gone = {one["item_id"] for one in found if one["removed_by"] == "unavailable"}
    nearest = sorted(cosine.keys() - gone - {item_id}, key=lambda other: -cosine[other])[:10]
    passing = {one["item_id"] for one in found if one["removed_by"] is None}
    assert set(nearest) <= passing
    likeness = cosine | {other: cosine[other] + more for other, more in beside(stack, item_id).items()}
    best = sorted(passing, key=lambda other: -likeness[other])[:10]
    scores = [item["score"] for item in answer["items"]]
    assert scores == pytest.approx([likeness[other] for other in best], abs=1e-4)
    assert scores == pytest.approx([likeness[other] for other in ids_of(answer)], abs=1e-4)
    sources = {source["name"] for source in stack.manifest()["sources"] if source["kind"] == "nearest"}
    sources |= {source["name"] for source in stack.manifest()["sources"] if source["of_items"]}
    assert all(item["found_by"] and set(item["found_by"]) <= sources for item in answer["items"])
    for_user = similar(stack, item_id=item_id, n=100, user_id=known_user)
    seen = httpx.get(f"{stack.url}/v1/users/{known_user}/seen", params={"limit": 200}, trust_env=False).json()
    assert not {item["item_id"] for item in seen["items"]} & set(ids_of(for_user))


def test_an_item_that_the_bundle_does_not_know_is_told(stack: World) -> None:
    answer = similar(stack, item_id=10**9, n=5)
    assert (answer["source"], answer["degraded"], len(answer["items"])) == ("ensemble", ["unknown_item"], 5)


def test_a_session_is_answered_by_the_ensemble_from_what_it_brings(
    stack: World, vectors: dict[int, Any]
) -> None:
    first, other = (list(vectors)[start : start + 5] for start in (0, 100))
    one = stack.recommend(STRANGER, user_features={RECENT: first})
    two = stack.recommend(STRANGER, user_features={RECENT: other})
    assert (one["source"], one["degraded"]) == ("ensemble", ["user_features"])
    assert ids_of(one) != ids_of(two)
    assert not set(ids_of(one)) & set(first)
    nobody = stack.post(user_features={RECENT: first})
    assert nobody.status_code == 200, nobody.text
    assert ids_of(nobody.json()) == ids_of(one)
    columns = httpx.get(f"{stack.url}/v1/bundle", trust_env=False).json()["user_features"]
    whole = stack.recommend(STRANGER, user_features=dict.fromkeys(columns) | {RECENT: first})
    assert whole["degraded"] == []
    wrong = stack.post(user_id=STRANGER, user_features={RECENT: ["a"]})
    assert wrong.json()["errors"][0]["field"] == f"user_features.{RECENT}"


def test_all_kinds_at_once_share_calls_and_stay_what_they_are(
    stack: World, known_user: int, vectors: dict[int, Any]
) -> None:
    item_id = next(iter(vectors))
    alone = (
        ids_of(stack.recommend(known_user)),
        ids_of(similar(stack, item_id=item_id)),
        ids_of(stack.recommend(STRANGER, user_features={RECENT: [item_id]})),
    )

    def ask(kind: int) -> list[int]:
        if kind == 0:
            return ids_of(stack.recommend(known_user))
        if kind == 1:
            return ids_of(similar(stack, item_id=item_id))
        return ids_of(stack.recommend(STRANGER, user_features={RECENT: [item_id]}))

    with ThreadPoolExecutor(12) as pool:
        kinds = [place % 3 for place in range(60)]
        for kind, found in zip(kinds, pool.map(ask, kinds), strict=True):
            assert found == alone[kind]
