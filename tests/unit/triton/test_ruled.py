"""Rules of the order on the whole chain: what a request and the settings ask is what the slate shows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from contract import bundle as files
from contract.bundle import BundleError, SourceSpec
from contract.rules.places import Mover, movers
from contract.slates import Degradation, degradations
from contract.tensors import PAD_ID
from ensemble.run.recommender import Recommender
from tests.builders.triton import World, make_recommender, make_request, slate

Answer = Any


def asked(recommender: Recommender, n: int = 5, **request: Any) -> Answer:
    (answer,) = recommender.answer([make_request(101, n=n, **request)])
    assert not isinstance(answer, Exception), answer
    return answer


def column(world: World, name: str) -> dict[int, Any]:
    rows = pq.read_table(world.folder / files.ITEM_TABLE_FILE).to_pylist()
    return {row["item_id"]: row[name] for row in rows}


def moved(answer: Answer) -> dict[int, list[Mover]]:
    ids, masks = answer["candidate_ids"][0].tolist(), answer["moved_by"][0].tolist()
    return {one: movers(mask) for one, mask in zip(ids, masks, strict=True) if mask}


def test_without_rules_nothing_is_moved(recommender: Recommender) -> None:
    answer = asked(recommender)
    assert moved(answer) == {}
    assert slate(asked(recommender, rules={"diversity": 0})) == slate(answer)


def test_what_is_buried_comes_last_and_what_is_boosted_first(world: World, recommender: Recommender) -> None:
    plain, brands = slate(asked(recommender, n=10)), column(world, "item_brand")
    brand = brands[plain[0]]
    assert brand is not None
    of_brand = [one for one in plain if brands[one] == brand]
    others = [one for one in plain if brands[one] != brand]
    assert others
    wanted = {"item_brand": [brand]}
    buried = asked(recommender, n=10, rules={"boosts": [{"filters": wanted, "times": 0}]})
    assert slate(buried) == others + of_brand
    boosted = asked(recommender, n=10, rules={"boosts": [{"filters": wanted, "times": 1e6}]})
    assert slate(boosted) == of_brand + others
    assert set(moved(buried)) <= set(of_brand)
    assert all(found == [Mover.BOOST] for found in moved(buried).values())


def test_a_pin_stands_at_its_place_though_it_was_not_retrieved(world: World) -> None:
    recommender = make_recommender(world, k=5, max_overfetch=0)
    plain = asked(recommender)
    snapshot, seen = recommender.stores.items.snapshot, world.seen[101]
    far = next(
        one
        for one in world.item_ids
        if one not in plain["retrieved_ids"][0]
        and one not in seen
        and snapshot.is_available[snapshot.rows_of(np.array([one]))[0]]
    )
    answer = asked(recommender, rules={"pins": [{"item_id": far, "place": 2}]})
    assert slate(answer) == [slate(plain)[0], far, *slate(plain)[1:4]]
    assert 0 <= answer["item_scores"][0][1] <= 1


@pytest.mark.parametrize("why", ["seen", "unavailable", "excluded", "filters", "unknown"])
def test_a_pin_that_may_not_be_shown_is_left_out(world: World, recommender: Recommender, why: str) -> None:
    plain = slate(asked(recommender))
    snapshot = recommender.stores.items.snapshot
    gone = [one for one, is_there in zip(world.item_ids, snapshot.is_available, strict=False) if not is_there]
    request: dict[str, Any] = {}
    if why == "filters":
        brands = column(world, "item_brand")
        request["filters"] = {"item_brand": {"not": [brands[plain[0]]]}}
    pinned = {
        "seen": world.seen[101][0],
        "unavailable": gone[0],
        "excluded": plain[0],
        "filters": plain[0],
        "unknown": 10**9,
    }[why]
    request |= {"excluded": [pinned]} if why == "excluded" else {}
    answer = asked(recommender, rules={"pins": [{"item_id": pinned, "place": 1}]}, **request)
    assert pinned not in slate(answer)
    assert slate(answer) == slate(asked(recommender, **request))


def test_a_cap_holds_in_every_window(world: World, recommender: Recommender) -> None:
    categories = column(world, "item_category")
    answer = asked(recommender, n=6, rules={"caps": [{"column": "item_category", "most": 1, "window": 2}]})
    categories_shown = [categories[one] for one in slate(answer)]
    assert all(a != b or a is None for a, b in pairwise(categories_shown))


def test_a_cap_that_nothing_keeps_is_broken_and_said_to_be(world: World, recommender: Recommender) -> None:
    categories = column(world, "item_category")
    one = next(value for value in categories.values() if value is not None)
    request: dict[str, Any] = {"n": 4, "filters": {"item_category": [one]}}
    cap = {"column": "item_category", "most": 1, "window": 3}
    answer = asked(recommender, rules={"caps": [cap]}, **request)
    assert slate(answer) == slate(asked(recommender, **request))
    assert len(slate(answer)) > 1
    assert Degradation.CAPS in degradations(int(answer["degraded"][0, 0]))


def test_a_share_is_given_to_what_it_is_for(world: World, recommender: Recommender) -> None:
    plain, categories = asked(recommender, n=10), column(world, "item_category")
    last = categories[slate(plain)[-1]]
    members = [one for one in slate(plain) if categories[one] == last]
    share = {"filters": {"item_category": [last]}, "share": 1.0}
    answer = asked(recommender, n=10, rules={"shares": [share]})
    assert slate(answer)[: len(members)] == members
    assert sorted(slate(answer)) == sorted(slate(plain))


def test_a_share_without_filters_is_that_of_the_items_of_a_source_of_new_ones(
    world: World, recommender: Recommender, tmp_path: Path
) -> None:
    new = slate(asked(recommender, n=10))[-1]
    spec = SourceSpec(name="new", kind="new", share=0.1, file="new.npy")
    bundle = recommender.bundle
    np.save(tmp_path / "new.npy", (bundle.item_ids == new).astype(np.float32))
    np.save(tmp_path / files.ITEM_IDS_FILE, bundle.item_ids)
    manifest = bundle.manifest.model_copy(update={"sources": (*bundle.manifest.sources, spec)})
    marked = replace(bundle, folder=tmp_path, manifest=manifest)
    assert np.flatnonzero(marked.is_new).tolist() == [world.item_ids.index(new)]
    order = make_recommender(world)
    order.offers.current = replace(order.offers.current, is_new=marked.is_new)
    assert slate(asked(order, n=5, rules={"shares": [{"share": 1.0}]}))[0] == new
    assert new not in slate(asked(recommender, n=5, rules={"shares": [{"share": 1.0}]}))


def test_diversity_makes_a_slate_less_like_itself(world: World, recommender: Recommender) -> None:
    def likeness(answer: Answer) -> float:
        places = [world.item_ids.index(one) for one in slate(answer)]
        vectors = recommender.bundle.item_vectors[places, :-1]
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return float((vectors @ vectors.T)[~np.eye(len(places), dtype=bool)].mean())

    plain = asked(recommender)
    diverse = asked(recommender, rules={"diversity": 0.9})
    assert likeness(diverse) < likeness(plain)
    assert slate(diverse)[0] == slate(plain)[0]
    assert any(Mover.DIVERSITY in found for found in moved(diverse).values())


def test_the_settings_rules_count_for_everybody_unless_a_request_says_not(world: World) -> None:
    caps = [{"column": "item_category", "most": 1, "window": 2}]
    ruled = make_recommender(world, order={"caps": caps, "diversity": "0.5"})
    plain = make_recommender(world)
    assert slate(asked(ruled)) == slate(asked(plain, rules={"caps": caps, "diversity": 0.5}))
    assert slate(asked(ruled, rules={"defaults": False})) == slate(asked(plain))
    assert slate(asked(ruled, rules={"diversity": 0})) == slate(asked(plain, rules={"caps": caps}))


def test_settings_that_the_bundle_does_not_know_end_the_start_in_one_line(world: World) -> None:
    with pytest.raises(BundleError, match=r"SHORTLIST_ORDER: caps.0.column: .* use one of item_brand"):
        make_recommender(world, order={"caps": [{"column": "brand", "most": 1, "window": 2}]})


@pytest.mark.parametrize(
    "rules",
    [
        {"pins": [{"item_id": 1, "place": 0}]},
        {"pins": [{"item_id": "one", "place": 1}]},
        {"caps": [{"column": "x", "most": 1, "window": 3}]},
        {"boosts": [{"filters": {"item_price": ["much"]}, "times": 2}]},
        {"more": 1},
    ],
)
def test_a_wrong_rule_is_refused_by_name_and_alone(recommender: Recommender, rules: dict[str, Any]) -> None:
    good = make_request(101)
    wrong, other = recommender.answer([make_request(101, rules=rules), good])
    assert "bad_request|request|rules." in str(wrong)
    assert slate(other) == slate(recommender.answer([good])[0])


def test_pages_go_on_where_the_last_one_ended(world: World) -> None:
    recommender = make_recommender(world, k=60)
    pinned = slate(asked(recommender, n=12))[-1]
    rules = {
        "caps": [{"column": "item_category", "most": 1, "window": 3}],
        "pins": [{"item_id": pinned, "place": 5}],
    }
    whole = slate(asked(recommender, n=8, rules=rules))
    assert whole[4] == pinned
    pages: list[int] = []
    for _ in range(4):
        pages += slate(asked(recommender, n=2, rules=rules, excluded=pages, shown=len(pages)))
    assert pages == whole


def test_a_user_s_slate_by_rules_does_not_depend_on_the_others(recommender: Recommender) -> None:
    rules = {"diversity": 0.4, "caps": [{"column": "item_tags", "most": 1, "window": 2}]}
    requests = [make_request(user, n=6, rules=rules if user % 2 else None) for user in range(100, 110)]
    together = [slate(answer) for answer in recommender.answer(requests)]
    assert together == [slate(recommender.answer([one])[0]) for one in requests]


def test_exploration_by_rules_is_drawn_in_proportion(world: World) -> None:
    rules = {"boosts": [{"filters": {"item_category": [0, 1, 2]}, "times": 3}], "diversity": 0.2}
    exploring = make_recommender(world, exploration_temperature=1.0)
    answers = [asked(exploring, n=2, seed=seed, rules=rules) for seed in range(1000)]
    chances = {slate(answer)[0]: float(answer["propensities"][0, 0]) for answer in answers}
    firsts = np.array([slate(answer)[0] for answer in answers])
    assert len(chances) > 2
    assert PAD_ID not in firsts
    for item, chance in chances.items():
        assert abs((firsts == item).mean() - chance) < 4 * np.sqrt(chance * (1 - chance) / 1000) + 1e-3
