"""Rules of the order, through the gateway and a real Triton."""

from __future__ import annotations

import pytest

from tests.builders.world import World, ids_of


@pytest.fixture(scope="module")
def user(stack: World) -> int:
    return int(stack.manifest()["sample_user_ids"][1])


def test_pins_and_burials_travel_to_triton_and_are_explained(stack: World, user: int) -> None:
    plain = stack.recommend(user, n=10, explain=True)
    assert plain["explain"]["moves"] == []
    last = ids_of(plain)[-1]
    rules = {"pins": [{"item_id": last, "place": 2}], "diversity": 0.3}
    answer = stack.recommend(user, n=10, rules=rules, explain=True)
    assert answer["source"] == "ensemble"
    assert ids_of(answer)[1] == last
    assert len(set(ids_of(answer))) == 10
    moves = {(one["item_id"], one["rule"]): one for one in answer["explain"]["moves"]}
    assert (moves[last, "pin"]["from_place"], moves[last, "pin"]["to_place"]) == (10, 2)
    assert any(rule == "diversity" for _, rule in moves)


def test_a_cap_holds_within_a_page_and_over_the_seam(stack: World, user: int) -> None:
    column, dtype = next(iter(stack.manifest()["filters"].items()))
    assert dtype
    rules = {"caps": [{"column": column, "most": 1, "window": 2}]}
    whole = stack.recommend(user, n=6, rules=rules)
    first = stack.recommend(user, n=3, rules=rules)
    second = stack.recommend(user, n=3, rules=rules, after=first["next"])
    assert ids_of(first) == ids_of(whole)[:3]
    assert not set(ids_of(first)) & set(ids_of(second))
    assert len(ids_of(second)) == 3
